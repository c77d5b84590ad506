"""The storage unit: the class that a user writes, its parameters, and what it may declare."""

from __future__ import annotations

import enum
import inspect
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from userdisk.errors import Unsupported, UsageError

Buffer: TypeAlias = bytes | bytearray | memoryview

#: (lba, blocks) pairs, as `StorageUnit.unmap` gets them.
Extents: TypeAlias = Sequence[tuple[int, int]]

_MAX_SIZE = 1 << 63  # bytes; system calls count them in signed 64-bit numbers
_MAX_TRANSFER = 1 << 30


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of blocks in one state; `StorageUnit.extents` yields them sorted by lba."""

    lba: int
    blocks: int
    mapped: bool = True
    zero: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a thin unit's storage is in use; in blocks."""

    used: int
    available: int


class Inline(enum.Flag):
    """Which operations are bounded in time, so that the connection's own thread may run them.

    Everything else runs on the unit's worker threads, or on its event loop if it is `async def`.
    """

    NONE = 0
    READ = enum.auto()  #: read without FUA
    WRITE = enum.auto()  #: write and zero without FUA
    FLUSH = enum.auto()  #: flush, and reads and writes with FUA
    UNMAP = enum.auto()  #: unmap and extents
    ALL = READ | WRITE | FLUSH | UNMAP


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a unit is: its identity, geometry and abilities, validated. Lengths are in bytes."""

    guid: uuid.UUID
    block_count: int
    block_length: int
    physical_block_length: int
    product_id: str
    product_revision: str
    write_protected: bool
    cache_supported: bool
    unmap_supported: bool
    eject_disabled: bool
    max_transfer_length: int
    removable: bool = False
    atomic_blocks: int = 0
    soft_threshold: int = 0

    def __post_init__(self) -> None:
        if self.guid.int == 0:
            raise UsageError("guid: must not be all zero")
        _check_integer("block_count", self.block_count, 1, _MAX_SIZE // 512 - 1)
        _check_power_of_two("block_length", self.block_length, 512, 4096)
        _check_power_of_two(
            "physical_block_length", self.physical_block_length, self.block_length, 1 << 20
        )
        if self.size >= _MAX_SIZE:
            raise UsageError("block_count: the disk would have 2^63 bytes or more")
        _check_text("product_id", self.product_id, 16)
        _check_text("product_revision", self.product_revision, 4)
        _check_integer(
            "max_transfer_length", self.max_transfer_length, self.block_length, _MAX_TRANSFER
        )
        if self.max_transfer_length % self.block_length:
            raise UsageError(
                f"max_transfer_length: {self.max_transfer_length} is not a multiple of"
                f" block_length {self.block_length}"
            )
        _check_integer(
            "atomic_blocks", self.atomic_blocks, 0, self.max_transfer_length // self.block_length
        )
        _check_integer("soft_threshold", self.soft_threshold, 0, 99)
        for name in _TRUTHS:
            _check_truth(name, getattr(self, name))

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return self.block_count * self.block_length


_TRUTHS = ("write_protected", "cache_supported", "unmap_supported", "eject_disabled", "removable")


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"{name}: must be a whole number, not {value!r}")
    if not low <= value <= high:
        raise UsageError(f"{name}: must be from {low} to {high}, not {value}")


def _check_power_of_two(name: str, value: object, low: int, high: int) -> None:
    _check_integer(name, value, low, high)
    assert isinstance(value, int)
    if value & (value - 1):
        raise UsageError(f"{name}: must be a power of two, not {value}")


def _check_truth(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise UsageError(f"{name}: must be True or False, not {value!r}")


def _check_text(name: str, value: object, length: int) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= length:
        raise UsageError(f"{name}: must be 1 to {length} characters, not {value!r}")
    if not all(" " <= character <= "~" for character in value):
        raise UsageError(f"{name}: must be printable ASCII, not {value!r}")


class StorageUnit:
    """A disk, as its author writes it: subclass this and define `read` and `write`.

    Parameters are class attributes, or arguments of `__init__`, which override them; they are
    checked there and then stay as they are (`parameters`).

    By default at most one operation runs at a time, on a thread of the unit's own, so that plain
    blocking code is safe. `concurrent = True` says that operations may overlap (`workers`
    threads); `inline` names those that are bounded in time and may run on a connection's thread;
    methods written `async def` run on an event loop that belongs to the unit.

    An operation reports failure by raising a class of `userdisk.errors` or an `OSError`; any other
    exception is taken for a bug, logged, and answered with a hardware error for that command only.
    Addresses are always inside the disk: the caller has checked them.
    """

    #: The unit's identity; serial number, names and designators derive from it. None: the server
    #: finds or makes one (a backend keeps it in its state file).
    guid: uuid.UUID | str | None = None
    block_count: int = 0
    block_length: int = 512  #: bytes: 512, 1024, 2048 or 4096
    physical_block_length: int | None = None  #: bytes; None: block_length (4096 over 512 is "512e")
    product_id: str = "userdisk"  #: 1 to 16 printable ASCII characters
    product_revision: str = "1.0"  #: 1 to 4 printable ASCII characters
    write_protected: bool = False
    #: True: written data may be lost in a crash until `flush` returns. None: there is a `flush`.
    cache_supported: bool | None = None
    unmap_supported: bool | None = None  #: None: there is an `unmap`
    eject_disabled: bool = False
    #: The largest read or write in bytes; longer commands arrive split.
    max_transfer_length: int = 1 << 20
    removable: bool = False  #: the medium can be ejected and loaded again
    #: A write of so many blocks or fewer is stored wholly or not at all, whatever happens, and no
    #: read sees half of it; 0: there is no such promise.
    atomic_blocks: int = 0
    #: A thin unit that tells its `usage` has initiators warned when less storage is available than
    #: what this many percent leave of the disk's size (80: a fifth); 0: no warning.
    soft_threshold: int = 0

    inline: Inline = Inline.NONE
    concurrent: bool = False  #: operations may run at the same time on several threads
    workers: int = 1  #: worker threads (only with `concurrent` more than one is used)
    #: `read` returns views of memory that a later `write` changes.
    live_reads: bool = False
    #: After `unmap` the blocks read as zeros.
    unmap_zeroes: bool = True
    #: What was flushed is there when another process opens the unit. Then an attached disk goes on
    #: when the process that has its unit dies.
    persistent: bool = False

    _identity: object = None  # kept here by userdisk.identity
    _resize: Callable[[Parameters, bool], None] | None = None  # how the unit's gate takes a size

    def __init__(
        self,
        *,
        guid: uuid.UUID | str | None = None,
        block_count: int | None = None,
        block_length: int | None = None,
        physical_block_length: int | None = None,
        product_id: str | None = None,
        product_revision: str | None = None,
        write_protected: bool | None = None,
        cache_supported: bool | None = None,
        unmap_supported: bool | None = None,
        eject_disabled: bool | None = None,
        max_transfer_length: int | None = None,
        removable: bool | None = None,
        atomic_blocks: int | None = None,
        soft_threshold: int | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in _PARAMETERS}
        for name, value in given.items():
            if value is not None:
                setattr(self, name, value)
        self._parameters = _parameters_of(self)

    @property
    def parameters(self) -> Parameters:
        """The checked parameters. Raises `UsageError`, naming the field and the rule."""
        found: Parameters | None = getattr(self, "_parameters", None)
        if found is None:  # a subclass that does not call __init__ of this class
            found = self._parameters = _parameters_of(self)
        return found

    def identify(self, guid: uuid.UUID) -> None:
        """Give the unit its identity; only before it is opened."""
        self.guid = guid
        self._parameters = _parameters_of(self)

    # -- its size ----------------------------------------------------------------------------

    def resized(self, block_count: int, *, wait: bool = True) -> None:
        """Say that the disk has so many blocks from now on; every initiator is told.

        Call it when the storage has grown, or before it is cut: when it returns, nothing that is
        asked of the unit goes past the new end, and what did has left it. May be called from any
        thread, and blocks; a method of the unit passes `wait=False`, and the size changes soon.

        Raises `UsageError` for a number that cannot be.
        """
        parameters = replace(self.parameters, block_count=block_count)
        if self._resize is not None:
            self._resize(parameters, wait)
        else:
            self.take_size(parameters)

    def take_size(self, parameters: Parameters) -> None:
        """The size changes to that of `parameters` now; called with nobody else in the unit.

        For units that have something to do then; they call this one, too. `resized` raises what
        this raises, and the size stays as it was.
        """
        self._parameters = parameters
        self.block_count = parameters.block_count

    def measure(self) -> None:
        """Look how large the storage is now, and call `resized` if that is news.

        `userdisk serve` calls it on a thread of its own when it gets SIGHUP. The default does
        nothing.
        """

    # -- what a unit does --------------------------------------------------------------------

    def open(self) -> Awaitable[None] | None:
        """Called once before the first operation. The default does nothing."""
        return None

    def close(self) -> Awaitable[None] | None:
        """Called once after the last operation; a last `flush` came before it."""
        return None

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer | Awaitable[Buffer]:
        """Return exactly `blocks` blocks from `lba` on, as contiguous bytes.

        The unit leaves the buffer unchanged until it has been sent, unless `live_reads` says that
        it is a view of live memory. `fua`: read from the medium, not from a volatile cache.
        """
        raise Unsupported("read is not implemented")

    def write(self, lba: int, data: memoryview, fua: bool) -> Awaitable[None] | None:
        """Store `data`, a whole number of blocks, at `lba`.

        `data` is read-only and valid until the method returns (or its coroutine ends): copy what
        is kept longer. `fua`: return only when the data is on the medium.
        """
        raise Unsupported("write is not implemented")

    def flush(self) -> Awaitable[None] | None:
        """Return when everything written before the call is durable."""
        return None

    def unmap(self, extents: Extents) -> Awaitable[None] | None:
        """Forget the blocks of each (lba, blocks) pair; pairs may overlap."""
        raise Unsupported("unmap is not implemented")

    def zero(self, lba: int, blocks: int, fua: bool) -> Awaitable[None] | None:
        """Make the blocks read as zeros; at most `max_transfer_length` at a time.

        The default writes zeros.
        """
        return self.write(lba, memoryview(bytes(blocks * self.block_length)), fua)

    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        """Yield which ranges are mapped, sorted and without gaps from `lba` on.

        May stop before `lba + blocks`, but covers at least one block. The default: all mapped.
        """
        yield Extent(lba, blocks)

    def erase(self) -> Awaitable[None] | None:
        """Make all data irrecoverable by erasing the medium; return when that is durable.

        Only units that override this offer SANITIZE with BLOCK ERASE.
        """
        raise Unsupported("erase is not implemented")

    def crypto_erase(self) -> Awaitable[None] | None:
        """Make all data irrecoverable by changing the key it is encrypted with, durably.

        Only units that override this offer SANITIZE with CRYPTOGRAPHIC ERASE.
        """
        raise Unsupported("crypto_erase is not implemented")

    def usage(self) -> Usage | Awaitable[Usage]:
        """How much storage a thin unit uses, and how much more it could have.

        Only units that override this report it, and warn when it runs short.
        """
        raise Unsupported("usage is not implemented")

    def batch(self, operations: Sequence[object]) -> Awaitable[None] | None:
        """Perform operations that are waiting together; override to merge or submit them at once.

        Each is a `userdisk.operation.Operation`: `perform(self)` runs it and keeps its result or
        exception; `finish` and `fail` end one that was done otherwise. One left out has failed.
        Only units that override this have it called, with at least one operation.
        """
        raise NotImplementedError


_PARAMETERS = frozenset(Parameters.__dataclass_fields__)

_CALLED_WITH = {
    "read": ("lba", "blocks", "fua"),
    "write": ("lba", "data", "fua"),
    "flush": (),
    "unmap": ("extents",),
    "zero": ("lba", "blocks", "fua"),
    "extents": ("lba", "blocks"),
    "usage": (),
    "erase": (),
    "crypto_erase": (),
}


def overrides(unit: StorageUnit, name: str) -> bool:
    """Whether the unit's class (or the unit itself) defines the operation."""
    return getattr(type(unit), name) is not getattr(StorageUnit, name) or name in vars(unit)


