"""SANITIZE: what it writes, what runs meanwhile, what a failure and a restart leave."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.engine import EnginePort, EngineTask, Result, ready_nexus
from tests.kit.erasable import Encrypted
from tests.kit.stepped import SteppedGate
from tests.kit.units import InlineRamUnit, RamUnit, ThickRamUnit
from userdisk.errors import MediumError, SanitizeInProgress, UsageError, UserdiskError
from userdisk.operation import Kind, Operation
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, Pointer, Sense
from userdisk.target import operations, task_management
from userdisk.target.logical_unit import LogicalUnit, Saved, Unsaved
from userdisk.target.nexus import Nexus
from userdisk.target.row import Flags
from userdisk.target.target import Target
from userdisk.target.task_management import Function
from userdisk.unit import StorageUnit

OVERWRITE, BLOCK_ERASE, CRYPTO_ERASE, EXIT = 0x01, 0x02, 0x03, 0x1F
IMMED, AUSE = 0x80, 0x20
READY, FAILED = bytes(6), (3, Asc.SANITIZE_COMMAND_FAILED)
BUSY = (2, Asc.SANITIZE_IN_PROGRESS)
WRITE = bytes.fromhex("2a 00 00000000 00 0001 00")


def parameters(pattern: bytes, count: int = 1, *, invert: bool = False) -> bytes:
    return bytes([invert << 7 | count, 0]) + len(pattern).to_bytes(2, "big") + pattern


def sanitize(what: int, length: int = 0) -> bytes:
    return bytes([0x48, what, 0, 0, 0, 0, 0]) + length.to_bytes(2, "big") + b"\0"


class Disk:
    """A disk whose background runs when the test says; made again, it has what was saved."""

    def __init__(self, unit: StorageUnit | None = None, saved: Saved | None = None) -> None:
        self.unit = unit or InlineRamUnit()
        self.gate = SteppedGate(self.unit)
        self.saved = saved or Unsaved()
        self.lu = LogicalUnit(self.gate, saved=self.saved)
        self.target = Target("iqn.2024-01.org.example:disk", [self.lu])
        self.one = ready_nexus(self.target, "iqn.2024-01.org.example:one")
        self.two = ready_nexus(self.target, "iqn.2024-01.org.example:two")
        self.port = EnginePort()

    def restarted(self) -> Disk:
        return Disk(self.unit, self.saved)

    def run(self, cdb: bytes, data: bytes = b"", nexus: Nexus | None = None) -> Result:
        return EnginePort().execute(nexus or self.one, cdb, data)

    def start(self, what: int, data: bytes = b"") -> EngineTask:
        """Start a SANITIZE; without IMMED it waits for the background."""
        return self.port.start(self.one, sanitize(what, len(data)), data)

    def begin(self, data: bytes = parameters(b"\xaa"), what: int = OVERWRITE) -> None:
        """A SANITIZE with IMMED."""
        assert self.run(sanitize(what | IMMED, len(data)), data).status == 0

    def code(self, cdb: bytes = READY, data: bytes = b"") -> tuple[int, int] | None:
        found = self.run(cdb, data).sense
        return (found.key, found.code) if found else None

    def told(self) -> Sense:
        """What REQUEST SENSE tells."""
        return sense.decode(self.run(bytes([3, 0, 0, 0, 252, 0])).data)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def ram(disk: Disk) -> RamUnit:
    assert isinstance(disk.unit, RamUnit)
    return disk.unit


def failing(disk: Disk, at: int = 0) -> None:
    def fault(name: str, lba: int, blocks: int) -> None:
        if name == "write" and lba >= at:
            raise MediumError("worn out")

    ram(disk).fault = fault


# -- overwriting -------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", [b"\0", b"\x5a", b"abcd", bytes(range(256)) * 2, b"x" * 511])
def test_every_block_begins_with_the_pattern(disk: Disk, pattern: bytes) -> None:
    ram(disk).memory[:] = b"secret.." * (len(ram(disk).memory) // 8)
    task = disk.start(OVERWRITE, parameters(pattern))
    assert not task.completions
    disk.gate.run_all()
    assert task.completions == [(0, (), b"", 4 + len(pattern))]
    block = (pattern * 512)[:512]
    assert ram(disk).memory == block * disk.unit.block_count
    assert ram(disk).log[-1][0] == "flush"
    assert disk.code() is None


@pytest.mark.parametrize("count", [1, 2, 3, 31])
@pytest.mark.parametrize("invert", [False, True])
def test_passes(count: int, invert: bool) -> None:
    disk = Disk(InlineRamUnit(block_count=8))
    seen: list[bytes] = []

    def fault(name: str, lba: int, blocks: int) -> None:
        if name == "flush":
            seen.append(bytes(ram(disk).memory))

    ram(disk).fault = fault
    disk.begin(parameters(b"\x0f\x00", count, invert=invert))
    disk.gate.run_all()
    plain, inverted = b"\x0f\x00" * 2048, b"\xf0\xff" * 2048
    wanted = [inverted if invert and number % 2 else plain for number in range(count)]
    assert seen == wanted[::-1]  # the last one is the pattern itself


def test_steps_of_a_mebibyte(disk: Disk) -> None:
    disk = Disk(InlineRamUnit(block_count=5000, max_transfer_length=8 << 20))
    disk.begin()
    disk.gate.run_all()
    assert [each[:3] for each in ram(disk).log] == [
        ("write", 0, 2048), ("write", 2048, 2048), ("write", 4096, 904), ("flush", 0, 0)
    ]  # fmt: skip


def test_a_thin_disk_stays_mapped_by_overwriting(disk: Disk) -> None:
    disk.begin()
    disk.gate.run_all()
    assert not ram(disk).calls["unmap"]


# -- parameter lists ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "announced", "expected"),
    [
        *((b"\x01\0\0\x04abcd"[:length], length, sense.invalid_field_in_cdb(7))
          for length in range(5)),
        (parameters(b"a" * 512) + b"a", 517, sense.invalid_field_in_cdb(7)),
        (parameters(b"a" * 65531), 65535, sense.invalid_field_in_cdb(7)),
        (b"\0\0\0\x04abcd", 8, sense.invalid_field_in_parameter_list(0, 4)),
        (b"\x80\0\0\x04abcd", 8, sense.invalid_field_in_parameter_list(0, 4)),
        (b"\x21\0\0\x04abcd", 8, sense.invalid_field_in_parameter_list(0, 6)),
        (b"\x41\0\0\x04abcd", 8, sense.invalid_field_in_parameter_list(0, 6)),
        (b"\x01\x01\0\x04abcd", 8, sense.invalid_field_in_parameter_list(1)),
        (b"\x01\0\0\0abcd", 8, sense.invalid_field_in_parameter_list(2)),
        (b"\x01\0\x02\x01abcd", 8, sense.invalid_field_in_parameter_list(2)),
        (b"\x01\0\xff\xffabcd", 8, sense.invalid_field_in_parameter_list(2)),
        (b"\x01\0\0\x05abcd", 8, sense.parameter_list_length_error()),
        (b"\x01\0\x02\0abcd", 8, sense.parameter_list_length_error()),
        (b"\x01\0\0\x04abc", 8, sense.data_out_too_short()),
        (b"", 8, sense.data_out_too_short()),
    ],
)  # fmt: skip
def test_bad_parameter_lists(disk: Disk, data: bytes, announced: int, expected: Sense) -> None:
    assert disk.run(sanitize(OVERWRITE, announced), data).sense == expected
    assert disk.code() is None
    assert not disk.gate.submitted and not ram(disk).log
    assert disk.saved.get("sanitize") is None


def test_what_follows_the_pattern_has_no_meaning(disk: Disk) -> None:
    disk.begin(parameters(b"ab") + b"cd")
    disk.gate.run_all()
    assert ram(disk).memory[:4] == b"abab"


def test_a_pattern_in_pieces() -> None:
    disk = Disk()
    disk.port.piece = 3
    data = parameters(b"abcdefgh")
    disk.start(OVERWRITE, data)
    disk.gate.run_all()
    assert ram(disk).memory[:16] == b"abcdefgh" * 2


@pytest.mark.parametrize("action", [BLOCK_ERASE, CRYPTO_ERASE, EXIT])
@pytest.mark.parametrize("length", [1, 8, 0x100])
def test_the_others_take_no_parameters(action: int, length: int) -> None:
    disk = Disk(Encrypted())
    result = disk.run(sanitize(action, length), bytes(length))
    assert result.sense is not None and result.sense.code == Asc.INVALID_FIELD_IN_CDB
    assert isinstance(result.sense.pointer, Pointer) and result.sense.pointer.byte in (7, 8)
    assert not disk.gate.submitted


def test_actions_that_a_unit_does_not_have(disk: Disk) -> None:
    for action in set(range(32)) - {OVERWRITE, EXIT}:
        assert disk.run(sanitize(action)).sense == sense.invalid_field_in_cdb(1, 4)
    assert not disk.gate.submitted


def test_write_protected() -> None:
    disk = Disk(InlineRamUnit(write_protected=True))
    data = parameters(b"a")
    assert disk.run(sanitize(OVERWRITE, len(data)), data).sense == sense.write_protected()
    assert not ram(disk).log and not disk.gate.submitted


def test_no_medium_to_sanitize() -> None:
    disk = Disk(InlineRamUnit(removable=True))
    late = EnginePort(deferred=True)
    data = parameters(b"a")
    task = late.start(disk.two, sanitize(OVERWRITE, len(data)), data)
    disk.run(bytes([0x1B, 0, 0, 0, 2, 0]))
    while late.waiting:
        late.step()
    (completion,) = task.completions
    assert completion is not None
    assert sense.decode(completion.sense) == sense.medium_not_present()
    assert not disk.gate.submitted


def test_a_reservation_of_another(disk: Disk) -> None:
    assert disk.run(bytes([0x16, 0, 0, 0, 0, 0]), nexus=disk.two).status == 0
    for action in (OVERWRITE, EXIT):
        assert disk.run(sanitize(action, 5), b"\x01\0\0\x01a").status == 0x18
    assert not disk.gate.submitted


# -- erasing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [BLOCK_ERASE, CRYPTO_ERASE])
def test_an_encrypted_disk(action: int) -> None:
    unit = Encrypted(block_count=64)
    disk = Disk(unit)
    unit.write(0, memoryview(b"secret.." * 64 * 64), False)
    key = unit._key
    task = disk.start(action)
    disk.gate.step()  # it is erased, but not unmapped yet
    assert b"secret" not in unit.read(0, 64, False)
    assert (unit._key == key) is (action == BLOCK_ERASE)
    disk.gate.run_all()
    assert task.completions == [(0, (), b"", None)]
    assert not any(extent.mapped for extent in unit.extents(0, 64))
    assert not any(unit.read(0, 64, False))


def test_a_thick_disk_is_erased_and_not_unmapped() -> None:
    class Erasing(ThickRamUnit):
        def erase(self) -> None:
            self.memory[:] = b"\xff" * len(self.memory)

    unit = Erasing(block_count=8)
    disk = Disk(unit)
    disk.begin(b"", BLOCK_ERASE)
    disk.gate.run_all()
    assert set(unit.memory) == {0xFF}
    assert disk.code() is None


def test_unmapping_keeps_to_the_limits_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from userdisk.target import provisioning

    monkeypatch.setattr(provisioning, "MAX_BLOCKS", 1000)
    seen: list[tuple[int, int]] = []

    class Noted(Encrypted):
        def unmap(self, extents: Any) -> None:
            seen.extend(extents)
            super().unmap(extents)

    disk = Disk(Noted(block_count=2500))
    disk.begin(b"", CRYPTO_ERASE)
    disk.gate.run_all()
    assert seen == [(0, 1000), (1000, 1000), (2000, 500)]


# -- while it runs -----------------------------------------------------------------------------


def test_progress() -> None:
    disk = Disk(InlineRamUnit(block_count=2048, max_transfer_length=256 << 10))
    disk.begin(parameters(b"a", 2))
    progress = [disk.told().progress]
    for _ in range(4):
        disk.gate.step()
        progress.append(disk.told().progress)
    disk.gate.step()  # the flush between the passes
    for _ in range(4):
        disk.gate.step()
        progress.append(disk.told().progress)
    eighth = 65536 // 8
    assert progress == [*(number * eighth for number in range(8)), 65535]
    disk.gate.run_all()
    assert disk.told() == sense.NO_SENSE


def test_progress_is_in_both_formats(disk: Disk) -> None:
    disk.begin()
    disk.lu.sanitize._tell(1024, 1)
    assert disk.told() == Sense(2, Asc.SANITIZE_IN_PROGRESS, progress=32768)
    described = disk.run(bytes([3, 1, 0, 0, 252, 0])).data
    assert described == bytes.fromhex("72 02 04 1b 00 00 00 08  02 06 00 00 80 80 00 00")
    result = disk.run(READY)
    assert result.sense == disk.told()


def test_every_command_meanwhile(disk: Disk) -> None:
    disk.begin()
    allowed = set()
    for row in operations.ROWS:
        if not row.offered(disk.lu):
            continue
        cdb = bytearray(16)
        cdb[0], cdb[1] = row.opcode, row.service_action or 0
        result = disk.run(bytes(cdb))
        busy = result.sense is not None and result.sense.code == Asc.SANITIZE_IN_PROGRESS
        assert busy is (Flags.WHILE_SANITIZING not in row.flags), row.name
        if not busy:
            allowed.add(row.name)
    assert allowed >= {"INQUIRY", "REPORT LUNS", "REQUEST SENSE"}
    assert not ram(disk).log


def test_a_second_one(disk: Disk) -> None:
    late = EnginePort(deferred=True)
    data = parameters(b"\x55")
    second = late.start(disk.two, sanitize(OVERWRITE, len(data)), data)
    leaving = late.start(disk.two, sanitize(EXIT))
    disk.begin()  # overtakes them
    while late.waiting:
        late.step()
    for task in (second, leaving):
        (completion,) = task.completions
        assert completion is not None
        assert sense.decode(completion.sense).code == Asc.SANITIZE_IN_PROGRESS
    disk.gate.run_all()
    assert set(ram(disk).memory) == {0xAA}


def test_a_write_that_was_on_its_way_fails(disk: Disk) -> None:
    late = EnginePort(deferred=True)
    write = late.start(disk.two, WRITE, b"x" * 512)
    disk.begin()
    disk.gate.step()
    late.step()
    (completion,) = write.completions
    assert completion is not None
    found = sense.decode(completion.sense)
    assert (found.key, found.code) == BUSY
    disk.gate.run_all()
    assert set(ram(disk).memory) == {0xAA}
    assert not late.reports
    passing = Operation(Kind.READ, 0, 1)
    disk.gate.perform(passing)
    assert passing.error is None


def test_a_write_that_began_before_does_not_go_on_afterwards(disk: Disk) -> None:
    late = EnginePort(deferred=True)
    write = late.start(disk.two, WRITE, b"x" * 512)
    disk.begin()
    disk.gate.run_all()
    assert disk.code() is None
    assert all(path.ready for path in disk.lu.paths)  # for the fast path
    late.step()
    (completion,) = write.completions
    assert completion is not None
    found = sense.decode(completion.sense)
    assert (found.key, found.code) == BUSY
    assert set(ram(disk).memory) == {0xAA}


def test_the_unit_is_barred_to_other_ports(disk: Disk) -> None:
    disk.begin()
    passing = Operation(Kind.READ, 0, 1)
    disk.gate.perform(passing)
    assert isinstance(passing.error, SanitizeInProgress)


@pytest.mark.parametrize("immediately", [0, IMMED])
def test_it_outlives_aborts_resets_and_its_nexus(disk: Disk, immediately: int) -> None:
    task = disk.start(OVERWRITE | immediately, parameters(b"\xaa"))
    answers: list[int] = []
    for function in (
        Function.ABORT_TASK_SET,
        Function.CLEAR_TASK_SET,
        Function.LOGICAL_UNIT_RESET,
        Function.TARGET_WARM_RESET,
        Function.TARGET_COLD_RESET,
    ):
        task_management.manage(function, disk.one, 0, None, answers.append)
    assert answers == [0] * 5
    disk.target.detach(disk.one)
    assert [completion is None for completion in task.completions] == [not immediately]
    path = next(iter(disk.two.paths.values()))
    while disk.lu.take_attention(path) is not None:
        pass
    assert disk.run(READY, nexus=disk.two).sense == disk.lu.sanitize.pollable() is not None
    disk.gate.run_all()
    assert disk.run(READY, nexus=disk.two).status == 0
    assert set(ram(disk).memory) == {0xAA}


# -- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1024])
def test_a_failure_is_told_until_another_succeeds(at: int) -> None:
    disk = Disk(InlineRamUnit(max_transfer_length=1 << 18))
    failing(disk, at)
    task = disk.start(OVERWRITE, parameters(b"a"))
    disk.gate.run_all()
    (completion,) = task.completions
    assert completion is not None
    assert sense.decode(completion.sense) == sense.sanitize_failed()
    assert disk.code() == disk.code(WRITE, b"x" * 512) == FAILED
    assert disk.told() == sense.sanitize_failed()
    assert disk.run(bytes([0x12, 0, 0, 0, 96, 0])).status == 0
    assert disk.run(sanitize(EXIT)).sense == sense.invalid_field_in_cdb(1, 4)
    data = parameters(b"a")
    refused = disk.run(sanitize(OVERWRITE | AUSE, len(data)), data)
    assert refused.sense == sense.invalid_field_in_cdb(1, 5)  # what was restricted stays so
    assert disk.code() == FAILED
    ram(disk).fault = None
    disk.begin()
    disk.gate.run_all()
    assert disk.code() is None
    assert disk.saved.get("sanitize") is None


def test_a_failure_may_be_left_behind_if_that_was_agreed(disk: Disk) -> None:
    failing(disk)
    disk.begin(what=OVERWRITE | AUSE)
    assert disk.code(sanitize(EXIT)) == BUSY
    disk.gate.run_all()
    assert disk.code() == FAILED
    assert disk.run(sanitize(EXIT)).status == 0
    assert disk.code() is None
    assert disk.saved.get("sanitize") is None


def test_where_nothing_has_failed_there_is_nothing_to_leave(disk: Disk) -> None:
    assert disk.run(sanitize(EXIT | AUSE | IMMED)).status == 0
    assert disk.code() is None


def test_a_flush_or_an_erase_that_fails() -> None:
    class Failing(Encrypted):
        def erase(self) -> None:
            raise OSError(5, "no")

        def flush(self) -> None:
            raise OSError(5, "no")

    for data, what in ((parameters(b"a"), OVERWRITE), (b"", BLOCK_ERASE), (b"", CRYPTO_ERASE)):
        disk = Disk(Failing(block_count=8))
        disk.begin(data, what)
        disk.gate.run_all()
        assert disk.code() == FAILED


class Full(Unsaved):
    """A place for state that takes none, from the given time on."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def save(self, name: str, value: Any) -> bool:
        if not self.times:
            raise UserdiskError("disk full")
        self.times -= 1
        return super().save(name, value)


