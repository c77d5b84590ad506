"""The page's pure modules, in the browser: numbers for people, percentiles, rates, scales."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.console.browser import PROGRAM, Page, chromium_in
from tests.console.serving import console_in
from tests.kit.requires import requires
from userdisk.telemetry import histograms
from userdisk.timing import BOUNDS_US

pytestmark = requires(PROGRAM)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page, not logged in: its modules can be had."""
    folder = tmp_path_factory.mktemp("page")
    environment = {"USERDISK_RUN": str(folder / "run")}
    with console_in(folder, env=environment) as console, chromium_in(folder) as chromium:
        page = chromium.new_page()
        page.open(console.url.partition("#")[0])
        page.until_text("#login", "userdisk console")
        yield page


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("bytes(0)", "0 B"),
        ("bytes(1000)", "1000 B"),
        ("bytes(1024)", "1 KiB"),
        ("bytes(1536)", "1.50 KiB"),
        ("bytes(67108864)", "64 MiB"),
        ("bytes(1048575)", "1.00 MiB"),
        ("bytes(123456789)", "118 MiB"),
        ("bytes(2 ** 80)", "1048576 EiB"),
        ("bytes(null)", "–"),
        ("throughput(0)", "0 B/s"),
        ("throughput(1.2e9)", "1.12 GiB/s"),
        ("throughput(undefined)", "–"),
        ("count(0)", "0"),
        ("count(0.25)", "0.3"),
        ("count(9.96)", "10"),
        ("count(9999)", "9999"),
        ("count(12345)", "12.3k"),
        ("count(1234567)", "1.23M"),
        ("micros(0.4)", "0.40 µs"),
        ("micros(42)", "42 µs"),
        ("micros(999.9)", "1.00 ms"),
        ("micros(4200)", "4.20 ms"),
        ("micros(1250000)", "1.25 s"),
        ("micros(null)", "–"),
        ("duration(-1)", "0 s"),
        ("duration(59.9)", "59 s"),
        ("duration(61)", "1 min"),
        ("duration(7500)", "2 h 5 min"),
        ("duration(7200)", "2 h"),
        ("duration(90000)", "1 d 1 h"),
        ("moment(1767225600, 1767225661)", "00:00:00"),
        ("moment(1767225599, 1767225661)", "2025-12-31 23:59:59"),
    ],
)
def test_numbers_for_people(page: Page, call: str, text: str) -> None:
    assert page.module("format.js", f"m.{call}") == text


def _histogram(chance: random.Random) -> dict[str, Any]:
    counts = [chance.choice([0, 0, 0, chance.randrange(1000)]) for _ in range(len(BOUNDS_US) + 1)]
    return {"bounds_us": list(BOUNDS_US), "counts": counts}


def test_percentiles_are_those_of_userdisk_top(page: Page) -> None:
    chance = random.Random(6)
    empty: dict[str, Any] = {"bounds_us": [], "counts": []}
    given = [empty, *(_histogram(chance) for _ in range(40))]
    parts = [0.5, 0.99, 1.0]
    got = page.module(
        "stats.js", f"{json.dumps(given)}.map((h) => {parts}.map((p) => m.percentile(h, p)))"
    )
    wanted = [[histograms.percentile(each, part) for part in parts] for each in given]
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine == pytest.approx(theirs)


def test_differences_and_totals_are_those_of_userdisk_top(page: Page) -> None:
    chance = random.Random(7)
    empty: dict[str, Any] = {"bounds_us": [], "counts": []}
    some = [_histogram(chance) for _ in range(3)]
    got = page.module("stats.js", f"m.total({json.dumps([*some, empty])})")
    assert got == histograms.total([*some, empty])
    assert page.module("stats.js", "m.total([])") == histograms.total([])
    for now, before in [(some[0], some[1]), (some[0], empty), (empty, empty)]:
        got = page.module("stats.js", f"m.difference({json.dumps(now)}, {json.dumps(before)})")
        assert got == histograms.difference(now, before)


def _units(reads: int, writes: int = 0, slow: int = 0) -> dict[str, Any]:
    """Counters: reads of 4 KiB took 1.5 to 2 us, `slow` of them longer."""
    operations: dict[str, Any] = {}
    for name, count in [
        ("read", reads),
        ("write", writes),
        ("flush", 0),
        ("unmap", 0),
        ("zero", 0),
    ]:
        counts = [0] * (len(BOUNDS_US) + 1)
        if name == "read":
            counts[5], counts[20] = reads - slow, slow
        timed = {"bounds_us": list(BOUNDS_US), "counts": counts}
        operations[name] = {
            "count": count, "bytes": count * 4096, "errors": 0, "time": timed, "queue": timed,
        }  # fmt: skip
    initiators = [{"name": "a", "connections": 1}, {"name": "b", "connections": 0}]
    return {
        "u": {
            "size": 1 << 20, "used": 1 << 10, "operations": operations,
            "initiators": initiators, "last_errors": [],
        }
    }  # fmt: skip


