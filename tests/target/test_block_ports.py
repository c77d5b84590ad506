"""What restrains ports for blocks: each aspect of a unit, for each kind of operation."""

from __future__ import annotations

import pytest

from tests.kit.engine import EnginePort, Result, ready_nexus
from tests.kit.modes import CACHING, CONTROL, caching, control, header, select
from tests.kit.reservations import EA, EA_AR, EA_RO, REGISTER, RESERVE, WE, WE_AR, WE_RO, basic
from tests.kit.stepped import SteppedGate
from tests.kit.units import InlineRamUnit
from userdisk import errors
from userdisk.operation import Kind, Operation
from userdisk.scsi import sense
from userdisk.scsi.port_groups import AccessState, Cause
from userdisk.scsi.sense import Asc, Sense, SenseKey
from userdisk.target import block_ports
from userdisk.target.logical_unit import LogicalUnit, Saved, Unsaved
from userdisk.target.target import Target

KINDS = set(block_ports.COMMANDS)
WRITES = {Kind.WRITE, Kind.UNMAP, Kind.ZERO}
LOOKS = {Kind.READ, Kind.EXTENTS}
STORES = KINDS - LOOKS  # a flush is kept out by what keeps writes out
EJECT, LOAD = bytes([0x1B, 0, 0, 0, 2, 0]), bytes([0x1B, 0, 0, 0, 3, 0])
SANITIZE = bytes([0x48, 0x81, 0, 0, 0, 0, 0, 0, 5, 0])  # OVERWRITE, IMMED
SANITIZE_DATA = bytes([1, 0, 0, 1, 0xAA])


class Disk:
    """A removable disk with one nexus, and what its ports for blocks may do."""

    def __init__(self, unit: InlineRamUnit | None = None, saved: Saved | None = None) -> None:
        self.gate = SteppedGate(unit or InlineRamUnit(removable=True))
        self.saved = saved or Unsaved()
        self.lu = LogicalUnit(self.gate, saved=self.saved)
        self.target = Target("iqn.2024-01.org.example:disk", [self.lu])
        self.nexus = ready_nexus(self.target)

    def run(self, cdb: bytes, data: bytes = b"") -> Result:
        result = EnginePort().execute(self.nexus, cdb, data)
        assert result.status == 0, result
        return result

    def refused(self) -> dict[Kind, type[errors.StorageError]]:
        restraint = self.gate.restraint
        if restraint is None:
            return {}
        found = {kind: restraint(kind) for kind in KINDS}
        return {kind: type(error) for kind, error in found.items() if error is not None}

    def reserve(self, kind: int) -> None:
        for action, data in ((REGISTER, basic(0, 7)), (RESERVE, basic(7, 0))):
            self.run(bytes([0x5F, action, kind if action else 0, 0, 0, 0, 0, 0, 24, 0]), data)


def test_nothing_restrains() -> None:
    assert Disk().gate.restraint is None


@pytest.mark.parametrize("kind", [WE, WE_RO, WE_AR])
def test_write_exclusive(kind: int) -> None:
    disk = Disk()
    disk.reserve(kind)
    assert disk.refused() == dict.fromkeys(STORES, errors.ReservationConflict)
    disk.run(bytes([0x5F, 3, 0, 0, 0, 0, 0, 0, 24, 0]), basic(7, 0))  # CLEAR
    assert disk.gate.restraint is None


@pytest.mark.parametrize("kind", [EA, EA_RO, EA_AR])
def test_exclusive_access(kind: int) -> None:
    disk = Disk()
    disk.reserve(kind)
    assert disk.refused() == dict.fromkeys(KINDS, errors.ReservationConflict)


def test_reserve_ends_with_its_nexus() -> None:
    disk = Disk()
    disk.run(bytes([0x16, 0, 0, 0, 0, 0]))
    assert disk.refused() == dict.fromkeys(KINDS, errors.ReservationConflict)
    disk.target.detach(disk.nexus)
    assert disk.gate.restraint is None


def test_an_ejected_medium_and_the_end_of_what_had_begun() -> None:
    disk = Disk()
    era = disk.gate.era
    begun = Operation(Kind.WRITE, 0, 1, data=memoryview(bytes(512)))
    begun.era = era
    disk.run(EJECT)
    assert disk.refused() == dict.fromkeys(KINDS, errors.NoMedium)
    disk.run(LOAD)
    assert disk.gate.restraint is None
    assert disk.gate.era is not era
    disk.gate.run(begun)  # another medium may be there
    assert isinstance(begun.error, errors.NoMedium)


def test_sanitize_and_after_a_restart() -> None:
    disk = Disk()
    era = disk.gate.era
    disk.run(SANITIZE, SANITIZE_DATA)
    assert disk.refused() == dict.fromkeys(KINDS, errors.SanitizeInProgress)
    assert era.over is not None and isinstance(era.over(), errors.SanitizeInProgress)
    again = Disk(saved=disk.saved)
    assert again.refused() == dict.fromkeys(KINDS, errors.SanitizeInProgress)


def test_restrained_before_any_session() -> None:
    disk = Disk()
    disk.run(SANITIZE, SANITIZE_DATA)
    gate = SteppedGate(InlineRamUnit())
    LogicalUnit(gate, saved=disk.saved)
    assert gate.restraint is not None
    assert isinstance(gate.restraint(Kind.READ), errors.SanitizeInProgress)


def test_software_write_protection() -> None:
    disk = Disk()
    data = header() + control(swp=True)
    disk.run(select(len(data)), data)
    refused = disk.refused()
    assert refused == dict.fromkeys(refused, errors.WriteProtected)
    assert set(refused) >= WRITES and not set(refused) & LOOKS
    data = header() + CONTROL
    disk.run(select(len(data)), data)
    assert disk.gate.restraint is None


def test_writes_through_are_off_the_fast_path_and_not_refused() -> None:
    disk = Disk()
    data = header() + caching(wce=False)
    disk.run(select(len(data)), data)
    assert disk.gate.restraint is not None
    assert disk.refused() == {}
    data = header() + CACHING
    disk.run(select(len(data)), data)
    assert disk.gate.restraint is None


def test_access_states_of_ports_do_not_bind_it() -> None:
    disk = Disk()
    era = disk.gate.era
    change = disk.lu.port_groups.change({1: AccessState.UNAVAILABLE}, Cause.EXPLICIT)
    disk.gate.perform(change)
    assert change.error is None
    assert disk.lu.paths and all(path.restricted for path in disk.lu.paths)
    assert disk.gate.restraint is None
    assert disk.gate.era is era


@pytest.mark.parametrize(
    ("why", "error"),
    [
        (sense.medium_not_present(), errors.NoMedium),
        (sense.sanitize_in_progress(0), errors.SanitizeInProgress),
        (sense.sanitize_failed(), errors.MediumError),
        (sense.write_protected(), errors.WriteProtected),
        (sense.software_write_protected(), errors.WriteProtected),
        (Sense(SenseKey.NOT_READY, Asc.ACCESS_STATE_TRANSITION), errors.NotReady),
        (Sense(SenseKey.ILLEGAL_REQUEST, 0x2400), errors.HardwareError),
    ],
)
def test_errors(why: Sense, error: type[errors.StorageError]) -> None:
    assert type(block_ports.error(why)) is error


def test_one_session_and_one_block_port_share_the_unit() -> None:
    disk = Disk()
    assert not disk.gate.shared
    disk.gate.join()
    assert disk.gate.shared
    disk.target.detach(disk.nexus)
    assert not disk.gate.shared
