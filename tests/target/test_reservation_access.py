"""Which commands a reservation lets through: the standards' tables, written out, against the unit.

SPC-5 5.14.1 (tables 65 and 66 in SPC-4), SBC-4 4.17 (table 13), SPC-2 5.5.1 (RESERVE). A is
allowed, C is RESERVATION CONFLICT. The columns:

    1  reserved by RESERVE of another nexus
    2  Write Exclusive of another nexus              3  Exclusive Access of another nexus
    4  any Registrants Only or All Registrants type, from a registered nexus
    5  Write Exclusive - RR, not registered          6  Exclusive Access - RR, not registered
"""

from __future__ import annotations

import pytest

from tests.kit import reservations as pr
from tests.kit.engine import ready_nexus, target_of
from tests.kit.reservations import CONFLICT, EA, EA_AR, EA_RO, TYPES, WE, WE_AR, WE_RO, Host
from tests.kit.units import InlineRamUnit
from userdisk.target import command, operations
from userdisk.target.target import Target
from userdisk.unit import Usage


class Everything(InlineRamUnit):
    """A unit that offers every command there is."""

    removable = True

    def erase(self) -> None:
        self._begin("erase")

    def crypto_erase(self) -> None:
        self._begin("crypto_erase")

    def usage(self) -> Usage:
        return Usage(0, self.parameters.block_count)


READS, WRITES, ANY = "CACAAC", "CCCACC", "AAAAAA"

#: by the name in the operation table; the second entry is for other values of the CDB
TABLE: dict[str, str] = {
    "TEST UNIT READY": "CAAAAA",
    "REQUEST SENSE": ANY,
    "READ(6)": "CACAAC",
    "WRITE(6)": "CCCACC",
    "INQUIRY": ANY,
    "MODE SELECT(6)": "CCCACC",
    "MODE SENSE(6)": "CACAAC",
    "START STOP UNIT": "CCCACC",
    "PREVENT ALLOW MEDIUM REMOVAL": ANY,
    "READ CAPACITY(10)": ANY,
    "READ(10)": "CACAAC",
    "WRITE(10)": "CCCACC",
    "WRITE AND VERIFY(10)": "CCCACC",
    "VERIFY(10)": "CACAAC",
    "PRE-FETCH(10)": "CACAAC",
    "SYNCHRONIZE CACHE(10)": "CCCACC",
    "READ DEFECT DATA(10)": "CACAAC",
    "WRITE SAME(10)": "CCCACC",
    "UNMAP": "CCCACC",
    "SANITIZE (OVERWRITE)": "CCCACC",
    "SANITIZE (BLOCK ERASE)": "CCCACC",
    "SANITIZE (CRYPTOGRAPHIC ERASE)": "CCCACC",
    "SANITIZE (EXIT FAILURE MODE)": "CCCACC",
    "LOG SENSE": ANY,
    "MODE SELECT(10)": "CCCACC",
    "MODE SENSE(10)": "CACAAC",
    "PERSISTENT RESERVE IN (READ KEYS)": "CAAAAA",
    "PERSISTENT RESERVE IN (READ RESERVATION)": "CAAAAA",
    "PERSISTENT RESERVE IN (REPORT CAPABILITIES)": "CAAAAA",
    "PERSISTENT RESERVE IN (READ FULL STATUS)": "CAAAAA",
    "EXTENDED COPY(LID1)": "CCCACC",
    "POPULATE TOKEN": "CACAAC",
    "WRITE USING TOKEN": "CCCACC",
    "RECEIVE COPY STATUS(LID1)": "CAAAAA",
    "RECEIVE COPY OPERATING PARAMETERS": "CAAAAA",
    "RECEIVE COPY FAILURE DETAILS(LID1)": "CAAAAA",
    "RECEIVE COPY STATUS(LID4)": "CAAAAA",
    "RECEIVE ROD TOKEN INFORMATION": "CAAAAA",
    "READ(16)": "CACAAC",
    "COMPARE AND WRITE": "CCCACC",
    "WRITE(16)": "CCCACC",
    "ORWRITE(16)": "CCCACC",
    "WRITE AND VERIFY(16)": "CCCACC",
    "VERIFY(16)": "CACAAC",
    "PRE-FETCH(16)": "CACAAC",
    "SYNCHRONIZE CACHE(16)": "CCCACC",
    "WRITE SAME(16)": "CCCACC",
    "WRITE ATOMIC(16)": "CCCACC",
    "READ CAPACITY(16)": ANY,
    "GET LBA STATUS": "CACAAC",
    "REPORT LUNS": ANY,
    "REPORT TARGET PORT GROUPS": ANY,
    "REPORT SUPPORTED OPERATION CODES": "CACAAC",
    "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS": "CACAAC",
    "SET TARGET PORT GROUPS": "CCCACC",
    "READ(12)": "CACAAC",
    "WRITE(12)": "CCCACC",
    "WRITE AND VERIFY(12)": "CCCACC",
    "VERIFY(12)": "CACAAC",
    "READ DEFECT DATA(12)": "CACAAC",
}

#: CDBs of commands that are one thing or another by a field
VARIANTS: dict[str, str] = {
    "1b0000000100": ANY,  # START
    "1b0000000300": ANY,  # load
    "1b0000000200": "CCCACC",  # eject
    "1b0000001100": "CCCACC",  # a power condition
    "1e0000000100": "CCCACC",  # prevent
}

