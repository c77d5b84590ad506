"""Answers to `stats` as Prometheus reads them (text format 0.0.4). Pure.

Counters and histograms are of one initiator each: sum over `initiator` for the unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: The ends of buckets that are told, in microseconds: a disk has many histograms.
_TOLD: Final = tuple(float(1 << power) for power in range(25))


class _Family:
    """All samples of one name."""

    def __init__(self, name: str, kind: str, text: str) -> None:
        self.name = name
        self._head = [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        self._lines: list[str] = []

    def add(self, labels: Mapping[str, str], value: float, suffix: str = "") -> None:
        """Add a sample."""
        pairs = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        self._lines.append(f"{self.name}{suffix}{{{pairs}}} {_number(value)}")

    def histogram(self, labels: Mapping[str, str], found: Mapping[str, Any]) -> None:
        """Add a histogram of an answer; times become seconds."""
        counts, bounds = found["counts"], found["bounds_us"]
        if not counts:
            return
        seen, at = 0, 0
        for told in _TOLD:
            while at < len(bounds) and bounds[at] <= told:
                seen += counts[at]
                at += 1
            self.add({**labels, "le": _number(told / 1e6)}, seen, "_bucket")
        self.add({**labels, "le": "+Inf"}, sum(counts), "_bucket")
        self.add(labels, found["sum_us"] / 1e6, "_sum")
        self.add(labels, sum(counts), "_count")

    def text(self) -> Iterator[str]:
        """Its lines; none without a sample."""
        if self._lines:
            yield from self._head
            yield from self._lines


def render(answers: Iterable[tuple[Mapping[str, str], Mapping[str, Any]]]) -> str:
    """The page of some answers, each with the labels that tell it from the others."""
    families = {
        name: _Family(f"userdisk_{name}", kind, text) for name, (kind, text) in _FAMILIES.items()
    }
    for labels, answer in answers:
        families["start_time_seconds"].add(labels, answer["started"])
        families["accepted_connections_total"].add(labels, answer["connections"])
        for name, unit in answer["units"].items():
            _unit(families, {**labels, "unit": name}, unit)
    return "".join(f"{line}\n" for family in families.values() for line in family.text())


_FAMILIES: Final = {
    "start_time_seconds": ("gauge", "When the process began, in seconds since 1970."),
    "accepted_connections_total": ("counter", "Connections that were let in."),
    "unit_size_bytes": ("gauge", "Size of the disk."),
    "unit_used_bytes": ("gauge", "Storage that a thin disk uses."),
    "unit_connections": ("gauge", "Connections now, by protocol and initiator."),
    "operations_total": ("counter", "Operations of the unit that went well."),
    "operation_bytes_total": ("counter", "Bytes that were read and written."),
    "operation_errors_total": ("counter", "Operations of the unit that failed."),
    "operation_seconds": (
        "histogram",
        "Time that operations took in the unit; inline ones are sampled.",
    ),
    "queue_seconds": (
        "histogram",
        "Time from when an operation was asked for until it began; inline ones are sampled.",
    ),
    "last_error_time_seconds": ("gauge", "When the last operation failed, in seconds since 1970."),
}


def _unit(
    families: Mapping[str, _Family], labels: Mapping[str, str], unit: Mapping[str, Any]
) -> None:
    families["unit_size_bytes"].add(labels, unit["size"])
    if "used" in unit:
        families["unit_used_bytes"].add(labels, unit["used"])
    errors: Sequence[Mapping[str, Any]] = unit["last_errors"]
    if errors:
        families["last_error_time_seconds"].add(labels, errors[-1]["time"])
    for initiator in unit["initiators"]:
        whose = {
            **labels,
            "initiator": initiator["name"],
            "protocol": initiator["protocol"],
        }
        families["unit_connections"].add(whose, initiator["connections"])
        for operation, found in initiator["operations"].items():
            what = {**whose, "operation": operation}
            families["operations_total"].add(what, found["count"])
            families["operation_errors_total"].add(what, found["errors"])
            if operation in ("read", "write"):
                families["operation_bytes_total"].add(what, found["bytes"])
            families["operation_seconds"].histogram(what, found["time"])
            families["queue_seconds"].histogram(what, found["queue"])


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
