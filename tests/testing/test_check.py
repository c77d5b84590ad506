"""The contract suite itself: right units of every kind pass, and each fault is found and named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from userdisk import Buffer, Extent, HardwareError, Inline, MediumError, StorageUnit, UsageError
from userdisk.operation import Kind, Operation
from userdisk.testing import check_storage_unit
from userdisk.unit import Extents

_BLOCKS = 1024


class Good(StorageUnit):
    """A plain unit: serial, on a worker thread."""

    block_count = _BLOCKS
    max_transfer_length = 64 << 10

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.data = bytearray(self.parameters.size)

    def at(self, lba: int, blocks: int) -> slice:
        return slice(lba * self.block_length, (lba + blocks) * self.block_length)

    def count(self, data: memoryview) -> int:
        return len(data) // self.block_length

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return bytes(self.data[self.at(lba, blocks)])

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self.data[self.at(lba, self.count(data))] = data

    def flush(self) -> None:
        pass

    def unmap(self, extents: Extents) -> None:
        for lba, blocks in extents:
            self.data[self.at(lba, blocks)] = bytes(blocks * self.block_length)


class GoodInline(Good):
    inline = Inline.ALL


class GoodMixed(Good):
    inline = Inline.READ
    block_length = 4096


class GoodConcurrent(Good):
    concurrent = True
    workers = 4


class GoodLive(Good):
    inline = Inline.ALL
    live_reads = True

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return memoryview(self.data)[self.at(lba, blocks)]


class GoodMinimal(StorageUnit):
    """Ten lines: no flush, no unmap."""

    block_count = _BLOCKS

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray(self.parameters.size)

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return self.data[lba * 512 : (lba + blocks) * 512]

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self.data[lba * 512 : lba * 512 + len(data)] = data


class GoodAsync(Good):
    async def read(self, lba: int, blocks: int, fua: bool) -> Buffer:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().read(lba, blocks, fua)

    async def write(self, lba: int, data: memoryview, fua: bool) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().write(lba, data, fua)

    async def flush(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)


class GoodAsyncConcurrent(GoodAsync):
    concurrent = True


class GoodBatch(Good):
    largest = 0

    def batch(self, operations: Sequence[object]) -> None:
        self.largest = max(self.largest, len(operations))
        for operation in operations:
            assert isinstance(operation, Operation)
            operation.perform(self)


class GoodForgetful(Good):
    """After unmap anything may be there."""

    unmap_zeroes = False

    def unmap(self, extents: Extents) -> None:
        for lba, blocks in extents[::2]:
            self.data[self.at(lba, blocks)] = b"?" * (blocks * self.block_length)


class GoodExtents(Good):
    """Extents that are true, short and stop early."""

    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        for block in range(lba, min(lba + blocks, lba + 5)):
            data = any(self.data[self.at(block, 1)])
            yield Extent(block, 1, mapped=data, zero=not data)


class GoodReadOnly(Good):
    write_protected = True

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        raise AssertionError("a write-protected disk was written")


@pytest.mark.parametrize(
    "kind",
    [
        Good,
        GoodInline,
        GoodMixed,
        GoodConcurrent,
        GoodLive,
        GoodMinimal,
        GoodAsync,
        GoodAsyncConcurrent,
        GoodBatch,
        GoodForgetful,
        GoodExtents,
        GoodReadOnly,
    ],
    ids=lambda kind: kind.__name__,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_right_units_pass(kind: type[StorageUnit], seed: int) -> None:
    check_storage_unit(kind(), seed=seed, operations=200)


def test_batches_are_batches() -> None:
    unit = GoodBatch()
    check_storage_unit(unit, operations=10)
    assert unit.largest > 1


@pytest.mark.parametrize("block_count", [1, 2, 7, 4097])
def test_disks_of_any_size(block_count: int) -> None:
    check_storage_unit(GoodInline(block_count=block_count), operations=100)


# -- faults, each with words that its message must have ------------------------------------------


class KeepsTheView(Good):
    """Keeps what write was given, instead of a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.views: dict[int, memoryview] = {}

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        for n in range(self.count(data)):
            self.views[lba + n] = data[n * 512 : (n + 1) * 512]

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return b"".join(self.views.get(block, bytes(512)) for block in range(lba, lba + blocks))


