"""What the fast path must not take for a plain command: everything that differs in a single bit.

The twin of `test_fast_path`: there random streams, here each check by itself. A plain command goes
before, so that what follows is compared with it as bytes.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.iscsi.test_fast_path import BLOCKS, Recorded, _cdb
from tests.kit.units import InlineRamUnit, RamUnit
from userdisk.iscsi.connection import Phase
from userdisk.scsi.sense import Asc
from userdisk.unit import Inline

READ_10, WRITE_10, READ_16, WRITE_16 = 0x28, 0x2A, 0x88, 0x8A
LBA = 16


class Twins:
    """The same bytes for two connections, one of which has a fast path."""

    def __init__(self, **settings: Any) -> None:
        self.units = [[InlineRamUnit(block_count=BLOCKS) for _ in range(2)] for _ in range(2)]
        self.links = [
            Recorded(*units, fast=fast, **settings)
            for units, fast in zip(self.units, (True, False), strict=True)
        ]
        self.itt = 0x1000

    def pdu(self, operation: int, lba: int = LBA, blocks: int = 1) -> bytearray:
        """A plain command with its data, that is due next."""
        out = self.links[0].end.connection.out
        self.itt += 1
        writing = operation in (WRITE_10, WRITE_16)
        length = blocks * 512
        header = struct.pack(
            ">BBHIQIIII16s",
            0x01,
            0xA1 if writing else 0xC1,
            0,
            length if writing else 0,
            0,
            self.itt,
            length,
            out.exp_cmd_sn,
            0,
            _cdb(operation, lba, blocks).ljust(16, b"\0"),
        )
        return bytearray(header + (bytes([self.itt & 0xFF]) * length if writing else b""))

    def feed(self, data: bytes) -> int:
        """Both get these bytes and do and say the same; how many commands were fast."""
        before = self._fast()
        answers = [self._answer(link, data) for link in self.links]
        assert answers[0] == answers[1]
        assert [unit.log for unit in self.units[0]] == [unit.log for unit in self.units[1]]
        assert [u.memory for u in self.units[0]] == [u.memory for u in self.units[1]]
        commands, operations = (now - then for now, then in zip(self._fast(), before, strict=True))
        return 0 if commands else operations

    @staticmethod
    def _answer(link: Recorded, data: bytes) -> bytes:
        """What the target says, also what comes from a thread of the unit."""
        answer = link.end.feed(data)
        while link.end.connection.tasks.operating:
            link.end.wait()
            answer += link.end.settle()
        return answer

    def _fast(self) -> tuple[int, int]:
        """Commands on the general path so far; reads and writes on either."""
        counters = self.links[0].end.connection.counters.values()
        return sum(each.commands for each in counters), sum(
            each.reads + each.writes for each in counters
        )

    @property
    def alive(self) -> bool:
        """Whether both can go on: nothing is owed, nothing is on its way or to be told."""
        ends = [link.end.connection for link in self.links]
        assert ends[0].phase is ends[1].phase
        first, second = (each.incoming.end - each.incoming.start for each in ends)
        assert first == second
        ready = all(path.ready for each in ends for path in each.paths.values())
        busy = first or ends[0].tasks.count or not ready
        return ends[0].phase is Phase.FULL_FEATURE and not busy

    def close(self) -> None:
        for link in self.links:
            link.close()


@pytest.mark.parametrize("operation", [READ_10, WRITE_10, READ_16, WRITE_16])
def test_every_bit_counts(operation: int) -> None:
    lba = range(34, 38) if operation in (READ_10, WRITE_10) else range(34, 42)
    padding = range(42, 48) if operation in (READ_10, WRITE_10) else ()
    free = {*range(16, 20), *range(28, 32), *lba, *padding}  # itt, exp_stat_sn, lba: anything
    twins = Twins()
    left_alone = 0
    for byte in range(48):
        if byte in free:
            continue
        for bit in range(8):
            if byte in _LENGTHS or not twins.alive:
                twins.close()
                twins = Twins()
            assert twins.feed(twins.pdu(operation)) == 1, "the plain command is not fast"
            changed = twins.pdu(operation)
            changed[byte] ^= 1 << bit
            fast = twins.feed(changed) == 1
            assert not fast or (byte, bit) == _OTHER_LUN, f"byte {byte} bit {bit} is ignored"
            left_alone += not fast
    twins.close()
    assert left_alone > 200


_LENGTHS = range(4, 8)  # what follows would be taken for data
_OTHER_LUN = 9, 0  #: the bit that makes another plain command of it


@pytest.mark.parametrize("operation", [READ_10, WRITE_10, READ_16, WRITE_16])
@pytest.mark.parametrize(
    "settings",
    [
        {"max_recv_segment": 1024},
        {"max_burst_length": 1024, "first_burst_length": 512},
        {"first_burst_length": 1024},
        {"immediate_data": False},
        {"initial_r2t": True},
    ],
    ids=str,
)
def test_negotiated_limits(operation: int, settings: dict[str, Any]) -> None:
    """Commands of 1 to 4 blocks, around the limits, by the initiator that keeps to them."""
    outputs = []
    for fast in (True, False):
        unit = InlineRamUnit(block_count=BLOCKS)
        link = Recorded(unit, fast=fast, **settings)
        for _ in range(2):
            for blocks in (1, 2, 3, 4):
                data = bytes([blocks]) * 512 * blocks if operation & 2 else b""
                length = 0 if data else 512 * blocks
                cdb = _cdb(operation, LBA, blocks)
                task = link.command(cdb, data_out=data, read_length=length)
                assert task.status == 0
        outputs.append((link.recorded, unit.memory, unit.log))
        link.close()
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("settings", "blocks"), [({"immediate_data": False}, 1), ({"first_burst_length": 1024}, 3)]
)
@pytest.mark.parametrize("operation", [WRITE_10, WRITE_16])
def test_immediate_data_that_is_not_allowed(
    operation: int, settings: dict[str, Any], blocks: int
) -> None:
    twins = Twins(**settings)
    assert twins.feed(twins.pdu(operation, blocks=blocks)) == 0
    assert not twins.units[0][0].calls["write"]
    twins.close()


@pytest.mark.parametrize("operation", [READ_10, WRITE_10])
def test_the_units_largest_transfer(operation: int) -> None:
    outputs = []
    for fast in (True, False):
        unit = InlineRamUnit(block_count=BLOCKS, max_transfer_length=1024)
        link = Recorded(unit, fast=fast)
        for blocks in (1, 2, 3, 4):
            data = bytes(512 * blocks) if operation & 2 else b""
            length = 0 if data else 512 * blocks
            link.command(_cdb(operation, LBA, blocks), data_out=data, read_length=length)
        assert max(entry[2] for entry in unit.log) == 2
        outputs.append((link.recorded, unit.log))
        link.close()
    assert outputs[0] == outputs[1]


def test_no_blocks_are_not_read() -> None:
    twins = Twins()
    for operation in (READ_10, WRITE_10, READ_16, WRITE_16):
        twins.feed(twins.pdu(operation))
        log = len(twins.units[0][0].log)
        assert twins.feed(twins.pdu(operation, blocks=0)) == 0
        assert len(twins.units[0][0].log) == log
    twins.close()


def test_a_write_protected_unit_is_not_written() -> None:
    unit = InlineRamUnit(block_count=BLOCKS, write_protected=True)
    link = Recorded(unit, fast=True)
    for _ in range(2):
        task = link.command(_cdb(WRITE_10, 0, 1), data_out=b"x" * 512)
        assert (task.status, task.sense[2]) == (2, 7)
    assert not unit.calls["write"]
    link.close()


@pytest.mark.parametrize("lun", [0, 1])
def test_a_unit_attention_is_told_at_once(lun: int) -> None:
    """On the path whose commands were fast, and on one that comes second in a batch."""
    link = Recorded(InlineRamUnit(), InlineRamUnit(), fast=True)
    session = link.session
    for number in (0, 1, lun):
        link.command(_cdb(READ_10, 0, 1), read_length=512, lun=number)
    link.target.units[lun].establish(Asc.CAPACITY_CHANGED)
    tasks = [
        session.command(_cdb(READ_10, 0, 1), read_length=512, lun=number)
        for number in (0, 0, 1, 1, 0)
    ]
    link.run(tasks[-1])
    told = [task for task in tasks if task.status == 2]
    assert told == [tasks[0] if lun == 0 else tasks[2]]
    assert told[0].sense[12:14] == b"\x2a\x09"
    link.close()


def test_what_is_known_of_a_path_is_used_inside_the_gate_only() -> None:
    """A serial unit with slow operations, whose reads were fast a moment ago."""
    unit = RamUnit(block_count=BLOCKS)
    unit.inline = Inline.READ
    link = Recorded(unit, fast=True)
    lu = link.target.units[0]
    assert link.command(_cdb(READ_10, 0, 1), read_length=512).status == 0
    reads = unit.calls["read"]
    with lu.gate._turns._lock:  # as a worker does while it flushes
        read = link.session.command(_cdb(READ_10, 0, 1), read_length=512)
        link.pump()
        assert unit.calls["read"] == reads
        assert not read.done
    assert link.run(read).status == 0
    link.close()


def test_what_a_path_has_learned_is_not_used_for_another() -> None:
    """A batch that ends at a unit which cannot be entered; the first unit's commands go on."""
    slow = RamUnit(block_count=BLOCKS)
    slow.inline = Inline.READ
    first = InlineRamUnit(block_count=BLOCKS)
    link = Recorded(first, slow, fast=True)
    session = link.session
    link.command(_cdb(READ_10, 0, 1), read_length=512)
    with link.target.units[1].gate._turns._lock:
        fast = session.command(_cdb(READ_10, 1, 1), read_length=512)
        waiting = session.command(_cdb(READ_10, 2, 1), read_length=512, lun=1)
        link.pump()
        assert fast.done
        again = session.command(_cdb(READ_10, 3, 1), read_length=512)
        link.pump()
        assert again.done
        assert not slow.calls["read"]
    assert link.run(waiting).status == 0
    assert [entry[1] for entry in first.log] == [0, 1, 3]
    assert [entry[1] for entry in slow.log] == [2]
    link.close()
