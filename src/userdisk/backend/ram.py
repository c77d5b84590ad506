"""A disk in memory (`ram:SIZE`) that takes only the memory of what was written.

Theory of operation. The disk is a sparse memory file (memfd), mapped once. A page of it that was
never written costs nothing, but a look at it through the mapping would allocate it; so `_written`
has a byte for each 64 KiB, and reads where nothing was written get zeros from a shared buffer.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections.abc import Iterable

from userdisk.backend import holes
from userdisk.backend.size import misfit
from userdisk.errors import UsageError
from userdisk.unit import Buffer, Extent, Extents, Inline, Parameters, StorageUnit

_NEAR = 4 << 20  # bytes: in a shorter range holes are looked for from place to place
_SHIFT = 16  # bytes that one byte of the map stands for, as a power of two
_CHUNK = 1 << _SHIFT
_TRANSFER = 1 << 20


class RamUnit(StorageUnit):
    """A disk in memory; what it holds is gone when it is closed.

    Args:
        block_count, block_length, ...: see `StorageUnit`. `size` in bytes may be given instead
            of `block_count`.

    Raises `UsageError` for wrong parameters, or when the machine cannot map so much. Operations
    never block on anything but memory, and may overlap.
    """

    product_id = "ram disk"
    inline = Inline.ALL
    concurrent = True
    live_reads = True
    cache_supported = False

    def __init__(
        self,
        *,
        size: int | None = None,
        block_count: int | None = None,
        block_length: int | None = None,
        physical_block_length: int | None = None,
        guid: str | None = None,
        product_id: str | None = None,
        product_revision: str | None = None,
        write_protected: bool | None = None,
        removable: bool | None = None,
        unmap_supported: bool | None = None,
        soft_threshold: int | None = None,
    ) -> None:
        if size is not None:
            length = block_length or self.block_length
            if block_count is not None:
                raise UsageError("size and block_count: give one of them")
            if length > 0 and size % length:
                raise UsageError(f"size: {misfit(size, length)}")
            block_count = size // length if length > 0 else 0
        super().__init__(
            guid=guid,
            block_count=block_count,
            block_length=block_length,
            physical_block_length=physical_block_length,
            product_id=product_id,
            product_revision=product_revision,
            write_protected=write_protected,
            removable=removable,
            unmap_supported=unmap_supported,
            soft_threshold=soft_threshold,
            max_transfer_length=_TRANSFER,
        )
        self._zeros = memoryview(bytes(_TRANSFER))
        self._mapping = self._memory = memoryview(b"")  # all that is mapped, and the disk
        self._descriptor: int | None = None
        self.open()

    def open(self) -> None:
        """Map the memory; the disk is all zeros."""
        if self._memory:
            return
        size = self.parameters.size
        try:
            if hasattr(os, "memfd_create"):
                self._descriptor = os.memfd_create("userdisk", os.MFD_CLOEXEC)
                self._closer = weakref.finalize(self, os.close, self._descriptor)
            self._mapping = self._memory = self._map(size)
            self._written = _private_memory((size + _CHUNK - 1) >> _SHIFT)
        except (OSError, OverflowError, MemoryError, ValueError) as error:
            raise _cannot_map(size, error) from None

    def _map(self, size: int) -> memoryview:
        if self._descriptor is None:
            return memoryview(mmap.mmap(-1, size))
        os.ftruncate(self._descriptor, size)
        return memoryview(mmap.mmap(self._descriptor, size))

    def take_size(self, parameters: Parameters) -> None:
        """Blocks past a new end are gone, and their memory; those that are new read as zeros.

        Raises `UsageError` when the machine cannot map so much.
        """
        old, size = len(self._memory), parameters.size
        if self._memory:
            try:
                self._change_size(old, size)
            except (OSError, OverflowError, MemoryError, ValueError) as error:
                raise _cannot_map(size, error) from None
        super().take_size(parameters)

    def _change_size(self, old: int, size: int) -> None:
        """The memory file is never cut: what `read` returned may still show its end."""
        written = _private_memory((size + _CHUNK - 1) >> _SHIFT)
        if size > len(self._mapping):
            mapping = self._map(size)
            if self._descriptor is None:
                self._copy(mapping)
            self._mapping = mapping
        elif size < old:
            self._forget(size, old)
        known = min(len(written), len(self._written))
        written[:known] = self._written[:known]
        self._memory, self._written = self._mapping[:size], written

    def _copy(self, mapping: memoryview) -> None:
        """Into another mapping, without touching what was never written."""
        for number, touched in enumerate(self._written):
            if touched:
                part = slice(number << _SHIFT, min((number + 1) << _SHIFT, len(self._memory)))
                mapping[part] = self._memory[part]

    def close(self) -> None:
        """Give the memory back (once the last view that `read` returned is gone)."""
        self._mapping = self._memory = memoryview(b"")
        if self._descriptor is not None:
            self._closer()
            self._descriptor = None

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        """A view of the memory itself, or zeros."""
        start = lba * self.block_length
        end = start + blocks * self.block_length
        first, last = start >> _SHIFT, (end - 1) >> _SHIFT
        if self._written[first] or (first != last and 1 in self._written[first : last + 1]):
            return self._memory[start:end]
        if end - start <= _TRANSFER:
            return self._zeros[: end - start]
        return bytes(end - start)

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        """Copy `data` in."""
        start = lba * self.block_length
        end = start + data.nbytes
        first, last = start >> _SHIFT, (end - 1) >> _SHIFT
        if first == last:
            self._written[first] = 1
        else:
            self._written[first : last + 1] = b"\x01" * (last + 1 - first)
        self._memory[start:end] = data

    def flush(self) -> None:
        """Nothing to do: there is no slower medium."""

    def zero(self, lba: int, blocks: int, fua: bool) -> None:
        """As `unmap`."""
        self.unmap([(lba, blocks)])

    def unmap(self, extents: Extents) -> None:
        """Give the memory of the blocks back; they read as zeros."""
        for lba, blocks in extents:
            if blocks:
                start = lba * self.block_length
                self._forget(start, start + blocks * self.block_length)

    def erase(self) -> None:
        """Give all memory back."""
        self.unmap([(0, self.parameters.block_count)])

    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        """What was written, to the page; elsewhere than on Linux, to 64 KiB."""
        if self._descriptor is not None:
            if blocks * self.block_length <= _NEAR:
                return holes.near_extents(self._descriptor, lba, blocks, self.block_length)
            return holes.extents(self._descriptor, lba, blocks, self.block_length)
        return self._chunks(lba, blocks)

    def _chunks(self, lba: int, blocks: int) -> Iterable[Extent]:
        """One extent: the run of chunks in the state of the first."""
        first = lba * self.block_length >> _SHIFT
        last = ((lba + blocks) * self.block_length - 1) >> _SHIFT
        mapped = self._written[first]
        end = self._written.find(b"\x00" if mapped else b"\x01", first, last + 1)
        stop = lba + blocks
        if end >= 0:
            stop = (end << _SHIFT) // self.block_length
        yield Extent(lba, stop - lba, mapped=bool(mapped), zero=not mapped)

    def _forget(self, start: int, end: int) -> None:
        # Marked unwritten before it is zeroed: a write that overlaps in time then leaves its
        # chunk marked written, whichever of the two is last to touch the memory.
        first, last = (start + _CHUNK - 1) >> _SHIFT, end >> _SHIFT
        if end == len(self._memory):
            last = len(self._written)  # the last chunk may be a short one
        while first < last and (first := self._written.find(b"\x01", first, last)) >= 0:
            until = self._written.find(b"\x00", first, last)
            until = last if until < 0 else until
            self._written[first:until] = bytes(until - first)
            first = until
        if self._descriptor is not None and holes.punch(self._descriptor, start, end - start):
            return
        for at in range(start, end, _TRANSFER):
            length = min(_TRANSFER, end - at)
            self._memory[at : at + length] = self._zeros[:length]


def _cannot_map(size: int, error: Exception) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) else error
    return UsageError(f"ram: cannot map {size} bytes of memory: {reason}")


def _private_memory(length: int) -> mmap.mmap:
    """Zeros that take memory where they are written only."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, length)
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
