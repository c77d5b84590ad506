"""Commands drawn from the operation table, in every state that others can bring about.

A `World` has logical units of every kind, two initiators that are fuzzed and one that changes
states (reserves, ejects, sanitizes, ...) by commands as well. `run` sends commands whose fields are
at their edges and whose data-out is right, short, long or wrong, and judges every answer: GOOD or
another status, well-formed sense, nothing changed by what was refused. What was reached is in
`Reached`.
"""

from __future__ import annotations

import ast
import random
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import Any

import userdisk.target
from tests.kit.engine import EnginePort, Result, flatten
from userdisk import errors
from userdisk.gate import Gate
from userdisk.operation import Operation
from userdisk.scsi.sense import Sense, SenseKey
from userdisk.target import operations
from userdisk.target.command import Completion
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.nexus import Nexus
from userdisk.target.row import Direction, Flags, Row
from userdisk.target.target import Target
from userdisk.unit import Extent, Extents, Inline, StorageUnit, Usage

SOURCE = FilePath(userdisk.target.__file__).parent

BLOCKS = 2048
IQN = "iqn.2026-11.io.userdisk:fuzzed"

#: Keys of commands that were refused before they did anything.
_KEYS = set(SenseKey)
_REFUSED = {SenseKey.ILLEGAL_REQUEST, SenseKey.UNIT_ATTENTION, SenseKey.NOT_READY}


