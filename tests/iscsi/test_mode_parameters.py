"""Mode parameters over iSCSI: SWP and WCE against the fast path, descriptor-format sense data."""

from __future__ import annotations

import struct
import threading
import time

import pytest

from tests.kit.link import Link, close, environment_of, target_of
from tests.kit.modes import CACHING, caching, control, header, select
from tests.kit.sockets import connect, serving
from tests.kit.units import ConcurrentRamUnit, InlineRamUnit, RamUnit
from userdisk import errors
from userdisk.initiator_client import Initiator, ScsiError, sense_codes
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, Sense
from userdisk.unit import Inline

WRITE = bytes.fromhex("2a 00 00000000 00 0001 00")
READ = bytes.fromhex("28 00 00000000 00 0001 00")
CHANGED, PROTECTED = (6, 0x2A, 0x01), (7, 0x27, 0x02)


class Quick(ConcurrentRamUnit):
    """Concurrent, with reads and writes on the connections' own threads."""

    inline = Inline.ALL


def change(initiator: Initiator, *pages: bytes) -> None:
    data = header() + b"".join(pages)
    initiator.execute(select(len(data)), data_out=data)


class Writer(threading.Thread):
    """Writes eight commands at a time until one is refused for good; unit attentions do not count.

    `refused` has the sense codes of what was refused.
    """

    def __init__(self, initiator: Initiator) -> None:
        super().__init__(daemon=True)
        self.initiator = initiator
        self.refused: set[tuple[int, int, int]] = set()
        self.good = 0
        self.end = False

    def run(self) -> None:
        session = self.initiator.session
        while not self.end and self.refused <= {CHANGED}:
            tasks = [session.command(WRITE, data_out=bytes(512)) for _ in range(8)]
            self.initiator.run(lambda tasks=tasks: all(task.done for task in tasks))  # type: ignore[misc]
            self.refused |= {sense_codes(task.sense) for task in tasks if task.status}
            self.good += sum(not task.status for task in tasks)


@pytest.mark.parametrize("kind", [InlineRamUnit, Quick])
def test_swp_stops_the_writes_of_another_session_at_once(kind: type[RamUnit]) -> None:
    unit = kind()
    with serving(unit) as (_, address), connect(address) as one, connect(address, isid=2) as two:
        writer = Writer(two)
        writer.start()
        while writer.good < 200:
            time.sleep(0.001)
        change(one, control(swp=True))
        count = unit.calls["write"]
        writer.join(10)
        assert not writer.is_alive()
        if CHANGED not in writer.refused:  # the command was on its way when the values changed
            with pytest.raises(ScsiError) as told:
                two.execute(bytes(6))
            writer.refused.add(sense_codes(told.value.sense))
        assert writer.refused == {CHANGED, PROTECTED}
        assert unit.calls["write"] == count
        assert two.execute(READ, read_length=512) == bytes(512)
        change(one, control())
        two.execute(WRITE, data_out=bytes(512))
        assert unit.calls["write"] == count + 1


@pytest.mark.parametrize("kind", [InlineRamUnit, Quick])
def test_writes_of_another_session_have_fua_at_once(kind: type[RamUnit]) -> None:
    unit = kind()
    with serving(unit) as (_, address), connect(address) as one, connect(address, isid=2) as two:
        writer = Writer(two)
        writer.start()
        while writer.good < 200:
            time.sleep(0.001)
        change(one, caching(wce=False))
        start = len(unit.log)
        good = writer.good
        while writer.good < good + 50:
            time.sleep(0.001)
        through = [entry for entry in unit.log[start:] if entry[0] == "write"]
        assert through and all(fua for *_, fua in through)
        assert ("flush", 0, 0, False) in unit.log[:start]
        change(one, CACHING)
        good = writer.good
        while writer.good < good + 50:
            time.sleep(0.001)
        writer.end = True
        writer.join(10)
        assert unit.log[-1] == ("write", 0, 1, False)
        assert writer.refused == {CHANGED}


def _broken(name: str, lba: int, blocks: int) -> None:
    if name == "read":
        raise errors.MediumError


@pytest.mark.parametrize("fast", [True, False])
def test_sense_data_in_descriptor_format(fast: bool) -> None:
    unit = InlineRamUnit()
    target = target_of(unit)
    link = Link(environment_of(target)).login()
    try:
        link.ready()
        link.end.connection._fast = fast
        counters = link.end.connection.counters[target.units[0].gate]
        data = header() + control(d_sense=True)
        assert link.command(select(len(data)), data_out=data).status == 0
        unit.fault = _broken
        task = link.command(READ, read_length=512)
        assert task.sense[0] == 0x72
        assert sense.decode(task.sense) == Sense(3, Asc.UNRECOVERED_READ_ERROR, 0)
        assert counters.failures == 1
        far = struct.pack(">BBQIxx", 0x88, 0, 1 << 40, 1)
        task = link.command(far, read_length=512)
        assert task.sense[0] == 0x72
        assert sense.decode(task.sense) == sense.lba_out_of_range(1 << 40)
        assert counters.failures == 1  # an initiator's mistake is no failure
        task = link.command(WRITE, data_out=bytes(1024), expected=512)  # too much immediate data
        assert task.status == 2 and task.sense[0] == 0x72
        assert counters.failures == 2
        # no unit, so nobody who asked for that format
        assert link.command(bytes(6), lun=5).sense[0] == 0x70
    finally:
        link.end.disconnect()
        close(target)
