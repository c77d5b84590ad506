"""START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL, and a unit without its medium."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kit.engine import EnginePort, Result, ready_nexus, target_of
from tests.kit.stepped import SteppedGate
from tests.kit.units import InlineRamUnit
from userdisk.errors import NoMedium, WriteError
from userdisk.operation import Kind, Operation
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, Pointer
from userdisk.target import operations, task_management
from userdisk.target.command import CheckCondition
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.nexus import Nexus
from userdisk.target.row import Flags
from userdisk.target.target import Target
from userdisk.target.task_management import Function

READY = bytes(6)
STOP, START, EJECT, LOAD = (bytes([0x1B, 0, 0, 0, what, 0]) for what in range(4))
ALLOW, PREVENT = (bytes([0x1E, 0, 0, 0, what, 0]) for what in range(2))
WRITE = bytes.fromhex("2a 00 00000000 00 0001 00")
READ = bytes.fromhex("28 00 00000000 00 0001 00")
ABSENT, PREVENTED = (2, Asc.MEDIUM_NOT_PRESENT), (5, Asc.MEDIUM_REMOVAL_PREVENTED)
CHANGED = (6, Asc.MEDIUM_MAY_HAVE_CHANGED)


class Disk:
    """A removable disk with two nexuses."""

    def __init__(self, **parameters: object) -> None:
        self.unit = InlineRamUnit(**{"removable": True, **parameters})
        self.gate = SteppedGate(self.unit)
        self.lu = LogicalUnit(self.gate)
        self.target = Target("iqn.2024-01.org.example:disk", [self.lu])
        self.one = ready_nexus(self.target, "iqn.2024-01.org.example:one")
        self.two = ready_nexus(self.target, "iqn.2024-01.org.example:two")

    def run(self, cdb: bytes, nexus: Nexus | None = None, data: bytes = b"") -> Result:
        return EnginePort().execute(nexus or self.one, cdb, data)

    def code(self, cdb: bytes, nexus: Nexus | None = None) -> tuple[int, int] | None:
        """Sense key and code of a command's answer; None: GOOD."""
        result = self.run(cdb, nexus, bytes(512))
        return (result.sense.key, result.sense.code) if result.sense else None


@pytest.fixture
def disk() -> Disk:
    return Disk()


# -- ejecting and loading ----------------------------------------------------------------------


@pytest.mark.parametrize("immediately", [False, True])
def test_eject_flushes_first_and_load_brings_it_back(disk: Disk, immediately: bool) -> None:
    eject, load = (bytes([0x1B, immediately, *cdb[2:]]) for cdb in (EJECT, LOAD))
    assert disk.run(WRITE, data=b"x" * 512).status == 0
    assert disk.run(eject) == (0, b"", None, None)
    assert [name for name, *_ in disk.unit.log] == ["write", "flush"]
    for nexus in (disk.one, disk.two):
        assert disk.code(READY, nexus) == disk.code(READ, nexus) == ABSENT
    assert disk.run(load) == (0, b"", None, None)
    assert disk.code(READY) is None
    assert disk.code(READY, disk.two) == CHANGED
    assert disk.code(READY, disk.two) is None
    assert disk.run(READ).data == b"x" * 512


def test_no_flush_is_for_stopping_only(disk: Disk) -> None:
    assert disk.code(bytes([0x1B, 0, 0, 0, 6, 0])) is None  # NO_FLUSH, LOEJ
    assert disk.unit.calls["flush"] == 1
    assert disk.code(READY) == ABSENT


def test_twice_is_no_error_and_tells_nobody(disk: Disk) -> None:
    assert disk.code(LOAD) is None
    assert disk.code(READY, disk.two) is None
    assert disk.code(EJECT) is disk.code(EJECT, disk.two) is None
    assert disk.unit.calls["flush"] == 1
    assert disk.code(START) == disk.code(STOP) == ABSENT


