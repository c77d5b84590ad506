"""Target port groups: what is reported, which state lets what through, who may change it."""

from __future__ import annotations

import itertools
import struct

import pytest

from tests.kit.engine import INITIATOR, EnginePort, Result, target_of
from tests.kit.units import InlineRamUnit
from userdisk.operation import Exclusive
from userdisk.scsi import fields, inquiry, sense
from userdisk.scsi.port_groups import AccessState, Cause
from userdisk.scsi.sense import Asc, Pointer, Sense
from userdisk.target import operations
from userdisk.target.nexus import Nexus
from userdisk.target.row import Flags, Row
from userdisk.target.target import Target

O, N, S, U, T = AccessState  # noqa: E741
CODES = {S: 0x040B, U: 0x040C, T: 0x040A}
TEST_UNIT_READY = bytes(6)


def two_groups(tags: tuple[int, ...] = (1, 2)) -> Target:
    target = target_of(InlineRamUnit())
    target.define_groups(tags)
    return target


def nexus_of(target: Target, port: int, isid: int = 0) -> Nexus:
    nexus = target.attach(INITIATOR, isid, port)
    path = nexus.paths[0]
    while not path.ready and path.lu.take_attention(path) is not None:
        pass
    return nexus


def run(nexus: Nexus, cdb: bytes, data: bytes = b"") -> Result:
    return EnginePort().execute(nexus, cdb, data)


def code(result: Result) -> tuple[int, int]:
    assert result.status == 2 and result.sense is not None
    return result.sense.key, result.sense.code


def report(nexus: Nexus, length: int = 1024, extended: bool = False) -> bytes:
    cdb = struct.pack(">BB4xI2x", 0xA3, 0x2A if extended else 0x0A, length)
    result = run(nexus, cdb)
    assert result.status == 0, result.sense
    return result.data


def set_list(*wanted: tuple[int, int]) -> bytes:
    return bytes(4) + b"".join(struct.pack(">BxH", state, tag) for state, tag in wanted)


def set_groups(nexus: Nexus, data: bytes, length: int | None = None) -> Result:
    cdb = struct.pack(">BB4xI2x", 0xA4, 0x0A, len(data) if length is None else length)
    return run(nexus, cdb, data)


def put(target: Target, tag: int, state: AccessState, cause: Cause = Cause.IMPLICIT) -> None:
    """As the server's own code does it; nobody remembers the unit attention."""
    (lu,) = target.units
    lu.gate.call(lu.port_groups.change({tag: state}, cause))
    for path in lu.paths:
        while lu.take_attention(path) is not None:
            pass


# -- what is reported --------------------------------------------------------------------------


def test_report_in_both_formats() -> None:
    """Written by hand from the layouts of SPC-5 6.36."""
    target = two_groups((1, 0x1234))
    nexus = nexus_of(target, 1)
    groups = "00 8f 0001 00 00 00 01 0000 0001" + "00 8f 1234 00 00 00 01 0000 1234"
    assert report(nexus) == bytes.fromhex("00000018" + groups)
    assert report(nexus, extended=True) == bytes.fromhex("0000001c 10 00 0000" + groups)
    put(target, 0x1234, S)
    put(target, 1, N, Cause.EXPLICIT)
    groups = "01 8f 0001 00 01 00 01 0000 0001" + "02 8f 1234 00 02 00 01 0000 1234"
    assert report(nexus) == bytes.fromhex("00000018" + groups)
    assert report(nexus_of(target, 0x1234)) == bytes.fromhex("00000018" + groups)


@pytest.mark.parametrize("extended", [False, True])
def test_a_report_that_is_cut_says_how_long_it_is(extended: bool) -> None:
    nexus = nexus_of(two_groups((1, 2, 9)), 1)
    whole = report(nexus, extended=extended)
    assert int.from_bytes(whole[:4]) == len(whole) - 4 == 36 + 4 * extended
    for length in range(len(whole) + 2):
        assert report(nexus, length, extended) == whole[:length]


@pytest.mark.parametrize("form", [2, 3, 4, 7])
def test_other_formats_are_refused(form: int) -> None:
    nexus = nexus_of(two_groups(), 1)
    result = run(nexus, struct.pack(">BB4xI2x", 0xA3, form << 5 | 0x0A, 64))
    assert result.sense == Sense(5, 0x2400, None, Pointer(1, 7 if form & 4 else 6))