def test_what_cannot_be_saved_does_not_begin() -> None:
    disk = Disk(saved=Full(0))
    data = parameters(b"a")
    result = disk.run(sanitize(OVERWRITE, len(data)), data)
    assert result.sense is not None and result.sense.key == 4
    assert disk.code() is None
    assert not ram(disk).log and not disk.gate.submitted


def test_an_end_that_cannot_be_saved_is_a_failure() -> None:
    saved = Full(1)
    disk = Disk(saved=saved)
    disk.begin()
    disk.gate.run_all()
    assert disk.code() == FAILED
    saved.times = 9
    again = disk.restarted()
    assert again.code() == BUSY  # which is what was saved last
    again.lu.sanitize.resume()
    again.gate.run_all()
    assert again.code() is None


# -- over a restart ----------------------------------------------------------------------------


def test_it_is_saved_before_the_first_block_changes(disk: Disk) -> None:
    seen: list[Any] = []

    def fault(name: str, lba: int, blocks: int) -> None:
        seen.append(disk.saved.get("sanitize"))

    ram(disk).fault = fault
    disk.begin(parameters(b"\xaa\x55", 3, invert=True), OVERWRITE | AUSE)
    disk.gate.run_all()
    assert len(seen) == 6
    assert (
        seen
        == [
            {
                "kind": "WRITE",
                "unrestricted": True,
                "pattern": "aa55",
                "passes": 3,
                "invert": True,
                "failed": False,
            }
        ]
        * 6
    )
    assert disk.saved.get("sanitize") is None


