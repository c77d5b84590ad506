"""Arithmetic on the histograms of answers to `stats`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: A histogram of an answer, or what was made of some: `bounds_us` and `counts`.
Json = dict[str, object]


def percentile(histogram: Mapping[str, object], part: float) -> float | None:
    """The time in microseconds below which this part of the operations stayed; None: no operations.

    `histogram` is one of an answer, or the difference of two.
    """
    counts, bounds = _numbers(histogram["counts"]), _numbers(histogram["bounds_us"])
    total = sum(counts)
    if not total:
        return None
    wanted, seen, low = part * total, 0.0, 0.0
    for count, bound in zip(counts, bounds, strict=False):
        if seen + count >= wanted and count:
            return low + (bound - low) * (wanted - seen) / count
        seen, low = seen + count, bound
    return low


def _numbers(value: object) -> list[float]:
    assert isinstance(value, list)
    return [float(each) for each in value]


def difference(now: Mapping[str, object], before: Mapping[str, object]) -> Json:
    """What a histogram has now and had not before."""
    counts, old = _numbers(now["counts"]), _numbers(before["counts"])
    old += [0.0] * (len(counts) - len(old))
    return {
        "bounds_us": now["bounds_us"],
        "counts": [max(a - b, 0) for a, b in zip(counts, old, strict=False)],
    }


def total(histograms: Sequence[Mapping[str, object]]) -> Json:
    """Several histograms as one."""
    filled = [each for each in histograms if each["counts"]]
    counts = [sum(column) for column in zip(*(_numbers(h["counts"]) for h in filled), strict=True)]
    return {"bounds_us": filled[0]["bounds_us"] if filled else [], "counts": counts}