def test_one_group_has_no_asymmetric_access() -> None:
    target = target_of(InlineRamUnit())
    nexus = nexus_of(target, 1)
    for opcode in (0xA3, 0xA4):
        result = run(nexus, struct.pack(">BB4xI2x", opcode, 0x0A, 64), bytes(64))
        assert result.sense is not None and result.sense.key == 5
        assert result.sense.code in (0x2000, 0x2400)
    assert standard(nexus)["TPGS"] == standard(nexus)["MULTIP"] == 0
    assert two_groups((5, 5)).units[0].port_groups.several is False


def test_inquiry_tells_of_several() -> None:
    values = standard(nexus_of(two_groups(), 2))
    assert (values["TPGS"], values["MULTIP"]) == (3, 1)


def standard(nexus: Nexus) -> dict[str, object]:
    data = run(nexus, bytes.fromhex("12 00 00 00 60 00")).data
    return dict(fields.decode(data, inquiry.STANDARD))


def test_each_port_has_its_own_designators() -> None:
    target = two_groups((1, 0x102))
    for port in (1, 0x102):
        page = run(nexus_of(target, port), bytes.fromhex("12 01 83 04 00 00")).data
        names = inquiry.Designator.decode_all(page[4:])
        of_port = {name.kind: name.value for name in names if name.association == 1}
        assert of_port[4] == of_port[5] == struct.pack(">xxH", port)
        assert of_port[8].rstrip(b"\0") == b"%s,t,0x%04x" % (target.name.encode(), port)
        assert len(of_port[8]) % 4 == 0


# -- what each state lets through ----------------------------------------------------------------


def allowed(row: Row, state: AccessState) -> bool:
    """SPC-5 5.16.2, restated: the commands by name."""
    always = {"INQUIRY", "REPORT LUNS", "REQUEST SENSE", "REPORT TARGET PORT GROUPS"}
    unavailable = always | {"SET TARGET PORT GROUPS"}
    standby = unavailable | {
        "LOG SENSE", "LOG SELECT", "MODE SENSE(6)", "MODE SENSE(10)", "MODE SELECT(6)",
        "MODE SELECT(10)", "PERSISTENT RESERVE IN", "PERSISTENT RESERVE OUT",
    }  # fmt: skip
    # which the standard leaves open, and initiators ask while they look at a new path
    looking = {
        "READ CAPACITY(10)", "READ CAPACITY(16)", "REPORT SUPPORTED OPERATION CODES",
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
    }  # fmt: skip
    name = row.name.partition(" - ")[0]
    if name.startswith("PERSISTENT RESERVE"):
        name = " ".join(name.split()[:3])
    if state is S:
        return name in standby | looking
    return name in (unavailable if state is U else always)


@pytest.mark.parametrize("state", [S, U, T])
@pytest.mark.parametrize("row", operations.ROWS, ids=lambda row: row.name)
def test_every_command_in_every_state(row: Row, state: AccessState) -> None:
    target = two_groups()
    (lu,) = target.units
    restrained, other = nexus_of(target, 1), nexus_of(target, 2)
    put(target, 1, state)
    cdb = bytes([row.opcode, row.service_action or 0]).ljust(len(row.usage), b"\0")
    result = run(restrained, cdb, bytes(65536))
    refused = result.sense is not None and result.sense[:2] == (2, CODES[state])
    if row.offered(lu):
        assert refused == (not allowed(row, state)), result
    else:
        assert not refused, "it is not there at all"
    elsewhere = run(other, cdb, bytes(65536))
    assert elsewhere.sense is None or elsewhere.sense.key != 2


def test_states_are_columns_of_the_table() -> None:
    """What runs while unavailable runs in standby, too."""
    for row in operations.ROWS:
        assert Flags.WHILE_UNAVAILABLE not in row.flags or Flags.IN_STANDBY in row.flags, row.name