@pytest.mark.parametrize("steps", range(5))
def test_another_process_goes_on(steps: int) -> None:
    disk = Disk(InlineRamUnit(max_transfer_length=1 << 18))
    disk.begin(parameters(b"\xaa\x55"))
    for _ in range(steps):
        disk.gate.step()
    again = disk.restarted()
    assert again.code() == BUSY
    assert not again.gate.submitted
    again.lu.sanitize.resume()
    again.gate.run_all()
    assert again.code() is None
    assert ram(again).memory == b"\xaa\x55" * (len(ram(again).memory) // 2)
    last = again.restarted()
    last.lu.sanitize.resume()
    assert last.code() is None and not last.gate.submitted


@pytest.mark.parametrize("action", [BLOCK_ERASE, CRYPTO_ERASE])
def test_another_process_erases(action: int) -> None:
    disk = Disk(Encrypted(block_count=8))
    disk.begin(b"", action)
    again = disk.restarted()
    again.lu.sanitize.resume()
    again.gate.run_all()
    assert again.code() is None


def test_after_a_restart_the_unit_is_barred_from_the_start(disk: Disk) -> None:
    disk.begin()
    again = disk.restarted()
    write = Operation(Kind.WRITE, 0, 1, data=memoryview(b"x" * 512))
    again.gate.perform(write)
    assert isinstance(write.error, SanitizeInProgress)
    again.lu.sanitize.resume()
    again.gate.run_all()
    again.gate.perform(write := Operation(Kind.WRITE, 0, 1, data=memoryview(b"x" * 512)))
    assert write.error is None


def test_a_failure_is_one_after_a_restart() -> None:
    disk = Disk()
    failing(disk)
    disk.begin(what=OVERWRITE | AUSE)
    disk.gate.run_all()
    again = disk.restarted()
    again.lu.sanitize.resume()
    assert not again.gate.submitted
    assert again.code() == FAILED
    assert again.run(sanitize(EXIT)).status == 0
    assert again.restarted().code() is None


def test_a_unit_that_is_write_protected_now_waits() -> None:
    saved = Unsaved()
    disk = Disk(saved=saved)
    disk.begin()
    again = Disk(InlineRamUnit(write_protected=True), saved)
    again.lu.sanitize.resume()
    assert not again.gate.submitted
    assert again.code() == BUSY


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "READ"},
        {"kind": "ERASE"},  # which has no pattern
        {"kind": None},
        {"pattern": ""},
        {"pattern": "a"},
        {"pattern": 5},
        {"pattern": "00" * 513},
        {"passes": 0},
        {"passes": 32},
        {"passes": "1"},
        {"passes": 1.5},
        {"passes": True},
        {"unrestricted": "no"},
        {"invert": 0},
        {"failed": None},
        {"more": 1},
    ],
)
def test_what_was_saved_and_is_no_plan(disk: Disk, change: dict[str, Any]) -> None:
    disk.begin()
    disk.saved.save("sanitize", disk.saved.get("sanitize") | change)
    with pytest.raises(UsageError, match="sanitize operation is not valid"):
        disk.restarted()


@pytest.mark.parametrize("value", [1, "x", [], ["kind"], {}])
def test_what_was_saved_and_is_nothing_like_it(disk: Disk, value: Any) -> None:
    disk.saved.save("sanitize", value)
    with pytest.raises(UsageError, match="sanitize operation is not valid"):
        disk.restarted()


def test_interrupted_for_the_end_of_the_process(disk: Disk) -> None:
    disk = Disk(InlineRamUnit(max_transfer_length=1 << 18))
    task = disk.start(OVERWRITE, parameters(b"\xaa"))
    disk.gate.step()
    stopped: list[bool] = []
    disk.lu.background.stop(lambda: stopped.append(True))
    assert not stopped
    disk.gate.run_all()
    assert stopped
    (completion,) = task.completions
    assert completion is not None
    assert sense.decode(completion.sense).code == Asc.SANITIZE_IN_PROGRESS
    assert ram(disk).calls["write"] == 2
    assert disk.restarted().code() == BUSY