def test_a_flush_that_fails_keeps_the_medium(disk: Disk) -> None:
    def fault(name: str, lba: int, blocks: int) -> None:
        if name == "flush":
            raise WriteError("worn out")

    disk.unit.fault = fault
    assert disk.code(EJECT) == (3, Asc.WRITE_ERROR)
    assert disk.code(READY) is None
    assert disk.code(READ, disk.two) is None


def test_a_write_protected_disk_is_not_flushed() -> None:
    disk = Disk(write_protected=True)
    assert disk.code(STOP) is disk.code(EJECT) is None
    assert not disk.unit.log


def test_a_new_nexus_finds_no_medium(disk: Disk) -> None:
    disk.run(EJECT)
    other = disk.target.attach("iqn.2024-01.org.example:three")
    assert disk.code(READY, other) == (6, Asc.POWER_ON_OR_RESET)
    assert disk.code(READY, other) == ABSENT


def test_a_reset_does_not_load(disk: Disk) -> None:
    disk.run(EJECT)
    task_management.manage(Function.LOGICAL_UNIT_RESET, disk.one, 0, None, lambda response: None)
    assert disk.code(READY) == (6, Asc.LOGICAL_UNIT_RESET)
    assert disk.code(READY) == ABSENT


@pytest.mark.parametrize("descriptor", [0, 1])
def test_request_sense_tells_it_as_data(disk: Disk, descriptor: int) -> None:
    asked = bytes([3, descriptor, 0, 0, 252, 0])
    disk.run(EJECT)
    told = disk.run(asked)
    assert told.status == 0
    assert sense.decode(told.data) == sense.medium_not_present()
    disk.run(LOAD)
    assert sense.decode(disk.run(asked).data) == sense.NO_SENSE
    assert sense.decode(disk.run(asked, disk.two).data) == sense.unit_attention(0x2800)


def test_every_command_without_a_medium(disk: Disk) -> None:
    disk.run(EJECT)
    disk.unit.log.clear()
    runs = 0
    for row in operations.ROWS:
        if not row.offered(disk.lu):
            continue
        cdb = bytearray(16)
        cdb[0], cdb[1] = row.opcode, row.service_action or 0
        result = disk.run(bytes(cdb))
        absent = result.sense is not None and result.sense.code == Asc.MEDIUM_NOT_PRESENT
        if row.opcode == 0x1B:
            assert absent, row.name  # a stop; it decides itself
        else:
            assert absent is (Flags.WITHOUT_MEDIUM not in row.flags), row.name
            runs += not absent
    assert runs > 5
    assert not disk.unit.log


def test_no_medium_comes_after_a_command_that_is_wrong(disk: Disk) -> None:
    disk.run(EJECT)
    assert disk.code(b"\xff") == (5, Asc.INVALID_OPERATION_CODE)
    assert disk.code(bytes.fromhex("28 80 00000000 00 0001 00")) == (5, Asc.INVALID_FIELD_IN_CDB)


# -- what is under way -------------------------------------------------------------------------


def test_a_write_that_was_on_its_way_finds_no_medium(disk: Disk) -> None:
    port = EnginePort(deferred=True, piece=512)
    write = port.start(disk.one, bytes.fromhex("2a 00 00000000 00 0002 00"), b"x" * 1024)
    port.step()  # the first block is there; the second has been asked for
    assert disk.unit.memory[:512] == b"x" * 512
    assert disk.code(EJECT, disk.two) is None
    before = bytes(disk.unit.memory)
    while port.waiting:
        port.step()
    (completion,) = write.completions
    assert completion is not None
    assert sense.decode(completion.sense).code == Asc.MEDIUM_NOT_PRESENT
    assert disk.unit.memory == before
    assert not port.reports