@pytest.mark.parametrize("state", [O, N])
def test_active_states_restrain_nothing(state: AccessState) -> None:
    target = two_groups()
    nexus = nexus_of(target, 1)
    put(target, 1, S)
    assert not nexus.paths[0].ready
    put(target, 1, state)
    assert nexus.paths[0].ready and not nexus.paths[0].restricted
    assert run(nexus, TEST_UNIT_READY).status == 0


def test_a_path_that_comes_later_is_in_the_state_of_its_port() -> None:
    target = two_groups()
    put(target, 2, U)
    path = target.attach(INITIATOR, 7, 2).paths[0]
    assert path.restricted
    nexus = path.nexus
    assert code(run(nexus, TEST_UNIT_READY)) == (6, 0x2900), "what happened first is told first"
    assert code(run(nexus, TEST_UNIT_READY)) == (2, 0x040C)


# -- SET TARGET PORT GROUPS ----------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), list(itertools.product([O, N, S, U], repeat=2)))
def test_every_transition(old: AccessState, new: AccessState) -> None:
    """Through the port itself: one that is unavailable can be made available again."""
    target = two_groups()
    mine, same, other = nexus_of(target, 1), nexus_of(target, 1, 1), nexus_of(target, 2)
    put(target, 1, old, Cause.IMPLICIT)
    assert set_groups(mine, set_list((new, 1))).status == 0
    body = report(mine)[4:]
    assert body[0] == new
    assert body[5] == (1 if new != old else 2 if old else 0), "the status code"
    assert body[12] == O and body[17] == 0, "the other group"
    told = [nexus for nexus in (mine, same, other) if nexus.paths[0].attentions]
    assert told == ([] if new == old else [same, other])
    for nexus in told:
        assert code(run(nexus, TEST_UNIT_READY)) == (6, 0x2A06)
        assert not nexus.paths[0].attentions, "told once"
    expected = {S: (2, 0x040B), U: (2, 0x040C)}.get(new)
    result = run(same, TEST_UNIT_READY)
    assert (result.status == 0) if expected is None else (code(result) == expected)
    assert run(other, TEST_UNIT_READY).status == 0


def test_several_groups_at_once() -> None:
    target = two_groups((1, 2, 3))
    nexus, third = nexus_of(target, 1), nexus_of(target, 3)
    assert set_groups(nexus, set_list((S, 1), (N, 3))).status == 0
    assert [report(nexus)[4 + 12 * number] for number in range(3)] == [S, O, N]
    assert code(run(third, TEST_UNIT_READY)) == (6, 0x2A06)
    assert run(third, TEST_UNIT_READY).status == 0


@pytest.mark.parametrize("length", [0, 4])
def test_a_list_without_groups_changes_nothing(length: int) -> None:
    target = two_groups()
    nexus, other = nexus_of(target, 1), nexus_of(target, 2)
    assert set_groups(nexus, bytes(length)).status == 0
    assert other.paths[0].ready


BAD_LISTS = {
    "transitioning": (set_list((S, 1), (15, 2)), Pointer(8, 3, False)),
    "lba dependent": (set_list((4, 1)), Pointer(4, 3, False)),
    "offline": (set_list((14, 1)), Pointer(4, 3, False)),
    "reserved state": (set_list((5, 1)), Pointer(4, 3, False)),
    "no such group": (set_list((S, 1), (S, 3)), Pointer(10, None, False)),
    "group 0": (set_list((S, 0)), Pointer(6, None, False)),
    "the same group twice": (set_list((S, 1), (N, 1)), Pointer(10, None, False)),
    "reserved bits": (set_list((S, 1), (0x82, 2)), Pointer(8, 7, False)),
    "a reserved byte": (set_list((S, 1)) + b"\0\1\0\2", Pointer(9, None, False)),
    "the header": (b"\0\0\1\0" + set_list((S, 1))[4:], Pointer(2, None, False)),
}


@pytest.mark.parametrize("what", BAD_LISTS)
def test_bad_lists_change_nothing(what: str) -> None:
    data, pointer = BAD_LISTS[what]
    target = two_groups()
    nexus, other = nexus_of(target, 1), nexus_of(target, 2)
    before = report(nexus)
    assert set_groups(nexus, data).sense == Sense(5, 0x2600, None, pointer)
    assert report(nexus) == before
    assert other.paths[0].ready