#: Table 66, and RESERVE and RELEASE as SPC-2 has them: the registered nexus holds nothing
BY_SERVICE_ACTION: dict[str, str] = {
    "PERSISTENT RESERVE OUT (REGISTER)": "AA",
    "PERSISTENT RESERVE OUT (RESERVE)": "CC",
    "PERSISTENT RESERVE OUT (RELEASE)": "AC",
    "PERSISTENT RESERVE OUT (CLEAR)": "AC",
    "PERSISTENT RESERVE OUT (PREEMPT)": "AC",
    "PERSISTENT RESERVE OUT (PREEMPT AND ABORT)": "AC",
    "PERSISTENT RESERVE OUT (REGISTER AND IGNORE EXISTING KEY)": "AA",
    "PERSISTENT RESERVE OUT (REGISTER AND MOVE)": "CC",
}
RESERVING = {"RESERVE(6)", "RESERVE(10)", "RELEASE(6)", "RELEASE(10)"}

NAMES = [row.name for row in operations.ROWS]
CDBS = {row.name: bytes([row.opcode, row.service_action or 0]) for row in operations.ROWS} | {
    name: bytes.fromhex(name) for name in VARIANTS
}
RULES = TABLE | VARIANTS


def test_the_tables_are_about_every_command() -> None:
    assert sorted([*TABLE, *BY_SERVICE_ACTION, *RESERVING]) == sorted(NAMES)


def disk() -> Target:
    return target_of(Everything(atomic_blocks=1))


def conflict(host: Host, name: str) -> bool:
    """Whether the command conflicts; what else it answers is not asked here."""
    task = host.port.start(host.nexus, CDBS[name].ljust(16, b"\0"), bytes(4096))
    return task.completions[:1] == [command.CONFLICT]  # some go on in the background


@pytest.mark.parametrize("name", [*RULES, *sorted(RESERVING)])
def test_nothing_is_reserved(name: str) -> None:
    assert not conflict(Host(ready_nexus(disk(), "iqn.x")), name)


@pytest.mark.parametrize("name", RULES)
def test_persistent_reservations(name: str) -> None:
    _, *letters = list(RULES[name])
    for kind in TYPES:
        for role in ("holder", "registered", "other"):
            target = disk()
            hosts = {
                role: Host(ready_nexus(target, f"iqn.x:{role}"))
                for role in ("holder", "registered", "other")
            }
            assert hosts["holder"].out(pr.REGISTER, 0, 1) == 0
            assert hosts["registered"].out(pr.REGISTER, 0, 2) == 0
            assert hosts["holder"].out(pr.RESERVE, 1, kind=kind) == 0
            for host in hosts.values():
                host.port.execute(host.nexus, bytes([3, 0, 0, 0, 252, 0]))  # clears attentions
            if role == "holder":
                letter = "A"
            elif kind in (WE, EA):
                letter = letters[0 if kind == WE else 1]
            elif role == "registered":
                letter = letters[2]
            else:
                letter = letters[3 if kind in (WE_RO, WE_AR) else 4]
                assert kind in (WE_RO, WE_AR, EA_RO, EA_AR)
            assert conflict(hosts[role], name) is (letter == "C"), (kind, role)


@pytest.mark.parametrize("name", BY_SERVICE_ACTION)
def test_persistent_reserve_out(name: str) -> None:
    for kind in (WE, EA, WE_RO, EA_RO):
        for registered, letter in zip((True, False), BY_SERVICE_ACTION[name], strict=True):
            target = disk()
            holder, host = (Host(ready_nexus(target, f"iqn.x:{each}")) for each in "ab")
            assert holder.out(pr.REGISTER, 0, 1) == 0
            assert not registered or host.out(pr.REGISTER, 0, 2) == 0
            assert holder.out(pr.RESERVE, 1, kind=kind) == 0
            key, action = 2 if registered else 0, CDBS[name][1]
            data = pr.basic(key, 1)
            if action == pr.MOVE:
                data = pr.moving(key, 3, pr.transport_id("iqn.x:c", 1))
            result = host.send(action, data, kind)
            assert result.status == (0 if letter == "A" else CONFLICT), (kind, registered)


@pytest.mark.parametrize("name", [*RULES, *BY_SERVICE_ACTION, *sorted(RESERVING)])
def test_reserve_of_another_nexus(name: str) -> None:
    target = disk()
    holder, host = (Host(ready_nexus(target, f"iqn.x:{each}")) for each in "ab")
    assert holder.command(bytes.fromhex("160000000000")).status == 0
    host.port.execute(host.nexus, bytes([3, 0, 0, 0, 252, 0]))
    letter = RULES.get(name, "C")[0]
    if name.startswith("RELEASE"):
        letter = "A"
    assert conflict(host, name) is (letter == "C")
    # the holder may do everything but persistent reservations
    assert conflict(holder, name) is name.startswith("PERSISTENT RESERVE")


@pytest.mark.parametrize("name", sorted(RESERVING))
def test_reserve_conflicts_with_registrations(name: str) -> None:
    target = disk()
    a, b = (Host(ready_nexus(target, f"iqn.x:{each}")) for each in "ab")
    assert a.out(pr.REGISTER, 0, 1) == 0
    assert conflict(a, name) and conflict(b, name)
    assert a.out(pr.RESERVE, 1, kind=EA_AR) == 0
    assert conflict(a, name) and conflict(b, name)
    assert a.out(pr.REGISTER, 1, 0) == 0
    assert not conflict(a, name)