@pytest.mark.parametrize("forced", [False, True])
def test_a_write_does_not_go_on_with_the_next_medium(disk: Disk, forced: bool) -> None:
    port = EnginePort(deferred=True, piece=512)
    write = port.start(disk.one, bytes.fromhex("2a 00 00000000 00 0002 00"), b"x" * 1024)
    port.step()  # the first block is there; the second has been asked for
    if forced:
        disk.lu.medium.eject(lambda error: None, force=True)
        disk.gate.run_all()
    else:
        assert disk.code(EJECT, disk.two) is None
    disk.unit.memory[:] = bytes(len(disk.unit.memory))  # another one
    disk.lu.medium.load(lambda error: None)
    disk.gate.run_all()
    while port.waiting:
        port.step()
    (completion,) = write.completions
    assert completion is not None
    assert sense.decode(completion.sense).code == Asc.MEDIUM_NOT_PRESENT
    assert not any(disk.unit.memory)
    assert [disk.code(READY), disk.code(WRITE)] == [CHANGED, None]
    (path,) = disk.one.paths.values()
    assert path.ready  # for the fast path


@pytest.mark.parametrize("cdb", ["89 000000000000000000 000000 01 0000", "35 00 000000000000 0000"])
def test_so_do_exclusive_operations_and_flushes(disk: Disk, cdb: str) -> None:
    port = EnginePort(deferred=True)
    task = port.start(disk.one, bytes.fromhex(cdb), bytes(512) + b"x" * 512)
    disk.run(EJECT, disk.two)
    disk.unit.log.clear()
    while port.waiting:
        port.step()
    (completion,) = task.completions
    assert completion is not None
    assert sense.decode(completion.sense).code == Asc.MEDIUM_NOT_PRESENT
    assert not disk.unit.log


def test_operations_that_pass_the_engine_by_find_no_medium(disk: Disk) -> None:
    disk.run(EJECT)
    operation = Operation(Kind.READ, 0, 1)
    assert disk.gate.enter()
    disk.gate.run(operation)
    disk.gate.leave()
    assert isinstance(operation.error, NoMedium)
    disk.run(LOAD)
    again = Operation(Kind.READ, 0, 1)
    disk.gate.perform(again)
    assert again.error is None


def test_who_prevents_while_it_is_flushed_is_heard(disk: Disk) -> None:
    def fault(name: str, lba: int, blocks: int) -> None:
        disk.lu.medium.prevent(disk.two, removal=True)

    disk.unit.fault = fault
    assert disk.code(EJECT) == PREVENTED
    assert disk.code(READY) is None


# -- locking -----------------------------------------------------------------------------------


def test_prevented_until_the_last_nexus_allows(disk: Disk) -> None:
    assert disk.code(PREVENT) is disk.code(PREVENT, disk.two) is disk.code(PREVENT) is None
    assert disk.code(EJECT) == disk.code(EJECT, disk.two) == PREVENTED
    assert disk.code(ALLOW) is None
    assert disk.code(EJECT) == PREVENTED
    assert disk.code(ALLOW, disk.two) is None
    assert disk.code(EJECT) is None


def test_an_empty_drive_that_is_locked_takes_none(disk: Disk) -> None:
    disk.run(EJECT)
    assert disk.code(PREVENT) is None
    assert disk.code(LOAD) == PREVENTED
    assert disk.code(ALLOW) is None
    assert disk.code(LOAD) is None


def test_loading_what_is_loaded_is_no_move(disk: Disk) -> None:
    disk.run(PREVENT)
    assert disk.code(LOAD) is None


def reset(function: Function) -> Callable[[Disk], None]:
    def perform(disk: Disk) -> None:
        task_management.manage(function, disk.two, 0, None, lambda response: None)
        while not next(iter(disk.one.paths.values())).ready:
            disk.code(READY)

    return perform


@pytest.mark.parametrize(
    "event",
    [
        lambda disk: disk.target.detach(disk.two),
        reset(Function.LOGICAL_UNIT_RESET),
        reset(Function.TARGET_WARM_RESET),
        reset(Function.TARGET_COLD_RESET),
    ],
    ids=["nexus loss", "unit reset", "warm reset", "cold reset"],
)
def test_what_ends_prevention(disk: Disk, event: Callable[[Disk], None]) -> None:
    disk.run(PREVENT, disk.two)
    assert disk.code(EJECT) == PREVENTED
    event(disk)
    assert disk.code(EJECT) is None


