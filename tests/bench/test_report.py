"""The statistics of the benchmark, and the consistency of its table of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from bench.measure import Clock, Meter, combined
from bench.report import METRICS, Spread, figures_table, noise, table, verdicts
from bench.rows import ROWS, Goal, Row, Start, Subject
from bench.run import main, missing
from bench.servers import KINDS, Kind, Setup

ROW = next(row for row in ROWS if row.key == "read-32")


def test_every_row_is_consistent() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)
    for row in ROWS:
        names = {subject.name for subject in row.subjects}
        assert len(names) == len(row.subjects)
        assert set(row.columns) <= set(METRICS)
        for goal in row.goals:
            assert goal.subject in names
            assert goal.over is None or goal.over in names
            assert goal.metric in row.columns
        for subject in row.subjects:
            assert isinstance(subject, Start) == (row.load is None)
            if not isinstance(subject, Start):
                assert subject.server in {*KINDS, "echo"}


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    # The machine was slow in the first round and fast in the last; the ratio was 4, 5 and 3.
    runs = {
        "userdisk": [
            {"iops": 40.0, "server_cpu": 1.0},
            {"iops": 500.0, "server_cpu": 1.0},
            {"iops": 3000.0, "server_cpu": 1.0},
        ],
        "tgt": [
            {"iops": 10.0, "server_cpu": 2.0},
            {"iops": 100.0, "server_cpu": 4.0},
            {"iops": 1000.0, "server_cpu": 5.0},
        ],
    }
    found = verdicts(ROW, runs)
    assert [(verdict.goal.metric, verdict.goal.over) for verdict in found] == [
        ("iops", "tgt"),
        ("server_cpu", "tgt"),
    ]  # and none against echo, which was not measured
    assert found[0].spread == Spread(4.0, 3.0, 5.0)
    assert found[0].met is True
    assert found[1].spread == Spread(0.25, 0.2, 0.5)
    assert found[0].cells() == [
        "read-32",
        "ops/s",
        "userdisk / tgt",
        "4.00 (3.00-5.00)",
        ">= 4",
        "met",
    ]


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal("iops", "a", "b", at_least=4), 3.99, False),
        (Goal("iops", "a", "b", at_least=4), 4.0, True),
        (Goal("start_s", "a", at_most=0.4), 0.41, False),
        (Goal("start_s", "a", at_most=0.4), 0.4, True),
        (Goal("p99_us", "a", "b"), 1.0, None),
    ],
)
def test_goals(goal: Goal, value: float, met: bool | None) -> None:
    assert goal.met(value) is met


def test_connections_side_by_side() -> None:
    one = {"iops": 100.0, "seconds": 2.0, "server_cpu_s": 1.0, "client_cpu_s": 0.2}
    one |= {"p50_us": 10.0, "p99_us": 50.0, "other_cpu_s": 1.0}
    other = one | {"iops": 300.0, "p50_us": 20.0, "p99_us": 40.0}
    figures = combined([one, other], 1 << 20)
    assert figures["iops"] == 400
    assert figures["mib_s"] == 400
    assert figures["p99_us"] == 50
    # Half a CPU in the server, which both clients saw; a tenth in each of the two clients.
    assert figures["server_cpu"] == pytest.approx(0.5 / 400 * 1e6)
    assert figures["client_cpu"] == pytest.approx(0.2 / 400 * 1e6)


def test_tables() -> None:
    runs = {"userdisk": [{"iops": 1234.5, "others": 0.1}, {"iops": 2000.0, "others": 0.7}]}
    row = Row("key", "title", None, (), (), ("iops", "p50_us"))
    assert figures_table(row, runs) == (
        "| server   | ops/s               | p50 us |\n"
        "| -------- | ------------------- | ------ |\n"
        "| userdisk | 1,617 (1,234-2,000) | -      |"
    )
    assert noise(runs) == 0.7
    assert table([["a"], ["bc"]]) == "| a  |\n| -- |\n| bc |"


def test_servers_end_when_no_row_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[str] = []

    @contextlib.contextmanager
    def start(kind: str, setup: Setup) -> Iterator[None]:
        running.append(kind)
        yield
        running.remove(kind)

    for kind in ("tgt", "nbdkit memory", "nbd-server"):
        monkeypatch.setitem(KINDS, kind, Kind(partial(start, kind)))
    monkeypatch.setattr("bench.measure.blkload", lambda *_: {})
    with Meter(Setup("python", tmp_path, 1 << 24), Clock(1, 1)) as meter:
        for kind in ("tgt", "nbdkit memory", "nbd-server"):
            meter.verify(Subject("any", kind))
        assert running == ["tgt", "nbdkit memory", "nbd-server"]
        meter.release({"nbdkit memory", "qemu-nbd"})
        assert running == ["nbdkit memory"]
        meter.verify(Subject("any", "tgt"))
        assert running == ["nbdkit memory", "tgt"]
    assert running == []


def test_what_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(KINDS, "qemu-nbd", replace(KINDS["qemu-nbd"], program="no-such-program"))
    monkeypatch.setitem(KINDS, "tgt", replace(KINDS["tgt"], program="sh"))
    assert missing(Subject("any", "qemu-nbd")) == "no-such-program"
    assert missing(Subject("any", "tgt")) is None
    assert missing(Start("tgt")) is None
    assert missing(Subject("any", "userdisk nbd")) is None
    assert missing(Subject("any", "echo")) is None


def test_wrong_options_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--rows", "read-32,nonsense"])
    assert caught.value.code == 2
    assert "no row 'nonsense'; the rows are read-32" in capsys.readouterr().err
    assert main(["--python", "/nowhere/python"]) == 1
    assert "bench: --python /nowhere/python: No such file" in capsys.readouterr().err
