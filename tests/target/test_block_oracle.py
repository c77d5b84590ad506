"""Every command that changes or compares blocks, on every kind of unit, against a byte array."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.engine import EnginePort, EngineTask, Result, ready_nexus, target_of
from tests.kit.units import KINDS, RamUnit
from tests.target.test_block_commands import extent, unmap_cdb, unmap_list
from userdisk.operation import Operation
from userdisk.scsi.sense import Asc, SenseKey
from userdisk.target.nexus import Nexus
from userdisk.target.task import outcome

BLOCKS = 24
LENGTH = 512
SIZE = BLOCKS * LENGTH

WRITES = (0x0A, 0x2A, 0xAA, 0x8A)
WRITE_AND_VERIFIES, VERIFIES = (0x2E, 0xAE, 0x8E), (0x2F, 0xAF, 0x8F)
WRITE_SAMES = (0x41, 0x93)
UNMAP, COMPARE_AND_WRITE, ORWRITE, WRITE_ATOMIC = 0x42, 0x89, 0x8B, 0x9C
OPCODES = (*WRITES, *WRITE_AND_VERIFIES, *VERIFIES, *WRITE_SAMES, UNMAP, COMPARE_AND_WRITE, ORWRITE,
           COMPARE_AND_WRITE, ORWRITE, WRITE_ATOMIC)  # fmt: skip
_UNMAP_BIT, _NDOB, _FUA = 0x08, 0x01, 0x08


class WaitingPort(EnginePort):
    """Runs each operation where it would run behind a real port, and waits for it."""

    def operate(self, task: EngineTask, operation: Operation) -> Any:
        assert task.path is not None
        gate = operation.gate or task.path.lu.gate
        if gate.runs_inline(operation) and gate.enter():
            try:
                gate.run(operation)
            finally:
                gate.leave()
        else:
            ended = threading.Event()
            gate.submit(operation, lambda _: ended.set())
            assert ended.wait(10)
        return outcome(gate, operation)


@contextmanager
def opened(unit: RamUnit) -> Iterator[Nexus]:
    """A nexus with the unit, whose threads end with it."""
    nexus = ready_nexus(target_of(unit))
    (path,) = nexus.paths.values()
    path.lu.gate.open()
    try:
        yield nexus
    finally:
        path.lu.gate.close()


@st.composite
def commands(draw: st.DrawFn) -> tuple[int, int, int, int, bytes, int]:
    """Opcode, flags, lba, blocks, a block of data, and where to damage what is compared."""
    opcode = draw(st.sampled_from(OPCODES))
    lba = draw(st.integers(0, BLOCKS + 1))
    blocks = draw(st.integers(0, BLOCKS - lba + 1) if lba < BLOCKS else st.integers(0, 2))
    flags = 0
    if opcode in WRITE_SAMES:
        flags = draw(st.sampled_from([0, _UNMAP_BIT, *([_NDOB, 9] if opcode == 0x93 else [])]))
    elif opcode in WRITE_AND_VERIFIES:
        flags = draw(st.sampled_from([0, 2]))
    elif opcode in VERIFIES:
        flags = draw(st.sampled_from([0, 2, 6]))
    elif opcode in (COMPARE_AND_WRITE, ORWRITE, WRITE_ATOMIC):
        flags = draw(st.sampled_from([0, _FUA]))
    block = draw(st.sampled_from([bytes(LENGTH), b"\x11" * LENGTH, bytes(range(256)) * 2]))
    return opcode, flags, lba, blocks, block, draw(st.integers(-1, 2 * SIZE))


def expected(
    model: bytearray, opcode: int, flags: int, lba: int, blocks: int, block: bytes, damage: int
) -> tuple[bytes, bytes, bytes, tuple[int, int | None] | None]:
    """CDB, data-out, what the range holds afterwards, and (code, information) of the failure."""
    cdb = extent(opcode, lba, blocks, flags)
    if opcode == 0x0A:
        blocks = blocks or 256
    start, end = lba * LENGTH, (lba + blocks) * LENGTH
    now = bytes(model[start:end])
    data = b"".join(bytes([n]) + block[1:] for n in range(blocks))  # no two alike
    after, sent = data, data
    failure: tuple[int, int | None] | None = None
    if opcode == UNMAP:
        sent = unmap_list([(lba, blocks)])
        cdb, after = unmap_cdb(len(sent)), bytes(len(now))
    elif opcode in WRITE_SAMES:
        end = end if blocks else max(SIZE, start)
        sent = b"" if flags & _NDOB else block
        after = (bytes(LENGTH) if flags & _NDOB else block) * ((end - start) // LENGTH)
    elif opcode == ORWRITE:
        after = bytes(a | b for a, b in zip(now, data, strict=False))
    elif opcode in VERIFIES:
        right = now if flags == 2 else now[:LENGTH]
        wrong = bytearray(right)
        if 0 <= damage < len(wrong):
            wrong[damage] ^= 0x40
        sent, after = bytes(wrong), now
        against = sent if flags == 2 else sent * blocks
        for at in range(len(now) if flags else 0):
            if now[at] != against[at]:
                failure = Asc.MISCOMPARE, at if flags == 2 else at % LENGTH
                break
    elif opcode == COMPARE_AND_WRITE:
        wrong = bytearray(now)
        if 0 <= damage < len(wrong):
            wrong[damage] ^= 0x01
            failure, after = (Asc.MISCOMPARE, damage), now
        sent = bytes(wrong) + data
        cdb = struct.pack(">BBQ3xBxx", opcode, flags, lba, blocks)
    elif opcode == WRITE_ATOMIC:
        cdb = struct.pack(">BBQxxHxx", opcode, flags, lba, blocks)
    if end > SIZE:
        failure = Asc.LBA_OUT_OF_RANGE, max(lba, BLOCKS)
    if failure is None:
        model[start:end] = after
    return cdb, sent, after, failure


def check(result: Result, failure: tuple[int, int | None] | None) -> None:
    if failure is None:
        assert result.status == 0, result
        return
    assert result.sense is not None
    assert (result.sense.code, result.sense.information) == failure
    miscompare = failure[0] == Asc.MISCOMPARE
    assert result.sense.key == (SenseKey.MISCOMPARE if miscompare else SenseKey.ILLEGAL_REQUEST)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(
    st.lists(commands(), max_size=20),
    st.sampled_from([1, 512, 700, 4096, 1 << 20]),
    st.sampled_from([512, 1536, 1 << 20]),
)
def test_against_a_byte_array(
    kind: str,
    sequence: list[tuple[int, int, int, int, bytes, int]],
    piece: int,
    transfer: int,
) -> None:
    # atomic writes are bound by what the unit takes at once
    atomic = transfer // LENGTH
    unit = KINDS[kind](
        block_count=BLOCKS, max_transfer_length=transfer, atomic_blocks=min(atomic, BLOCKS)
    )
    model = bytearray(SIZE)
    port = WaitingPort(piece=piece)
    with opened(unit) as nexus:
        for opcode, flags, lba, blocks, block, damage in sequence:
            if opcode == WRITE_ATOMIC and blocks > atomic:
                continue
            cdb, sent, _, failure = expected(model, opcode, flags, lba, blocks, block, damage)
            check(port.execute(nexus, cdb, sent), failure)
            assert unit.memory == model, (hex(opcode), flags, lba, blocks)