def test_aborts_do_not_end_prevention(disk: Disk) -> None:
    disk.run(PREVENT)
    reset(Function.CLEAR_TASK_SET)(disk)
    assert disk.code(EJECT) == PREVENTED


def test_a_unit_may_disable_ejecting() -> None:
    disk = Disk(eject_disabled=True)
    assert disk.code(EJECT) == PREVENTED
    assert disk.code(LOAD) is None


# -- power, and fixed disks --------------------------------------------------------------------


@pytest.mark.parametrize("condition", range(1, 16))
def test_a_power_condition_flushes_and_never_ejects(disk: Disk, condition: int) -> None:
    for bits in range(4):
        assert disk.code(bytes([0x1B, 0, 0, 0, condition << 4 | bits, 0])) is None
        assert disk.code(READY) is None
    assert disk.unit.calls["flush"] == 4
    assert disk.code(bytes([0x1B, 0, 0, 0, condition << 4 | 4, 0])) is None
    assert disk.unit.calls["flush"] == 4


@pytest.mark.parametrize("removable", [False, True])
def test_stopping_flushes_and_leaves_the_unit_ready(removable: bool) -> None:
    disk = Disk(removable=removable)
    assert disk.code(STOP) is None
    assert disk.unit.calls["flush"] == 1
    assert disk.code(bytes([0x1B, 1, 0, 0, 4, 0])) is disk.code(START) is None
    assert disk.unit.calls["flush"] == 1
    assert disk.code(READY) is disk.code(READY, disk.two) is None


def test_a_fixed_disk() -> None:
    disk = Disk(removable=False)
    for cdb in (EJECT, LOAD):
        result = disk.run(cdb)
        assert result.sense == sense.invalid_field_in_cdb(4, 1)
    assert disk.code(PREVENT) == (5, Asc.INVALID_OPERATION_CODE)
    assert disk.code(READY) is None
    assert not disk.unit.log


def test_reserved_and_obsolete_bits(disk: Disk) -> None:
    for cdb, pointer in ((bytes([0x1E, 0, 0, 0, 2, 0]), Pointer(4, 1)),
                         (bytes([0x1B, 0, 0, 1, 0, 0]), Pointer(3, 0))):  # fmt: skip
        result = disk.run(cdb)
        assert result.sense is not None and result.sense.pointer == pointer


# -- from the program --------------------------------------------------------------------------


def test_the_program_ejects_and_loads(disk: Disk) -> None:
    heard: list[BaseException | None] = []
    disk.lu.medium.eject(heard.append)
    disk.gate.run_all()
    assert heard == [None]
    assert disk.unit.calls["flush"] == 1
    assert disk.code(READY) == ABSENT
    disk.run(PREVENT)
    disk.lu.medium.load(heard.append)  # whoever locks the drive: it is the program's
    disk.gate.run_all()
    assert heard == [None, None]
    assert disk.code(READY) == disk.code(READY, disk.two) == CHANGED


def test_the_program_may_insist(disk: Disk) -> None:
    heard: list[BaseException | None] = []
    disk.run(PREVENT)
    disk.lu.medium.eject(heard.append)
    disk.gate.run_all()
    (error,) = heard
    assert isinstance(error, CheckCondition)
    assert (error.sense.key, error.sense.code) == PREVENTED
    assert disk.code(READY) is None
    disk.lu.medium.eject(heard.append, force=True)
    disk.gate.run_all()
    assert heard[1] is None
    assert disk.code(READY) == ABSENT


def test_two_units_do_not_share_a_medium() -> None:
    target = target_of(InlineRamUnit(removable=True), InlineRamUnit(removable=True))
    nexus = ready_nexus(target)
    port = EnginePort()
    assert port.execute(nexus, EJECT).status == 0
    assert port.execute(nexus, READY, lun=1 << 48).status == 0
    assert port.execute(nexus, READY).status == 2
