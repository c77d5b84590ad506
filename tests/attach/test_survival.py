"""The unit's process dies, and the device goes on; or says that it cannot."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.attach.conftest import Desk, wait_until
from tests.attach.test_device import blocks_of, opened

SIZE = 32 << 20
BLOCK = 4096
IO_FLUSHER = 0x00080000 | 0x00100000  # PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE


def record(desk: Desk) -> dict[str, Any]:
    (entry,) = desk.listed()
    return entry


def state_of(desk: Desk) -> dict[str, Any]:
    (folder,) = desk.state.iterdir()
    found: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return found


def log_of(desk: Desk) -> str:
    (folder,) = desk.state.iterdir()
    return (folder / "log").read_text()


def kill_unit(desk: Desk) -> int:
    pid = int(state_of(desk)["unit_pid"])
    os.kill(pid, signal.SIGKILL)
    return pid


def again(desk: Desk, pid: int) -> None:
    """Wait until another process has the unit, and the device goes on."""
    wait_until(lambda: state_of(desk)["unit_pid"] != pid and not state_of(desk)["trouble"], 40)


class Writer(threading.Thread):
    """Writes random blocks of its own stripe, checks each now and then, flushes at times."""

    def __init__(self, device: Path, number: int, ending: threading.Event) -> None:
        super().__init__(name=f"writer {number}")
        self._device = device
        self._chance = random.Random(number)
        self._blocks = range(number, SIZE // BLOCK, 4)
        self._ending = ending
        self.model: dict[int, bytes] = {}
        self.error: BaseException | None = None
        self.writes = 0

    def run(self) -> None:
        try:
            with opened(self._device) as disk:
                while not self._ending.is_set():
                    self._step(disk)
        except BaseException as error:
            self.error = error

    def _step(self, disk: int) -> None:
        block = self._chance.choice(self._blocks[:200])
        what = self._chance.random()
        if what < 0.02:
            os.fsync(disk)
        elif what < 0.7 or block not in self.model:
            data = self._chance.randbytes(16) * (BLOCK // 16)
            assert os.pwrite(disk, blocks_of(data), block * BLOCK) == BLOCK
            self.model[block] = data
            self.writes += 1
        else:
            back = blocks_of(bytes(BLOCK))
            os.preadv(disk, [back], block * BLOCK)
            assert back[:] == self.model[block], f"block {block} is not what was written"


def test_writes_survive_the_death_of_the_units_process(desk: Desk) -> None:
    image = desk.folder / "disk.img"
    image.write_bytes(bytes(SIZE))
    device = desk.attach(str(image))
    stop = threading.Event()
    writers = [Writer(device, number, stop) for number in range(4)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            time.sleep(0.5)
            again(desk, kill_unit(desk))
        time.sleep(0.3)
    finally:
        stop.set()
        for writer in writers:
            writer.join(60)
    assert [writer.error for writer in writers] == [None] * 4
    assert all(writer.writes for writer in writers)
    assert log_of(desk).count("connected again") == 3
    desk.userdisk("eject", device)
    data = image.read_bytes()
    for writer in writers:
        for block, expected in writer.model.items():
            assert data[block * BLOCK :][:BLOCK] == expected


VOLATILE = '''
"""A disk whose writes are lost with its process until they are flushed; unmap and zero, too."""
import pathlib
from userdisk import StorageUnit


class Volatile(StorageUnit):
    block_count = 2048
    persistent = True

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)
        self.data = bytearray(self.path.read_bytes()) if self.path.exists() else bytearray(1 << 20)

    def read(self, lba, blocks, fua):
        return bytes(self.data[lba * 512:(lba + blocks) * 512])

    def write(self, lba, data, fua):
        self.data[lba * 512:lba * 512 + len(data)] = data

    def unmap(self, extents):
        for lba, blocks in extents:
            self.data[lba * 512:(lba + blocks) * 512] = bytes(blocks * 512)

    def flush(self):
        if (self.path.parent / "slow").exists():
            import time
            time.sleep(600)
        self.path.with_suffix(".new").write_bytes(self.data)
        self.path.with_suffix(".new").replace(self.path)
'''


def volatile(desk: Desk) -> list[str]:
    (desk.folder / "volatile.py").write_text(VOLATILE)
    return [f"{desk.folder}/volatile.py:Volatile", "--option", f"path={desk.folder}/kept"]


def test_what_was_answered_and_not_flushed_is_repeated(desk: Desk) -> None:
    device = desk.attach(*volatile(desk))
    with opened(device) as disk:
        os.pwrite(disk, blocks_of(b"A" * 65536), 0)
        os.fsync(disk)
        os.pwrite(disk, blocks_of(b"B" * 8192), 4096)  # never flushed
        os.pwrite(disk, blocks_of(b"C" * 4096), 8192)
        os.pwrite(disk, blocks_of(b"D" * 131072), 131072)
        again(desk, kill_unit(desk))
        back = blocks_of(bytes(65536))
        os.preadv(disk, [back], 0)
        assert back[:] == b"A" * 4096 + b"B" * 4096 + b"C" * 4096 + b"A" * (65536 - 12288)
        back = blocks_of(bytes(131072))
        os.preadv(disk, [back], 131072)
        assert back[:] == b"D" * 131072
    assert "3 writes were repeated" in log_of(desk)
    desk.userdisk("eject", device)


def test_a_flush_under_way_is_repeated(desk: Desk) -> None:
    device = desk.attach(*volatile(desk))
    slow = desk.folder / "slow"
    slow.touch()
    with opened(device) as disk:
        os.pwrite(disk, blocks_of(b"x" * 4096), 0)
        errors: list[OSError] = []

        def flush() -> None:
            try:
                os.fsync(disk)
            except OSError as error:
                errors.append(error)

        flushing = threading.Thread(target=flush)
        flushing.start()
        time.sleep(0.5)
        assert flushing.is_alive()
        slow.unlink()
        again(desk, kill_unit(desk))
        flushing.join(30)
        assert not flushing.is_alive() and errors == []
    assert (desk.folder / "kept").read_bytes()[:4096] == b"x" * 4096
    desk.userdisk("eject", device)


def test_a_relative_path_is_found_again(desk: Desk) -> None:
    (desk.folder / "disk.img").write_bytes(bytes(SIZE))
    device = desk.attach("disk.img")
    again(desk, kill_unit(desk))
    with opened(device) as disk:
        os.pwrite(disk, blocks_of(b"x" * 4096), 0)
    desk.userdisk("eject", device)
    assert (desk.folder / "disk.img").read_bytes() == b"x" * 4096 + bytes(SIZE - 4096)


def test_a_disk_in_memory_is_lost_with_its_process(desk: Desk) -> None:
    device = desk.attach("ram:8M")
    with opened(device) as disk:
        os.pwrite(disk, blocks_of(b"x" * 4096), 0)
        kill_unit(desk)
        wait_until(lambda: record(desk)["trouble"])
        for call in (
            lambda: os.preadv(disk, [blocks_of(bytes(4096))], 0),
            lambda: os.pwrite(disk, blocks_of(bytes(4096)), 0),
            lambda: os.fsync(disk),
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EIO
    words = "lost: the unit's process was killed (SIGKILL), and what it held is lost with it"
    assert words in desk.userdisk("list") and words[6:] in log_of(desk)
    status, line = desk.refused("eject", device)
    assert status == 1 and "was killed (SIGKILL)" in line and "is ejected, but" in line


def test_a_disk_that_does_not_come_back_is_given_up(desk: Desk) -> None:
    image = desk.folder / "disk.img"
    image.write_bytes(bytes(SIZE))
    device = desk.attach(str(image), "--wait", "3")
    with opened(device) as disk:
        image.rename(desk.folder / "moved")
        began = time.monotonic()
        kill_unit(desk)
        with pytest.raises(OSError) as caught:
            os.preadv(disk, [blocks_of(bytes(4096))], 0)
        assert caught.value.errno == errno.EIO and time.monotonic() - began > 2.5
    assert "did not come back within 3 s" in desk.userdisk("list")
    assert "there is no such image" in log_of(desk)
    assert not image.exists()
    desk.refused("eject", device)


def test_another_disk_is_not_taken_for_it(desk: Desk) -> None:
    image = desk.folder / "disk.img"
    image.write_bytes(bytes(SIZE))
    device = desk.attach(str(image), "--wait", "3")
    (desk.folder / "disk.img.userdisk").unlink()  # what says which disk it is
    with opened(device) as disk:
        kill_unit(desk)
        with pytest.raises(OSError):
            os.preadv(disk, [blocks_of(bytes(4096))], 0)
    assert image.read_bytes() == bytes(SIZE)
    desk.refused("eject", device)


def test_the_units_process_ends_with_the_attaching_one(desk: Desk) -> None:
    device = desk.attach(*volatile(desk))
    entry = record(desk)
    with opened(device) as disk:
        os.pwrite(disk, blocks_of(b"x" * 4096), 0)
        os.kill(entry["pid"], signal.SIGKILL)
    wait_until(lambda: not desk.processes())
    # What the unit had answered is flushed.
    assert (desk.folder / "kept").read_bytes()[:4096] == b"x" * 4096
    desk.userdisk("eject", device)
    assert desk.leftovers() == []


def test_one_that_does_not_end_is_killed_by_force_only(desk: Desk) -> None:
    device = desk.attach(*volatile(desk))
    (desk.folder / "slow").touch()
    os.kill(record(desk)["pid"], signal.SIGKILL)
    wait_until(lambda: record(desk)["status"] == "killed")
    _, line = desk.refused("eject", device, "--timeout", "1")
    assert "is still writing after 1 s" in line
    (name,) = [path.name for path in desk.state.iterdir()]
    result = desk.run("eject", name, "--force", "--timeout", "1")
    assert result.returncode == 0 and "unwritten data is lost" in result.stderr
    assert desk.leftovers() == []


def test_both_are_in_sessions_of_their_own(desk: Desk) -> None:
    device = desk.attach("ram:8M")
    state = state_of(desk)
    assert state["pid"] != state["unit_pid"]
    for pid in (state["pid"], state["unit_pid"]):
        assert os.getsid(pid) == pid
    desk.userdisk("eject", device)


def test_both_are_io_flushers(desk: Desk) -> None:
    allowed = "import ctypes, sys; sys.exit(-ctypes.CDLL(None).prctl(57, 1, 0, 0, 0))"
    if subprocess.run([sys.executable, "-c", allowed], check=False).returncode:
        pytest.skip("this user must not set PR_SET_IO_FLUSHER (CAP_SYS_RESOURCE)")
    device = desk.attach("ram:8M")
    state = state_of(desk)
    for pid in (state["pid"], state["unit_pid"]):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        assert int(words[6]) & IO_FLUSHER == IO_FLUSHER
    desk.userdisk("eject", device)