def _never_set(unit: StorageUnit, name: str) -> bool:
    return not any(
        name in vars(each) for each in (unit, *type(unit).__mro__) if each is not StorageUnit
    )


def _parameters_of(unit: StorageUnit) -> Parameters:
    kind = type(unit).__name__
    if not overrides(unit, "read"):
        raise UsageError(f"{kind}: has no read(lba, blocks, fua) method")
    if not overrides(unit, "write") and unit.write_protected is False:
        raise UsageError(f"{kind}: has no write(lba, data, fua) method and is not write_protected")
    if _never_set(unit, "block_count"):
        raise UsageError(f"{kind}: has no block_count, the number of the disk's blocks")
    for name, arguments in _CALLED_WITH.items():
        try:
            inspect.signature(getattr(unit, name)).bind(*arguments)
        except TypeError as error:
            called = f"{name}({', '.join(arguments)})"
            raise UsageError(f"{kind}.{name}: is called as {called}: {error}") from None
    _check_integer("workers", unit.workers, 1, 256)
    if not isinstance(unit.inline, Inline):
        raise UsageError(f"inline: must be userdisk.Inline values, not {unit.inline!r}")
    for name in ("concurrent", "live_reads", "unmap_zeroes", "persistent"):
        _check_truth(name, getattr(unit, name))
    cache, unmap = unit.cache_supported, unit.unmap_supported
    unmap = overrides(unit, "unmap") if unmap is None else unmap
    if unit.soft_threshold and not unmap:
        raise UsageError(f"soft_threshold: is for thin disks, and {kind} does not offer unmap")
    if unit.soft_threshold and not overrides(unit, "usage"):
        raise UsageError(f"soft_threshold: {kind} has no usage() method to watch")
    return Parameters(
        guid=_guid_of(unit),
        block_count=unit.block_count,
        block_length=unit.block_length,
        physical_block_length=unit.physical_block_length or unit.block_length,
        product_id=unit.product_id,
        product_revision=unit.product_revision,
        write_protected=unit.write_protected,
        cache_supported=overrides(unit, "flush") if cache is None else cache,
        unmap_supported=unmap,
        eject_disabled=unit.eject_disabled,
        max_transfer_length=unit.max_transfer_length,
        removable=unit.removable,
        atomic_blocks=unit.atomic_blocks,
        soft_threshold=unit.soft_threshold,
    )


def _guid_of(unit: StorageUnit) -> uuid.UUID:
    if unit.guid is None:
        return uuid.uuid4()
    if isinstance(unit.guid, uuid.UUID):
        return unit.guid
    try:
        return uuid.UUID(unit.guid)
    except (ValueError, AttributeError, TypeError):
        raise UsageError(f"guid: {unit.guid!r} is not a GUID") from None