class Disk(StorageUnit):
    """Memory that offers everything; counts changes, and fails now and then if told so."""

    block_count = BLOCKS
    inline = Inline.ALL
    removable = True
    atomic_blocks = 16
    physical_block_length = 4096

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.memory = bytearray(self.parameters.size)
        self.changes = 0
        self.failing: type[errors.StorageError] | None = None

    def _touch(self, change: bool = False) -> None:
        if self.failing is not None:
            raise self.failing
        self.changes += change

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        self._touch()
        length = self.block_length
        return bytes(memoryview(self.memory)[lba * length : (lba + blocks) * length])

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self._touch(True)
        start = lba * self.block_length
        assert len(data) % self.block_length == 0
        assert start + len(data) <= len(self.memory), "a write past the end"
        self.memory[start : start + len(data)] = data

    def flush(self) -> None:
        self._touch()

    def unmap(self, extents: Extents) -> None:
        self._touch(True)
        length = self.block_length
        for lba, blocks in extents:
            assert lba + blocks <= self.block_count
            self.memory[lba * length : (lba + blocks) * length] = bytes(blocks * length)

    def extents(self, lba: int, blocks: int) -> Iterator[Extent]:
        for start in range(lba, min(lba + blocks, lba + 64), 8):
            count = min(8, lba + blocks - start)
            yield Extent(start, count, mapped=bool(start >> 3 & 1))

    def erase(self) -> None:
        self._touch(True)
        self.memory[:] = bytes(len(self.memory))

    def crypto_erase(self) -> None:
        self.erase()

    def usage(self) -> Usage:
        self._touch()
        return Usage(self.block_count // 2, self.block_count // 2)


class Thick(StorageUnit):
    """Read and write only, fixed."""

    block_count = BLOCKS
    inline = Inline.ALL
    read, write = Disk.read, Disk.write  # type: ignore[assignment]
    _touch = Disk._touch

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.memory = bytearray(self.parameters.size)
        self.changes = 0
        self.failing: type[errors.StorageError] | None = None


class Huge(StorageUnit):
    """More blocks than a command can name in 32 bits; it keeps nothing."""

    block_count = 1 << 40
    inline = Inline.ALL
    changes = 0

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        return bytes(blocks * 512)

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self.changes += 1

    def unmap(self, extents: Extents) -> None:
        self.changes += 1

    def zero(self, lba: int, blocks: int, fua: bool) -> None:
        self.changes += 1


HUGE = 4  # the lun of one

#: commands that end soon also on a huge disk
_BOUNDED = [
    row
    for row in operations.ROWS
    if row.name.startswith(("READ", "WRITE", "UNMAP", "COMPARE", "ORWRITE", "PRE-FETCH", "GET"))
    and not row.name.startswith("WRITE USING")
]


#: what is drawn from: commands with parameter lists have more to get wrong
_DRAWN = [row for row in operations.ROWS for _ in range({0x5F: 2, 0x83: 4}.get(row.opcode, 1))]


class Reached:
    """What the fuzz has seen, to be compared with what it should see."""

    def __init__(self) -> None:
        self.commands = 0
        self.good: Counter[str] = Counter()
        self.ends: Counter[tuple[str, str]] = Counter()  # row, status or sense
        self.sites: Counter[tuple[str, int]] = Counter()  # file, line of a `raise CheckCondition`

    def missing_sites(self) -> list[str]:
        """The refusals in the engine's source that no command has met."""
        return [
            f"{name}:{function}:{first}"
            for name, function, first, last in error_exits()
            if not any((name, line) in self.sites for line in range(first, last + 1))
        ]


def error_exits() -> Iterator[tuple[str, str, int, int]]:
    """Every `raise CheckCondition(...)` of the engine: file, function, first and last line."""
    for path in sorted(SOURCE.glob("*.py")):
        functions = [
            node for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.FunctionDef
        ]
        found: dict[int, tuple[str, int]] = {}
        for function in functions:  # the outer ones first
            for node in ast.walk(function):
                if (
                    isinstance(node, ast.Raise)
                    and isinstance(node.exc, ast.Call)
                    and isinstance(node.exc.func, ast.Name)
                    and node.exc.func.id == "CheckCondition"
                ):
                    found[node.lineno] = function.name, node.end_lineno or node.lineno
        for first, (name, last) in found.items():
            yield path.name, name, first, last


class _Unit(LogicalUnit):
    """Notes where in the source each refusal comes from."""

    reached: Reached

    def check_condition(self, why: Sense, wanted: int | None = None) -> Completion:
        error = sys.exception() if sys.version_info >= (3, 11) else None
        trace = error.__traceback__ if error is not None else None
        while trace is not None:
            file = FilePath(trace.tb_frame.f_code.co_filename)
            if file.parent == SOURCE and trace.tb_next is None:
                self.reached.sites[file.name, trace.tb_lineno] += 1
            trace = trace.tb_next
        return super().check_condition(why, wanted)


class _Gate(Gate):
    """Runs what the engine does in the background when the world says so, on its thread."""

    queue: deque[tuple[Gate, Operation, Callable[[Operation], None]]]

    def submit(self, operation: Operation, done: Callable[[Operation], None]) -> None:
        self.queue.append((self, operation, done))


class World:
    """A target with logical units of every kind, and three nexuses."""

    def __init__(self, seed: int, reached: Reached) -> None:
        self.random = random.Random(seed)
        self.reached = reached
        self.units: list[Any] = [
            Disk(),
            Disk(block_length=4096, block_count=512, removable=False),
            Thick(),
            Disk(write_protected=True, eject_disabled=True),
            Huge(),
        ]
        #: operations of the background, and whether they stay there for a while
        self.background: deque[tuple[Gate, Operation, Callable[[Operation], None]]] = deque()
        self.holding = False
        units = []
        for unit in self.units:
            gate = _Gate(unit)
            gate.queue = self.background
            units.append(_Unit(gate))
            units[-1].reached = reached
        self.target = Target(IQN, units)
        self.target.define_groups((1, 2))
        self.port = EnginePort()
        self.nexuses = [
            self.target.attach(f"iqn.2026-11.io.userdisk:{name}", isid, port)
            for name, isid, port in (("one", 1, 1), ("two", 2, 2), ("manager", 3, 1))
        ]
        self.manager = self.nexuses[2]
        self.lun = 0
        self.token = b""  #: the last that a unit gave away

    @property
    def unit(self) -> Any:
        """The unit that the next command goes to."""
        return self.units[self.lun]

    def run_background(self) -> None:
        """Do all that goes on without a command."""
        while self.background:
            gate, operation, done = self.background.popleft()
            gate.perform(operation)
            done(operation)

    def settle(self, nexus: Nexus) -> None:
        """Have the nexus told what it has to be told by every unit."""
        for lun in range(len(self.units)):
            self.lun = lun
            for _ in range(4):
                self.command(nexus, bytes(16))
        self.lun = 0

    def command(self, nexus: Nexus, cdb: bytes, data: bytes = b"", announce: int = -1) -> Result:
        """Run a command, judge its answer, count it. Raises AssertionError."""
        before = [unit.changes for unit in self.units]
        row = operations.find(cdb.ljust(16, b"\0"))
        task = self.port.start(nexus, cdb, data, self.target.luns[self.lun])
        if not task.completions or not self.holding:
            self.run_background()
        (completion,) = task.completions
        assert completion is not None
        assert not self.port.reports, self.port.reports
        result = flatten(completion)
        changed = before != [unit.changes for unit in self.units]
        self._judge(row, cdb, data, result, changed)
        return result

    def _judge(
        self, row: Row | None, cdb: bytes, data: bytes, result: Result, changed: bool
    ) -> None:
        what = f"{row.name if row else 'unknown'} {cdb.hex()} with {len(data)} bytes: {result}"
        self.reached.commands += 1
        name = row.name if row else "unknown"
        if result.status == 0:
            assert result.sense is None, what
            self.reached.good[name] += 1
            if row is not None and row.direction is not Direction.IN:
                assert not result.data, what
            if row is not None and Flags.WRITES not in row.flags and name not in _MAY_CHANGE:
                assert not changed, what
            return
        if result.status == 2:
            sense = result.sense
            assert sense is not None and sense.key in _KEYS, what
            self.reached.ends[name, str(sense)] += 1
            if sense.code in (0x2400, 0x2600) and sense.key == SenseKey.ILLEGAL_REQUEST:
                assert sense.pointer is not None, what
                limit = len(cdb) if sense.pointer.in_cdb else max(len(data), 1) + 65536
                assert sense.pointer.byte < max(limit, 16), what
            if sense.key in _REFUSED:
                assert not changed, what
        else:
            assert result.status == 0x18 and result.sense is None, what
            self.reached.ends[name, "conflict"] += 1
            assert not changed, what
        assert not result.data or result.status == 2, what


#: Change blocks though the medium that they address may be another's.
_MAY_CHANGE = {"EXTENDED COPY(LID1)", "SANITIZE"}


# -- CDBs --------------------------------------------------------------------------------------


def edges(world: World, width: int) -> int:
    """A number for a field of so many bytes: usually small, often at an edge."""
    rng = world.random
    last = world.unit.block_count - 1
    top = (1 << 8 * width) - 1
    chosen = rng.choice(
        (0, 0, 0, 1, 1, 2, 8, 24, rng.randrange(256), rng.randrange(256), last, last + 1, last - 7,
         1 << 31, 1 << 63, top, top - 1, rng.randrange(top + 1), rng.randrange(1 << 16))
    )  # fmt: skip
    return min(chosen, top)


def fields(row: Row) -> Iterator[tuple[int, int]]:
    """The fields of a CDB that are whole bytes: where each begins and how long it is."""
    at = 1
    while at < len(row.usage):
        start = at
        while at < len(row.usage) and row.usage[at] == 0xFF and at - start < 8:
            at += 1
        if at > start:
            yield start, at - start
        at = max(at, start + 1)


def random_cdb(world: World, row: Row) -> bytes:
    """A CDB of the row whose fields are allowed ones, mostly."""
    rng = world.random
    cdb = bytearray(len(row.usage))
    cdb[0] = row.opcode
    if rng.random() < 0.5:
        for at in range(1, len(row.usage)):
            if row.usage[at] != 0xFF:
                cdb[at] = rng.randrange(256) & row.usage[at] & rng.randrange(256)
    for start, width in fields(row):
        cdb[start : start + width] = edges(world, width).to_bytes(width, "big")
    if row.service_action is not None:
        cdb[1] = cdb[1] & 0xE0 | row.service_action
    if rng.random() < 0.02:
        cdb[rng.randrange(1, len(cdb))] |= 1 << rng.randrange(8)
    return bytes(cdb)


def random_data(world: World, length: int) -> bytes:
    """Data-out of this length, or rather not."""
    rng = world.random
    length = rng.choice(
        (length,) * 5 + (0, max(length - 1, 0), length + 1, 2 * length, length // 2)
    )
    length = min(length, 256 << 10)
    if rng.random() < 0.5:
        return bytes(length)
    return rng.randbytes(length)


def run(commands: int, seed: int) -> Reached:
    """Send so many commands; the same seed, the same commands. Raises AssertionError."""
    from tests.target.command_fuzz_states import enter
    from tests.target.command_fuzz_valid import spoiled, valid

    reached = Reached()
    world, left = World(seed, reached), 0
    while reached.commands < commands:
        if not left:
            seed += 1
            world, left = World(seed, reached), 250
            enter(world)
        left -= 1
        rng = world.random
        world.lun = rng.choice((0, 0, 0, 0, 0, 1, 2, 3, 4))
        nexus = world.nexuses[rng.random() < 0.5]
        kind = rng.random()
        if kind < 0.02:
            length = rng.choice((6, 10, 12, 16, 32))
            world.command(nexus, rng.randbytes(length).ljust(16, b"\0"), random_data(world, 512))
            continue
        row = rng.choice(_DRAWN if world.lun != HUGE else _BOUNDED)
        cdb, data = valid(world, row, nexus)
        if kind < 0.25:
            cdb = random_cdb(world, row)
        if kind > 0.8:
            data = random_data(world, len(data))
        elif kind > 0.55 and data:
            data = spoiled(world, row, data)
            if rng.random() < 0.5 and row.opcode in (0x83, 0x5F):
                cdb = (
                    cdb[:10] + len(data).to_bytes(4, "big") + cdb[14:]
                    if row.opcode == 0x83
                    else (cdb[:5] + len(data).to_bytes(4, "big") + cdb[9:])
                )
        world.command(nexus, cdb.ljust(16, b"\0"), data)
    return reached