@pytest.mark.parametrize("length", [1, 3, 5, 7, 11, 4 + 4 * 257, 1 << 31, (1 << 32) - 4])
def test_lists_of_no_sensible_length(length: int) -> None:
    nexus = nexus_of(two_groups(), 1)
    result = set_groups(nexus, set_list((S, 1), (S, 2)), length)
    assert result.sense == Sense(5, 0x2400, None, Pointer(6))


def test_less_data_than_the_cdb_says() -> None:
    nexus = nexus_of(two_groups(), 1)
    assert code(set_groups(nexus, set_list((S, 1)), 12)) == (5, 0x0E03)
    assert report(nexus)[4] == O


def test_nobody_sets_a_group_that_is_in_transition() -> None:
    target = two_groups()
    one, two = nexus_of(target, 1), nexus_of(target, 2)
    put(target, 1, T)
    for nexus, tag in ((one, 2), (one, 1), (two, 1)):
        assert code(set_groups(nexus, set_list((S, tag)))) == (2, 0x040A)
    assert report(one)[4] & 0xF == T and report(one)[16] == O
    assert set_groups(two, set_list((N, 2))).status == 0


def test_a_change_by_the_server_is_told_to_everybody() -> None:
    target = two_groups()
    (lu,) = target.units
    nexuses = [nexus_of(target, 1), nexus_of(target, 2)]
    lu.gate.call(lu.port_groups.change({2: N}, Cause.IMPLICIT))
    lu.gate.call(lu.port_groups.change({2: N}, Cause.IMPLICIT))
    for nexus in nexuses:
        assert code(run(nexus, TEST_UNIT_READY)) == (6, 0x2A06)
        assert run(nexus, TEST_UNIT_READY).status == 0
    assert report(nexuses[0])[16:22] == bytes.fromhex("01 8f 0002 00 02")


def test_a_reset_leaves_the_states() -> None:
    target = two_groups()
    nexus = nexus_of(target, 1)
    put(target, 1, S)
    nexus.paths[0].lu.reset(Asc.LOGICAL_UNIT_RESET)
    assert code(run(nexus, TEST_UNIT_READY)) == (6, 0x2903)
    assert code(run(nexus, TEST_UNIT_READY)) == (2, 0x040B)


@pytest.mark.parametrize("state", [S, U, T])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("cdb", ["2a000000000000000200", "89000000000000000000000000010000"])
def test_what_was_begun_through_a_port_does_not_go_on(
    state: AccessState, again: bool, cdb: str
) -> None:
    """Nor when the port is active again: its storage may have been elsewhere meanwhile."""
    target = two_groups()
    (lu,) = target.units
    deferred = EnginePort(deferred=True, piece=512)
    one, two = (
        deferred.start(nexus_of(target, port), bytes.fromhex(cdb), bytes(512) + b"x" * 512)
        for port in (1, 2)
    )
    assert set_groups(nexus_of(target, 1, 7), set_list((N, 1))).status == 0  # restrains nobody
    put(target, 2, state)
    if again:
        put(target, 2, O)
    while deferred.waiting:
        deferred.step()
    assert [each.status for each in one.completions if each] == [0]
    (completion,) = two.completions
    assert completion is not None
    found = sense.decode(completion.sense)
    assert (found.key, found.code) == (2, CODES[state])
    writes = [each for each in lu.gate.unit.log if each[0] == "write"]  # type: ignore[attr-defined]
    assert len(writes) == (2 if cdb.startswith("2a") else 1)


def test_a_change_waits_for_its_turn() -> None:
    target = two_groups()
    port = EnginePort(deferred=True)
    data = set_list((S, 2))
    cdb = struct.pack(">BB4xI2x", 0xA4, 0x0A, len(data))
    task = port.start(nexus_of(target, 1), cdb, data)
    other = nexus_of(target, 2)
    assert run(other, TEST_UNIT_READY).status == 0 and isinstance(task.operation, Exclusive)
    port.step()
    assert task.completions[0] is not None and task.completions[0].status == 0
    assert code(run(other, TEST_UNIT_READY)) == (6, 0x2A06)
    assert code(run(other, TEST_UNIT_READY)) == (2, 0x040B)
