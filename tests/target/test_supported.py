"""REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS against the tables they print."""

from __future__ import annotations

import struct

import pytest

from tests.kit.engine import EnginePort, Result, ready_nexus, target_of
from tests.kit.units import AbleRamUnit, InlineRamUnit, ThickRamUnit
from userdisk.scsi import sense
from userdisk.target import operations, task_management
from userdisk.target.nexus import Nexus
from userdisk.target.operations import Row
from userdisk.target.task_management import Function, Response
from userdisk.unit import StorageUnit

ROWS = operations.ROWS
TIMEOUTS = bytes.fromhex("000a0000 00000000 00000000")
NOT_SUPPORTED = bytes.fromhex("00010000")
WITH_ACTIONS = {row.opcode for row in ROWS if row.service_action is not None}


UNITS: dict[str, StorageUnit] = {
    "thin": InlineRamUnit(),
    "thick": ThickRamUnit(),
    "everything": AbleRamUnit(),
    "protected": InlineRamUnit(write_protected=True),
}
NEXUSES = {name: ready_nexus(target_of(unit)) for name, unit in UNITS.items()}


def ask(
    nexus: Nexus, option: int, opcode: int = 0, action: int = 0, *, rctd: bool = False
) -> Result:
    cdb = struct.pack(">BBBBHIxx", 0xA3, 0x0C, rctd << 7 | option, opcode, action, 1 << 16)
    return EnginePort().execute(nexus, cdb)


def offered(nexus: Nexus) -> list[Row]:
    (path,) = nexus.paths.values()
    return [row for row in ROWS if row.offered(path.lu)]


@pytest.mark.parametrize("rctd", [False, True])
@pytest.mark.parametrize("kind", UNITS)
def test_all_commands(kind: str, rctd: bool) -> None:
    nexus = NEXUSES[kind]
    data = ask(nexus, 0, rctd=rctd).data
    (length,) = struct.unpack_from(">I", data)
    assert length == len(data) - 4
    found, at = [], 4
    while at < len(data):
        opcode, action, flags, cdb_length = struct.unpack_from(">BxHxBH", data, at)
        assert flags >> 2 == 0 and bool(flags & 2) == rctd
        at += 8
        if rctd:
            assert data[at : at + 12] == TIMEOUTS
            at += 12
        found.append((opcode, action if flags & 1 else None, cdb_length))
        assert flags & 1 or not action
    assert found == [(row.opcode, row.service_action, len(row.usage)) for row in offered(nexus)]


def test_what_a_unit_does_not_offer_is_not_listed() -> None:
    names = {kind: {row.name for row in offered(nexus)} for kind, nexus in NEXUSES.items()}
    assert "UNMAP" in names["thin"] - names["thick"]
    assert names["everything"] > names["thin"]


@pytest.mark.parametrize("rctd", [False, True])
@pytest.mark.parametrize("kind", UNITS)
def test_one_command(kind: str, rctd: bool) -> None:
    nexus = NEXUSES[kind]
    known = offered(nexus)
    for row in ROWS:
        action = row.service_action
        expected = NOT_SUPPORTED
        if row in known:
            head = bytes([0, (0x80 if rctd else 0) | 3]) + struct.pack(">H", len(row.usage))
            expected = head + row.usage + (TIMEOUTS if rctd else b"")
        option, wrong = (1, 2) if action is None else (2, 1)
        for right in (option, 3):
            assert ask(nexus, right, row.opcode, action or 0, rctd=rctd).data == expected, row.name
        result = ask(nexus, wrong, row.opcode, action or 0, rctd=rctd)
        assert result.sense == sense.invalid_field_in_cdb(2, 2), row.name


def test_the_service_action_is_ignored_where_the_option_says_so() -> None:
    nexus = NEXUSES["thin"]
    assert ask(nexus, 1, 0x28, 7).data == ask(nexus, 1, 0x28).data
    assert ask(nexus, 3, 0x28, 7).data == NOT_SUPPORTED
    assert ask(nexus, 0, 0xFF, 0xFFFF).data == ask(nexus, 0).data


def test_commands_that_do_not_exist() -> None:
    nexus = NEXUSES["everything"]
    for opcode in set(range(256)) - {row.opcode for row in ROWS}:
        for option in (1, 2, 3):
            for action in (0, 9):
                assert ask(nexus, option, opcode, action, rctd=True).data == NOT_SUPPORTED
    actions = {(row.opcode, row.service_action) for row in ROWS}
    for opcode in WITH_ACTIONS:
        for action in {*range(32), 0x100, 0xFFFF}:
            if (opcode, action) not in actions:
                for option in (2, 3):
                    assert ask(nexus, option, opcode, action).data == NOT_SUPPORTED


def test_reserved_reporting_options() -> None:
    for option in range(4, 8):
        result = ask(NEXUSES["thin"], option, 0x28)
        assert result.sense == sense.invalid_field_in_cdb(2, 2)


def test_dpo_and_fua_agree_with_the_mode_parameter_header() -> None:
    nexus = NEXUSES["thin"]
    header = EnginePort().execute(nexus, bytes.fromhex("1a003f00ff00")).data
    dpofua = bool(header[2] & 0x10)
    for opcode in (0x28, 0x2A, 0xA8, 0xAA, 0x88, 0x8A):
        usage = ask(nexus, 1, opcode).data[4:]
        assert usage[0] == opcode
        for bit in (0x10, 0x08):
            cdb = bytes([opcode, bit]).ljust(16, b"\0")
            assert bool(usage[1] & bit) == dpofua == (EnginePort().execute(nexus, cdb).status == 0)


# -- task management ---------------------------------------------------------------------------

BITS = {
    Function.ABORT_TASK: (0, 0x80),
    Function.ABORT_TASK_SET: (0, 0x40),
    Function.CLEAR_ACA: (0, 0x20),
    Function.CLEAR_TASK_SET: (0, 0x10),
    Function.LOGICAL_UNIT_RESET: (0, 0x08),
    Function.TARGET_WARM_RESET: (0, 0x02),
}


def functions(*, repd: bool) -> bytes:
    cdb = bytes([0xA3, 0x0D, repd << 7, 0, 0, 0, 0, 0, 0, 255, 0, 0])
    return EnginePort().execute(NEXUSES["thin"], cdb).data


@pytest.mark.parametrize("function", BITS)
def test_a_function_is_reported_exactly_if_it_is_performed(function: Function) -> None:
    byte, bit = BITS[function]
    answers: list[int] = []
    nexus = ready_nexus(target_of(InlineRamUnit()))
    task_management.manage(function, nexus, 0, None, answers.append)
    refused = {Response.NOT_SUPPORTED, Response.REASSIGNMENT_NOT_SUPPORTED}
    assert bool(functions(repd=False)[byte] & bit) == (answers[0] not in refused)


def test_the_extended_form_has_room_for_timeouts() -> None:
    basic, extended = functions(repd=False), functions(repd=True)
    assert len(basic) == 4 and basic[3] == 0
    assert len(extended) == 16 and extended[3] == 12
    assert extended[:3] == basic[:3]
    assert not any(extended[4:])  # TMFTMOV and all timeouts: none is indicated
