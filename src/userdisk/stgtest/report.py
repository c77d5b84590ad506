"""What a run says: the progress line, the table at the end, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping

from userdisk.stgtest.meter import PERCENTILES, Meter

_COLUMNS = ("operation", "count", "per s", "MB/s", *(f"p{p:g}" for p in PERCENTILES), "max")


def progress_line(meter: Meter, seconds: float) -> str:
    """Counts, rates and latencies so far, in one line."""
    parts = [f"{meter.count} operations, {meter.count / (seconds or 1e-9):.0f}/s"]
    for row in meter.rows(seconds):
        latency = row["latency_us"]
        assert isinstance(latency, Mapping)
        parts.append(f"{row['operation']} p50 {latency['p50']} p99 {latency['p99']} us")
    return "; ".join(parts)


def table(meter: Meter, seconds: float) -> list[str]:
    """A line for each kind of operation; latencies in microseconds."""
    lines = [_COLUMNS]
    for row in meter.rows(seconds):
        latency, rate, size = row["latency_us"], row["per_second"], row["bytes_per_second"]
        assert isinstance(latency, Mapping)
        assert isinstance(rate, float)
        assert isinstance(size, int)
        lines.append(
            (
                str(row["operation"]),
                str(row["count"]),
                f"{rate:.0f}",
                f"{size / 1e6:.1f}",
                *(str(value) for value in latency.values()),
            )
        )
    widths = [max(len(line[index]) for line in lines) for index in range(len(_COLUMNS))]
    return [
        line[0].ljust(widths[0])
        + "".join(
            "  " + text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)
        )
        for line in lines
    ]


def as_json(facts: Mapping[str, object], meter: Meter, seconds: float) -> str:
    """All of it as one object."""
    whole = {**facts, "seconds": round(seconds, 6), "operations": meter.rows(seconds)}
    return json.dumps(whole, indent=2)
