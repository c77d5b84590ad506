"""Medians and ranges of rounds, ratios of what ran in the same round, and the tables of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.rows import Goal, Row

#: metric -> (heading, format)
METRICS = {
    "iops": ("ops/s", "{:,.0f}"),
    "mib_s": ("MiB/s", "{:,.0f}"),
    "p50_us": ("p50 us", "{:,.0f}"),
    "p99_us": ("p99 us", "{:,.0f}"),
    "server_cpu": ("server CPU s/M", "{:,.2f}"),
    "client_cpu": ("client CPU s/M", "{:,.2f}"),
    "start_s": ("start s", "{:.3f}"),
    "idle_mib": ("idle MiB", "{:.1f}"),
    "used_mib": ("used MiB", "{:.1f}"),
}

#: subject -> the figures of each round
Runs = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, and their range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def text(self, form: str) -> str:
        middle = form.format(self.median)
        low, high = form.format(self.low), form.format(self.high)
        return middle if low == high else f"{middle} ({low}-{high})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, and what came out. A ratio is the median of the ratios of each round."""

    row: str
    goal: Goal
    spread: Spread

    @property
    def met(self) -> bool | None:
        return self.goal.met(self.spread.median)

    def cells(self) -> list[str]:
        goal = self.goal
        heading, form = METRICS[goal.metric]
        who = goal.subject if goal.over is None else f"{goal.subject} / {goal.over}"
        value = self.spread.text(form if goal.over is None else "{:.2f}")
        bound = "-"
        if goal.at_least is not None:
            bound = f">= {goal.at_least:g}"
        elif goal.at_most is not None:
            bound = f"<= {goal.at_most:g}"
        met = {True: "met", False: "MISSED", None: ""}[self.met]
        return [self.row, heading, who, value, bound, met]


VERDICT_HEADINGS = ["row", "figure", "of", "value", "goal", ""]


def verdicts(row: Row, runs: Runs) -> list[Verdict]:
    """The goals of a row whose subjects were measured."""
    found = []
    for goal in row.goals:
        if goal.subject not in runs or (goal.over is not None and goal.over not in runs):
            continue
        values = [figures[goal.metric] for figures in runs[goal.subject]]
        if goal.over is not None:
            others = [figures[goal.metric] for figures in runs[goal.over]]
            # shorter where a run was cut off in the middle of a round
            values = [
                value / other if other else float("inf")
                for value, other in zip(values, others, strict=False)
            ]
        found.append(Verdict(row.key, goal, Spread.of(values)))
    return found


def figures_table(row: Row, runs: Runs) -> str:
    """The medians and ranges of a row."""
    lines = [["server", *(METRICS[column][0] for column in row.columns)]]
    for name, rounds in runs.items():
        cells = [name]
        for column in row.columns:
            values = [figures[column] for figures in rounds if column in figures]
            cells.append(Spread.of(values).text(METRICS[column][1]) if values else "-")
        lines.append(cells)
    return table(lines)


def noise(runs: Runs) -> float | None:
    """CPUs that everything else on the machine used, at worst."""
    values = [figures["others"] for rounds in runs.values() for figures in rounds
              if "others" in figures]  # fmt: skip
    return max(values) if values else None


def table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first line is the heading."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (lines[0], rule, *lines[1:])
    )
