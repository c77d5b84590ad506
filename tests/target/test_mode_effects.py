"""What mode parameters do: SWP refuses what writes, without WCE every write has FUA, D_SENSE."""

from __future__ import annotations

import struct

import pytest

from tests.kit.copies import (
    ZERO_TOKEN,
    copy_list,
    cscd,
    extended_copy,
    segment,
    write_list,
    write_using_token,
)
from tests.kit.engine import EnginePort, ready_nexus
from tests.kit.modes import CACHING, CHANGED, CONTROL, Disk, caching, control, header, select
from tests.kit.units import KINDS, AsyncRamUnit, InlineRamUnit, RamUnit
from userdisk.gate import Gate
from userdisk.operation import Exclusive, Kind, Operation, Sequel
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, Sense
from userdisk.target import operations
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.row import Flags, Row
from userdisk.target.target import Target
from userdisk.unit import Inline

PROTECTED = (7, Asc.SOFTWARE_WRITE_PROTECTED)
BY_NAME = [row.name for row in operations.ROWS]
BLOCK = b"x" * 512


def cdb_of(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    """A block command of 6, 10, 12 or 16 bytes."""
    if opcode < 0x20:
        return struct.pack(">BBHBx", opcode, lba >> 16, lba & 0xFFFF, blocks)
    if opcode < 0x80:
        return struct.pack(">BBIxHx", opcode, flags, lba, blocks)
    if opcode < 0xA0:
        return struct.pack(">BBQIxx", opcode, flags, lba, blocks)
    return struct.pack(">BBIIxx", opcode, flags, lba, blocks)


#: name of a command that writes -> CDB, data-out; the unit then has a write, or several.
WRITING: dict[str, tuple[bytes, bytes]] = {
    "WRITE(6)": (cdb_of(0x0A, 8, 1), BLOCK),
    "WRITE(10)": (cdb_of(0x2A, 8, 1), BLOCK),
    "WRITE(12)": (cdb_of(0xAA, 8, 1), BLOCK),
    "WRITE(16)": (cdb_of(0x8A, 8, 1), BLOCK),
    "WRITE AND VERIFY(10)": (cdb_of(0x2E, 8, 1), BLOCK),
    "WRITE AND VERIFY(12)": (cdb_of(0xAE, 8, 1), BLOCK),
    "WRITE AND VERIFY(16)": (cdb_of(0x8E, 8, 1), BLOCK),
    "WRITE SAME(10)": (cdb_of(0x41, 8, 4), BLOCK),
    "WRITE SAME(16)": (cdb_of(0x93, 8, 4, 1), b""),  # NDOB: zeros
    "COMPARE AND WRITE": (cdb_of(0x89, 8, 1), bytes(512) + BLOCK),
    "ORWRITE(16)": (cdb_of(0x8B, 8, 1), BLOCK),
    "WRITE ATOMIC(16)": (struct.pack(">BBQxxHxx", 0x9C, 0, 8, 1), BLOCK),
    "WRITE USING TOKEN": (write_using_token(7, 552), write_list(ZERO_TOKEN, [(8, 4)])),
}
#: These erase or forget: durable, or a promise of nothing, without FUA.
OTHERS = {
    "UNMAP",
    "SANITIZE (OVERWRITE)",
    "SANITIZE (BLOCK ERASE)",
    "SANITIZE (CRYPTOGRAPHIC ERASE)",
}


def bare(row: Row) -> bytes:
    cdb = bytearray(len(row.usage))
    cdb[0] = row.opcode
    if row.service_action is not None:
        cdb[1] = row.service_action
    return bytes(cdb)


def writes(unit: RamUnit) -> list[bool]:
    """FUA of every write that the unit has seen."""
    return [entry[3] for entry in unit.log if entry[0] == "write"]


# -- SWP ---------------------------------------------------------------------------------------


def test_every_command_that_writes_is_known_here() -> None:
    flagged = {row.name for row in operations.ROWS if Flags.WRITES in row.flags}
    assert flagged == WRITING.keys() | OTHERS


@pytest.mark.parametrize("row", operations.ROWS, ids=BY_NAME)
def test_swp_refuses_what_writes_and_nothing_else(row: Row) -> None:
    disk = Disk(atomic_blocks=1, removable=True)
    assert disk.select(control(swp=True)).status == 0
    disk.unit.calls.clear()
    cdb, data = WRITING.get(row.name, (bare(row), bytes(4096)))
    code = disk.code(cdb, data)
    if Flags.WRITES in row.flags and row.offered(disk.lu):
        assert code == PROTECTED
        assert not disk.unit.calls
        assert disk.select(control()).status == 0
        assert disk.code(cdb, data) != PROTECTED
    else:
        assert code is None or code[1] >> 8 != 0x27


def test_swp_ends_and_others_are_told() -> None:
    disk = Disk()
    write = cdb_of(0x2A, 0, 1)
    (path,) = disk.two.paths.values()
    assert disk.code(write, BLOCK) is None and path.ready
    assert disk.select(control(swp=True)).status == 0
    assert [disk.code(write, BLOCK, disk.two) for _ in range(3)] == [CHANGED, PROTECTED, PROTECTED]
    assert disk.code(cdb_of(0x28, 0, 1), nexus=disk.two) is None
    assert disk.unit.log[1][0] == "flush"  # what the cache held is on the medium
    assert disk.select(control(), nexus=disk.two).status == 0
    assert disk.code(write, BLOCK, disk.two) is None and path.ready


def test_the_unit_s_own_write_protection_stays() -> None:
    disk = Disk(write_protected=True)
    write = cdb_of(0x2A, 0, 1)
    assert disk.code(write, BLOCK) == (7, Asc.WRITE_PROTECTED)
    assert disk.select(control(swp=True)).status == 0
    assert disk.code(write, BLOCK) == PROTECTED
    assert disk.select(CONTROL).status == 0
    assert disk.code(write, BLOCK) == (7, Asc.WRITE_PROTECTED)
    assert not disk.unit.log


def test_a_copy_does_not_write_to_a_protected_unit() -> None:
    disk = Disk()
    data = copy_list([cscd(disk.unit)], [segment(0, 0, 1, 0, 8)])
    assert disk.code(extended_copy(len(data)), data) is None
    assert disk.select(control(swp=True)).status == 0
    disk.unit.log.clear()
    assert disk.code(extended_copy(len(data)), data) is not None
    assert not writes(disk.unit)


# -- WCE ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITING)
def test_without_wce_every_write_has_fua(name: str) -> None:
    cdb, data = WRITING[name]
    disk = Disk(atomic_blocks=1)
    if "VERIFY" not in name:
        assert disk.code(cdb, data) is None
        assert writes(disk.unit) and not any(writes(disk.unit))
        assert disk.code(cdb_of(0x2A, 8, 4), bytes(2048)) is None
    assert disk.select(caching(wce=False)).status == 0
    assert disk.unit.log[-1][0] == "flush"
    disk.unit.log.clear()
    assert disk.code(cdb, data) is None
    assert writes(disk.unit) and all(writes(disk.unit))
    assert disk.select(CACHING).status == 0
    assert disk.code(cdb_of(0x2A, 8, 1), BLOCK) is None
    assert disk.unit.log[-1] == ("write", 8, 1, False)


def test_without_wce_what_write_same_unmaps_is_flushed() -> None:
    disk = Disk()
    assert disk.select(caching(wce=False)).status == 0
    disk.unit.log.clear()
    assert disk.code(cdb_of(0x93, 8, 4, 8), bytes(512)) is None
    assert [name for name, *_ in disk.unit.log] == ["unmap", "flush"]


def test_without_wce_a_copy_has_fua() -> None:
    disk = Disk()
    data = copy_list([cscd(disk.unit)], [segment(0, 0, 1, 0, 8)])
    assert disk.select(caching(wce=False)).status == 0
    assert disk.code(extended_copy(len(data)), data) is None
    assert writes(disk.unit) == [True]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_was_on_its_way_when_wce_went_has_fua(kind: type[RamUnit]) -> None:
    """For every way that a unit can run, through its threads."""
    disk = Disk(kind())
    gate, ended = disk.lu.gate, []
    gate.open()
    try:
        (path,) = disk.one.paths.values()
        gate.submit(Exclusive(lambda: _select(disk)), ended.append)
        data = memoryview(BLOCK)
        gate.submit(Operation(Kind.WRITE, 0, 1, data=data), ended.append)  # asked for before
        gate.submit(Operation(Kind.READ, 0, 1), ended.append)
        gate.submit(Exclusive(lambda: _write_alone(data), 8, 1), ended.append)
    finally:
        gate.close()
    assert [operation.error for operation in ended] == [None] * 4
    assert sorted(entry for entry in disk.unit.log if entry[0] != "flush") == [
        ("read", 0, 1, False),
        ("write", 0, 1, True),
        ("write", 8, 1, True),
    ]
    assert not path.ready


def _select(disk: Disk) -> Sequel:
    yield from disk.lu.mode_parameters.change({"caching": {"WCE": 0}}, disk.one, save=False)


def _write_alone(data: memoryview) -> Sequel:
    yield Operation(Kind.WRITE, 8, 1, data=data)


def test_a_write_is_inline_only_if_one_with_fua_is() -> None:
    class Quick(InlineRamUnit):
        inline = Inline.READ | Inline.WRITE

    disk = Disk(Quick())
    write, read = Operation(Kind.WRITE, 0, 1, data=memoryview(BLOCK)), Operation(Kind.READ, 0, 1)
    assert disk.lu.gate.runs_inline(write) and disk.lu.gate.runs_inline(read)
    assert disk.select(caching(wce=False)).status == 0
    assert not disk.lu.gate.runs_inline(write) and disk.lu.gate.runs_inline(read)


def test_two_logical_units_of_one_storage_unit() -> None:
    """Each has a WCE of its own: what one promises does not end with the other's."""
    unit = InlineRamUnit()
    gate, port = Gate(unit), EnginePort()
    target = Target("iqn.2024-01.org.example:disk", [LogicalUnit(gate), LogicalUnit(gate)])
    nexus, data = ready_nexus(target), header() + caching(wce=False)
    assert port.execute(nexus, select(len(data)), data, 0).status == 0
    assert port.execute(nexus, select(len(data)), data, 1 << 48).status == 0
    data = header() + CACHING
    assert port.execute(nexus, select(len(data)), data, 1 << 48).status == 0
    assert port.execute(nexus, cdb_of(0x2A, 0, 1), BLOCK, 0).status == 0
    assert port.execute(nexus, select(len(data)), data, 0).status == 0
    assert port.execute(nexus, cdb_of(0x2A, 0, 1), BLOCK, 0).status == 0
    assert writes(unit) == [True, False]


# -- D_SENSE -----------------------------------------------------------------------------------


def test_the_format_of_sense_data() -> None:
    disk = Disk()
    far = cdb_of(0x88, 1 << 40, 1)
    for d_sense, expected in (
        (False, "70 00 05 00000000 0a 00000000 21 00 00 000000"),
        (True, "72 05 21 00 000000 0c 00 0a 80 00 0000010000000000"),
        (False, "70 00 05 00000000 0a 00000000 21 00 00 000000"),
    ):
        assert disk.select(control(d_sense=d_sense)).status == 0
        task = EnginePort().start(disk.one, far)
        (completion,) = task.completions
        assert completion is not None and completion.sense == bytes.fromhex(expected)


def test_the_format_of_request_sense_is_asked_for() -> None:
    disk = Disk()
    for d_sense in (False, True):
        assert disk.select(control(d_sense=d_sense)).status == 0
        disk.lu.establish(Asc.CAPACITY_CHANGED)
        assert disk.run(bytes.fromhex("0300 0000 ff 00")).data[0] == 0x70
        disk.lu.establish(Asc.CAPACITY_CHANGED)
        data = disk.run(bytes.fromhex("0301 0000 ff 00")).data
        assert data == bytes.fromhex("72 06 2a 09 000000 00")
        assert disk.run(bytes.fromhex("0301 0000 ff 00")).data == bytes.fromhex("7200" + "00" * 6)


def test_failures_on_the_way_have_the_same_format() -> None:
    disk = Disk(AsyncRamUnit())
    disk.unit.fault = _broken
    assert disk.select(control(d_sense=True)).status == 0
    started = EnginePort(deferred=True).start(disk.one, cdb_of(0x28, 3, 1))
    gate, ended = disk.lu.gate, []
    gate.open()
    try:
        operation = started.operation
        assert operation is not None
        gate.submit(operation, ended.append)
    finally:
        gate.close()
    started.finished(operation)
    (completion,) = started.completions
    assert completion is not None and completion.sense[0] == 0x72
    assert sense.decode(completion.sense) == Sense(4, Asc.INTERNAL_TARGET_FAILURE, 3)


def _broken(name: str, lba: int, blocks: int) -> None:
    if name == "read":
        raise OSError("broken")


def test_a_change_waits_for_its_turn_with_nobody_in_the_unit() -> None:
    disk = Disk()
    port = EnginePort(deferred=True)
    data = header() + control(d_sense=True)
    task = port.start(disk.one, select(len(data)), data)
    assert isinstance(task.operation, Exclusive) and not disk.lu.descriptor_sense
    port.step()
    assert disk.lu.descriptor_sense and task.completions[0] is not None


def test_a_reset_that_ends_wce_keeps_writes_from_the_fast_path_before_it_flushes() -> None:
    """What is written after that flush has FUA, or nobody would make it durable."""
    disk = Disk()
    parameters = disk.lu.mode_parameters
    parameters.saved = {**parameters.saved, "caching": {"WCE": 0}}
    ready: list[bool] = []
    (path,) = disk.one.paths.values()
    disk.unit.fault = lambda name, lba, blocks: ready.append(path.ready)
    assert path.ready
    parameters.reset()
    assert ready == [False] and disk.unit.calls["flush"] == 1