class ShortRead(Good):
    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return bytes(super().read(lba, blocks, fua))[: 8 * 512]


class LongRead(Good):
    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return bytes(super().read(lba, blocks, fua)) + bytes(blocks & 1)


class ReadsAList(Good):
    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return list(bytes(blocks * 512))  # type: ignore[return-value]


class OffByOne(Good):
    """The last block of longer writes goes one too far."""

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        blocks = self.count(data)
        if blocks == 3:
            lba = min(lba + 1, self.block_count - blocks)
        self.data[self.at(lba, blocks)] = data


class UnmapsNeighbours(Good):
    """Rounds up to eight blocks."""

    def unmap(self, extents: Extents) -> None:
        super().unmap(
            [(lba, min(blocks + -blocks % 8, self.block_count - lba)) for lba, blocks in extents]
        )


class UnmapsTheFirst(Good):
    def unmap(self, extents: Extents) -> None:
        super().unmap(extents[:1])


class UnmapDoesNotZero(Good):
    def unmap(self, extents: Extents) -> None:
        pass


class ZeroesTooMuch(Good):
    def zero(self, lba: int, blocks: int, fua: bool) -> None:
        self.unmap([(0, lba + blocks)])


class IgnoresFua(Good):
    """Writes with FUA never arrive."""

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        if not fua:
            super().write(lba, data, fua)


class LosesWrites(Good):
    """Says `concurrent`, and reads, modifies and writes eight blocks at a time."""

    concurrent = True
    inline = Inline.ALL

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        if self.count(data) > 1:
            super().write(lba, data, fua)
            return
        first = lba & ~7
        eight = bytearray(self.data[self.at(first, 8)])
        time.sleep(0)
        eight[(lba - first) * 512 : (lba - first + 1) * 512] = data
        self.data[self.at(first, 8)] = eight


