"""The server killed at random moments under writes: what was flushed is there afterwards.

This tests what the process buffers; the kernel's page cache survives it. What a crash of the whole
machine leaves, `test_crash` tests.
"""

from __future__ import annotations

import random
import struct
import threading
from pathlib import Path

import pytest

from tests.guest.crash_model import BLOCK, BLOCKS, Promise, Step, content
from tests.guest.server import ServeProcess
from userdisk.initiator_client import Initiator
from userdisk.iscsi.initiator import Task
from userdisk.iscsi.initiator_login import Settings
from userdisk.iscsi.initiator_wire import InitiatorError

pytestmark = pytest.mark.timeout(60)

NAME = "iqn.2026-11.test:kill"
SECTORS = BLOCK // 512
FUA = 0x08


def _connect(server: ServeProcess) -> Initiator:
    settings = Settings("iqn.2026-11.test:kill-rounds", NAME)
    return Initiator(("127.0.0.1", server.port), settings, timeout=15)


def _write(disk: Initiator, step: Step) -> Task:
    """Send the write; do not wait for its acknowledgement."""
    flags = FUA if step.kind == "fua" else 0
    cdb = struct.pack(">BBQIxx", 0x8A, flags, step.block * SECTORS, step.blocks * SECTORS)
    blocks = range(step.block, step.block + step.blocks)
    data = b"".join(content(block, step.version) for block in blocks)
    return disk.session.command(cdb, lun=disk.lun, data_out=data)


def _finish(disk: Initiator, task: Task) -> None:
    disk.finish(task)
    assert (task.status, task.response) == (0, 0), task.sense.hex()


def _work(disk: Initiator, chance: random.Random, history: list[Step]) -> int:
    """Write, flush and discard until the server is gone; the number of flushes acknowledged.

    A step goes into the history before it is sent, for it may be done without an answer; flushes,
    and FUA writes as such, only when they are acknowledged.
    """
    version = flushes = 0
    disk.capacity()  # reads past the unit attention of a new session
    try:
        while True:
            starts = chance.sample(range(0, BLOCKS - 8, 16), 6)
            waiting = []
            for start in starts:
                version += 1
                step = Step("write", start + chance.randrange(8), chance.randint(1, 8), version)
                history.append(step)
                waiting.append(_write(disk, step))
            for task in waiting:
                _finish(disk, task)
            if chance.random() < 0.3:
                step = Step("discard", chance.randrange(BLOCKS - 8), 8)
                history.append(step)
                disk.unmap(step.block * SECTORS, step.blocks * SECTORS)
            if chance.random() < 0.3:
                version += 1
                step = Step("write", chance.randrange(BLOCKS - 8), 4, version)
                history.append(step)
                fua = step._replace(kind="fua")
                _finish(disk, _write(disk, fua))
                history.append(fua)
            if chance.random() < 0.5:
                disk.flush()
                history.append(Step("flush"))
                flushes += 1
    except InitiatorError:
        return flushes


@pytest.mark.parametrize("seed", range(8))
def test_flushed_data_survives_sigkill(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    image = tmp_path / "disk.img"
    arguments: list[str | Path] = [image, "--size", str(BLOCK * BLOCKS), "--name", NAME]
    history: list[Step] = []
    with ServeProcess(arguments, tmp_path / "serve.log") as server:
        disk = _connect(server)
        killer = threading.Timer(chance.uniform(0.05, 0.5), server.kill)
        killer.start()
        try:
            flushes = _work(disk, chance, history)
        finally:
            killer.join()
            disk.socket.close()
        server.start()
        with _connect(server) as again:
            step = 64 * SECTORS
            found = b"".join(again.read(lba, step) for lba in range(0, BLOCKS * SECTORS, step))
        assert server.stop() == 0, server.log.read_text()
    assert flushes > 0, "killed too early to say anything"
    assert Promise([*history, Step("mark")]).broken(1, found) == []