def _history(page: Page, looks: list[tuple[float, Any]], expression: str) -> Any:
    """What a history says of itself (`h`) after these looks; null is a look that failed."""
    adds = "".join(
        f"h.add({at}, {json.dumps(units)});" if units else "h.miss();" for at, units in looks
    )
    body = f"(() => {{ const h = new m.History(); {adds} return {expression}; }})()"
    return page.module("history.js", body)


def test_rates_are_differences_by_time(page: Page) -> None:
    looks = [(10.0, _units(100)), (12.0, _units(500, 20)), (13.0, _units(500, 20))]
    samples = _history(page, looks, "h.samples")
    assert [each["at"] for each in samples] == [12.0, 13.0]
    first, second = samples
    assert (first["reads"], first["writes"], first["iops"]) == (200, 10, 210)
    assert (first["readBytes"], first["throughput"]) == (200 * 4096, 210 * 4096)
    assert 1 < first["p50"] <= first["p99"] <= BOUNDS_US[5]
    assert (second["iops"], second["p50"], second["p99"]) == (0, None, None)
    operations = _history(page, looks, "h.operations")
    assert operations["read"]["count"] == pytest.approx(400 / 3)
    assert _history(page, looks, "h.connected.map((i) => i.name)") == ["a"]
    assert _history(page, looks, "[h.now.size, h.now.used]") == [1 << 20, 1 << 10]


def test_slow_operations_are_in_p99_alone(page: Page) -> None:
    looks = [(0.5, _units(0)), (1.5, _units(1000, slow=20))]
    (sample,) = _history(page, looks, "h.samples")
    assert sample["p50"] < BOUNDS_US[5] < BOUNDS_US[19] < sample["p99"]


def test_a_process_that_began_anew_is_no_negative_rate(page: Page) -> None:
    looks = [(1.0, _units(1000)), (2.0, _units(1500)), (3.0, _units(10)), (4.0, _units(30))]
    assert [each["reads"] for each in _history(page, looks, "h.samples")] == [500, 20]


def test_nothing_is_said_of_a_pause(page: Page) -> None:
    looks = [(1.0, _units(0)), (2.0, _units(10)), (60.0, _units(99)), (61.0, _units(100))]
    assert [each["at"] for each in _history(page, looks, "h.samples")] == [2, 61]
    missed = [(1.0, _units(0)), (2.0, _units(9)), (2.5, None), (3.0, _units(50))]
    assert [each["at"] for each in _history(page, missed, "h.samples")] == [2]
    assert _history(page, missed, "h.operations") is None
    assert _history(page, looks, "h.latest(62).at") == 61
    assert _history(page, looks, "h.latest(70)") is None


def test_a_history_is_bounded(page: Page) -> None:
    units = json.dumps(_units(1))
    body = (
        "(() => { const h = new m.History();"
        f" for (let at = 0; at < 1000; at += 1) h.add(at, {units});"
        " return [h.samples.length, h.samples[0].at]; })()"
    )
    length, oldest = page.module("history.js", body)
    assert length <= 124 and oldest >= 870


@pytest.mark.parametrize(
    ("scale", "values", "ticks"),
    [
        ("linear(10, 10)", [], [0, 5, 10]),
        ("linear(10, 10)", [3, 11], [0, 10, 20]),
        ("linear(10, 10)", [2000], [0, 1000, 2000]),
        ("linear(10, 10)", [2001], [0, 2500, 5000]),
        ("linear(1024, 2)", [], [0, 512, 1024]),
        ("linear(1024, 2)", [5000], [0, 4096, 8192]),
        ("logarithmic(100)", [], [100, 1000, 10000]),
        ("logarithmic(100)", [20, 800], [10, 100, 1000]),
        ("logarithmic(100)", [0, 0.5, 2e6], [0.1, 10, 1000, 1e5, 1e7]),
    ],
)
def test_scales(page: Page, scale: str, values: list[float], ticks: list[float]) -> None:
    got = page.module("scales.js", f"m.{scale}({values}).ticks")
    assert got[: len(ticks)] == pytest.approx(ticks)
    heights = page.module("scales.js", f"[0, ...{values}, 1e12].map(m.{scale}({values}).height)")
    assert all(0 <= height <= 1 for height in heights)
    assert heights[0] == 0 and heights[-1] == 1