class LosesWritesAsync(GoodAsyncConcurrent):
    async def write(self, lba: int, data: memoryview, fua: bool) -> None:  # type: ignore[override]
        first = lba & ~7
        last = -(-(lba + self.count(data)) // 8) * 8
        all_of_it = bytearray(self.data[self.at(first, last - first)])
        for _ in range(3):
            await asyncio.sleep(0)
        all_of_it[(lba - first) * 512 : (lba - first) * 512 + len(data)] = data
        self.data[self.at(first, last - first)] = all_of_it


class ViewsChange(Good):
    """Returns views of live memory, and does not say so."""

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return memoryview(self.data)[self.at(lba, blocks)]


class SameBuffer(Good):
    """Returns the same buffer each time."""

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        self.buffer = getattr(self, "buffer", bytearray(1 << 20))
        self.buffer[: blocks * 512] = self.data[self.at(lba, blocks)]
        return memoryview(self.buffer)[: blocks * 512]


class UnsortedExtents(Good):
    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        half = blocks // 2
        yield Extent(lba + half, blocks - half)
        if half:
            yield Extent(lba, half)


class ExtentsWithGaps(Good):
    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        yield Extent(lba, 1)
        if blocks > 2:
            yield Extent(lba + 2, blocks - 2)


class NoExtents(Good):
    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        return []


class EmptyExtents(Good):
    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        return [Extent(lba, 0), Extent(lba, blocks)]


class ExtentsTooFar(Good):
    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        return [Extent(0, self.block_count)] if lba == 0 else [Extent(lba, blocks + 1)]


class ExtentsLie(Good):
    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        yield Extent(lba, blocks, mapped=False, zero=True)


class ExtentsOfPairs(Good):
    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        yield (lba, blocks)  # type: ignore[misc]


class WrapsAround(Good):
    """32-bit byte addresses."""

    block_count = 1 << 24

    def __init__(self) -> None:
        StorageUnit.__init__(self)
        self.blocks: dict[int, bytes] = {}

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return b"".join(
            self.blocks.get(block % (1 << 23), bytes(512)) for block in range(lba, lba + blocks)
        )

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        for n in range(self.count(data)):
            self.blocks[(lba + n) % (1 << 23)] = bytes(data[n * 512 : (n + 1) * 512])


class Raises(Good):
    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        if lba > 100:
            raise KeyError(lba)
        super().write(lba, data, fua)


class Fails(Good):
    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        if lba <= 700 < lba + blocks:
            raise MediumError("scratched", lba=700)
        return super().read(lba, blocks, fua)


class FlushFails(Good):
    def flush(self) -> None:
        raise OSError(5, "Input/output error")


class ReturnsALength(Good):
    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        super().write(lba, data, fua)
        return len(data)  # type: ignore[return-value]


class BatchForgets(Good):
    """Leaves out every fourth operation."""

    def batch(self, operations: Sequence[object]) -> None:
        for number, operation in enumerate(operations):
            assert isinstance(operation, Operation)
            if number % 4 != 3:
                operation.perform(self)


class BatchReverses(Good):
    """Gives the reads of a batch each other's data."""

    def batch(self, operations: Sequence[object]) -> None:
        last: Operation | None = None
        for operation in operations:
            assert isinstance(operation, Operation)
            operation.perform(self)
            if operation.kind is Kind.READ:
                if last is not None and last.blocks == operation.blocks:
                    last.result, operation.result = operation.result, last.result
                last = operation


class CloseFails(Good):
    def close(self) -> None:
        raise HardwareError("no")


class DataChanges(GoodReadOnly):
    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        self.reads = getattr(self, "reads", 0) + 1
        return bytes([self.reads & 255]) * (blocks * 512)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (KeepsTheView, "wrong data after the disk was written"),
        (ShortRead, "short answer"),
        (LongRead, "long answer"),
        (ReadsAList, "must return bytes, bytearray or memoryview, not list"),
        (OffByOne, "write: the blocks do not hold what they should"),
        (UnmapsNeighbours, "unmap: changed a block outside its range"),
        (UnmapsTheFirst, "unmap: the blocks do not hold what they should"),
        (UnmapDoesNotZero, "should read as zeros"),
        (ZeroesTooMuch, "zero: changed a block outside its range.*reads as zeros"),
        (IgnoresFua, "fua=True"),
        (LosesWrites, "two connections"),
        (LosesWritesAsync, "operations queued together: wrong data"),
        (ViewsChange, "has changed since: copy it, or declare live_reads"),
        (SameBuffer, "has changed since: copy it"),
        (UnsortedExtents, "sorted and without gaps"),
        (ExtentsWithGaps, "sorted and without gaps"),
        (NoExtents, "must cover at least the block"),
        (EmptyExtents, "without blocks"),
        (ExtentsTooFar, "must end at block"),
        (ExtentsLie, "said to be empty, but holds data"),
        (ExtentsOfPairs, "must yield userdisk.Extent"),
        (WrapsAround, "wrong data after the disk was written"),
        (Raises, "neither a StorageError nor an OSError: KeyError"),
        (Fails, r"failed at block 700: MediumError\('scratched'\)"),
        (FlushFails, "flush.* failed: OSError"),
        (ReturnsALength, "must return nothing"),
        (BatchForgets, "left the operation out"),
        (BatchReverses, "batch: wrong data.*holds what belongs to block"),
        (CloseFails, "last flush or close failed"),
        (DataChanges, "has changed"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_faults_are_found_and_named(kind: type[StorageUnit], words: str) -> None:
    with pytest.raises(AssertionError, match=words) as caught:
        check_storage_unit(kind(), operations=400, seed=3)
    message = str(caught.value)
    assert "\n" not in message
    if kind is not CloseFails:
        assert f"unit {kind.__name__}, seed 3" in message


def test_an_operation_that_never_ends() -> None:
    class Stuck(Good):
        def flush(self) -> None:
            time.sleep(2)

    with pytest.raises(AssertionError, match=r"flush\(\) did not end within 0.2 s"):
        check_storage_unit(Stuck(), patience=0.2)


def test_wrong_parameters_are_said_as_such() -> None:
    class Wrong(Good):
        workers = 0

    with pytest.raises(UsageError, match="workers"):
        check_storage_unit(Wrong())
