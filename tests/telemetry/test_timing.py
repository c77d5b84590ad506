"""Which operations are timed, and what histograms say."""

from __future__ import annotations

import random
from bisect import bisect_right
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.link import Link, environment_of, target_of
from tests.kit.nbd_link import Link as NbdLink
from tests.kit.units import InlineRamUnit, RamUnit
from userdisk.counters import Counters, Tally
from userdisk.gate import Gate
from userdisk.nbd.wire import Command
from userdisk.operation import Kind, Operation
from userdisk.telemetry.histograms import difference, percentile, total
from userdisk.timing import BOUNDS_US, EVERY, Histogram, Sampler, Timing


class Clock:
    """Goes on by a microsecond with each look."""

    def __init__(self) -> None:
        self.now = 100.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        self.now += 1e-6
        return self.now


def _answer(histogram: Histogram) -> dict[str, object]:
    return {"bounds_us": list(BOUNDS_US), "counts": histogram.counts}


def test_bounds_grow_by_a_half_or_a_third() -> None:
    assert list(BOUNDS_US) == sorted(set(BOUNDS_US))
    for low, high in pairwise(BOUNDS_US[2:]):
        assert 1.3 < high / low <= 1.51
    assert BOUNDS_US[0] == 0.25 and BOUNDS_US[-1] > 20e6


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50), st.integers(1, 99))
def test_percentiles_are_in_the_bucket(seconds: list[float], percent: int) -> None:
    timing = Timing()
    for each in seconds:
        timing.add(0.0, 0.0, each, 1)
    found = percentile(_answer(timing.service), percent / 100)
    ordered = sorted(seconds)
    wanted = ordered[min(-(-len(ordered) * percent // 100) - 1, len(ordered) - 1)]
    place = bisect_right([bound / 1e6 for bound in BOUNDS_US], wanted)
    low, high = (0.0, *BOUNDS_US)[place], BOUNDS_US[place]
    assert found is not None
    assert low <= found * (1 + 1e-9) and found <= high * (1 + 1e-9)


def test_histograms_add_and_subtract() -> None:
    timing = Timing()
    timing.add(1.0, 1.5, 2.5, 3)
    before = {"bounds_us": list(BOUNDS_US), "counts": list(timing.service.counts)}
    other = Timing()
    other.add(0.0, 0.1, 0.2, 4)
    timing.merge(other)
    assert sum(timing.service.counts) == timing.accounted == 7
    assert timing.queue.seconds == pytest.approx(3 * 0.5 + 4 * 0.1)
    new = difference(_answer(timing.service), before)
    assert new["counts"] == other.service.counts
    assert total([new, before])["counts"] == timing.service.counts
    assert percentile(total([]), 0.5) is None
    empty: dict[str, object] = {"bounds_us": [], "counts": []}
    assert difference(_answer(timing.service), empty)["counts"] == timing.service.counts


@pytest.mark.parametrize("depth", [1, 3, 32, 200])
def test_one_in_so_many_is_timed(depth: int) -> None:
    """Over batches that have `depth` operations each, and all places in them are met."""
    sampler, counters = Sampler(Clock()), Counters()
    samples, places = 0, set()
    batches = 200 * EVERY // depth
    for batch in range(batches):
        if batch >= sampler.next:
            sampler.begin(batch)
            assert sampler.position < depth
            places.add(sampler.position)
            sampler.sample = Kind.READ, 1.0, 2.0
        counters.reads += depth
        if sampler.active:
            counters.take(sampler)
            samples += 1
    operations = depth * batches
    wanted = operations / max(EVERY, depth)
    assert wanted * 0.8 <= samples <= wanted * 1.2 + 3
    assert len(places) >= min(depth, 10)
    timing = counters.times[Kind.READ]
    assert operations - 2 * max(EVERY, depth) <= timing.accounted <= operations
    assert sum(timing.service.counts) == timing.accounted


def test_every_kind_is_accounted() -> None:
    """A timed operation stands for those of its own kind."""
    counters, sampler = Counters(), Sampler(Clock())
    for batch, (kind, name) in enumerate([(Kind.READ, "reads"), (Kind.WRITE, "writes")]):
        counters.reads += 10
        counters.writes += 30
        sampler.begin(batch)
        sampler.sample = kind, 1.0, 2.0
        counters.take(sampler)
        assert counters.times[kind].accounted == getattr(counters, name)


def test_an_operation_of_a_thread_counts_once() -> None:
    counters = Counters()
    for kind in (Kind.READ, Kind.WRITE, Kind.FLUSH, Kind.UNMAP, Kind.ZERO):
        operation = Operation(kind, 0, 8)
        operation.asked, operation.began, operation.ended = 1.0, 1.25, 1.75
        counters.done(operation, 4096)
        timing = counters.times[kind]
        assert counters.count(kind) == timing.accounted == 1
        assert (timing.queue.seconds, timing.service.seconds) == (0.25, 0.5)
    assert (counters.bytes(Kind.READ), counters.bytes(Kind.FLUSH)) == (4096, 0)
    counters.done(Operation(Kind.EXCLUSIVE), 0)  # is none of these


# -- on connections ----------------------------------------------------------------------------


def _timed(tally: Tally, gate: Gate, kind: Kind) -> Timing:
    return tally[gate].times[kind]


@pytest.mark.parametrize("unit_class", [InlineRamUnit, RamUnit])
def test_iscsi(unit_class: type[RamUnit]) -> None:
    """Histograms have about all operations, inline or not, and none twice."""
    clock = Clock()
    target = target_of(unit_class(block_count=1 << 12), unit_class(block_count=1 << 12))
    environment = environment_of(target)
    object.__setattr__(environment, "clock", clock)
    link = Link(environment).login()
    for lun in (0, 1):
        link.ready(lun=lun)
    rng = random.Random(1)
    for _ in range(120):
        for _ in range(rng.choice([1, 8, 60])):
            lba, lun = rng.randrange(1 << 12), rng.randrange(2)
            if rng.random() < 0.5:
                link.session.command(
                    b"\x28\0" + lba.to_bytes(4, "big") + b"\0\0\1\0", read_length=512, lun=lun
                )
            else:
                cdb = b"\x2a\0" + lba.to_bytes(4, "big") + b"\0\0\1\0"
                link.session.command(cdb, data_out=bytes(512), lun=lun)
        while link.session.tasks:
            link.pump()
            if link.session.tasks:
                link.end.wait()
    tally = link.end.connection.counters
    for lu in target.units:
        for kind in (Kind.READ, Kind.WRITE):
            count, timing = tally[lu.gate].count(kind), _timed(tally, lu.gate, kind)
            assert count > 500
            if unit_class is RamUnit:
                assert timing.accounted == count
            else:
                assert count * 0.4 <= timing.accounted <= count
                looks = timing.service.seconds
                assert looks > 0  # the clock went on meanwhile
            assert sum(timing.service.counts) == sum(timing.queue.counts) == timing.accounted
    if unit_class is InlineRamUnit:
        operations = sum(tally[lu.gate].count(kind) for lu in target.units for kind in (0, 1))
        assert clock.looks < operations / 6  # two and a bit for each one in 64, by batch
    link.end.disconnect()


def test_a_failed_operation_is_an_error_and_has_no_time() -> None:
    def fault(name: str, lba: int, blocks: int) -> None:
        if lba == 5:
            raise OSError(5, "broken")

    unit = InlineRamUnit(block_count=64)
    unit.fault = fault
    with NbdLink(unit) as link:
        for offset in (5 * 512, 6 * 512):
            link.do(Command.READ, offset, 512)
        counters = link.connection.counters[link.gate]
        assert counters.errors == [1, 0, 0, 0, 0]
        assert counters.reads == 1
        assert [what for _, what, _ in link.gate.last_errors] == ["read: [Errno 5] broken"]


@pytest.mark.parametrize("size", [512, 4096, 65536])
def test_nbd(size: int) -> None:
    with NbdLink(InlineRamUnit(block_count=1 << 12)) as link:
        clock = Clock()
        link.connection.sampler.clock = clock
        for number in range(1200):
            if number % 2:
                assert link.write(number % 16 * size, bytes(size)) == 0
            else:
                assert link.read(number % 16 * size, size) == bytes(size)
        counters = link.connection.counters[link.gate]
        for kind in (Kind.READ, Kind.WRITE):
            assert counters.count(kind) == 600
            assert 400 <= counters.times[kind].accounted <= 600
