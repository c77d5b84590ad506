"""The unit's process is killed, again and again: who uses the disk does not notice, or is told."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attach.test_device import blocks_of, opened
from tests.kit.requires import requires
from tests.launcher.kit import UNITS, Stable, attached, needs_devices
from userdisk.backend import open_unit
from userdisk.errors import WriteError
from userdisk.launcher.spec import Policy, Restart, Spec, State

#: Seconds, and between the kills; `make launcher-endurance` goes on for 5 minutes.
ENDURANCE = int(os.environ.get("LAUNCHER_ENDURANCE", "15"))
PAUSE = 5.0 if "LAUNCHER_ENDURANCE" in os.environ else 1.5


@pytest.mark.timeout(ENDURANCE + 120)
@requires("fio", "mkfs.ext4")
def test_a_file_system_goes_on_while_the_unit_is_killed(stable: Stable) -> None:
    needs_devices()
    image, place = stable.image(192 << 20), stable.folder / "mnt"
    before = stable.start(stable.spec(str(image), attach=attached(mount=str(place), format="ext4")))
    assert before.mountpoints == (str(place),) and place.is_mount()
    fio = subprocess.Popen(
        [
            "fio", "--name=verify", f"--directory={place}", "--size=64m", "--rw=randwrite",
            "--bs=4k", "--direct=1", "--ioengine=psync", "--numjobs=2", "--fsync=32",
            "--time_based", f"--runtime={ENDURANCE}", "--verify=crc32c", "--verify_fatal=1",
            "--verify_backlog=256", "--output-format=json",
        ],
        cwd=stable.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    kills = 0
    try:
        while fio.poll() is None:
            time.sleep(PAUSE)
            before = stable.kill_unit()
            kills += 1
            stable.again(before)
        out, err = fio.communicate(timeout=60)
    finally:
        fio.kill()
        fio.wait()
    assert fio.returncode == 0, out + err
    jobs = json.loads(out[out.index("{") :])["jobs"]
    assert all(job["error"] == 0 and job["write"]["total_ios"] > 0 for job in jobs)
    assert kills >= 3
    written = sum(job["write"]["total_ios"] for job in jobs)
    print(f"{kills} kills in {ENDURANCE} s, {written} writes of 4 KiB, no error")
    assert stable.status().restarts == kills
    assert stable.stop()["failed"] == ""
    assert not place.is_mount()
    check = subprocess.run(
        ["/usr/sbin/e2fsck", "-f", "-n", image], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout


class Killer(threading.Thread):
    """Kills the unit's process every now and then, until told to stop."""

    def __init__(self, stable: Stable, pause: float) -> None:
        super().__init__(name="killer")
        self._stable, self._pause = stable, pause
        self.stop = threading.Event()
        self.kills = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop.wait(self._pause):
                self._stable.again(self._stable.kill_unit())
                self.kills += 1
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join(120)
        assert self.error is None


def test_an_initiator_logs_in_again_on_the_same_port(stable: Stable) -> None:
    image = stable.image(8 << 20)
    status = stable.start(stable.spec(str(image)))
    disk = open_unit(f"iscsi://{status.portal}/{status.target}/0")
    chance, model = random.Random(6), {}
    disk.open()
    try:
        with Killer(stable, 0.5) as killer:
            while killer.is_alive() and killer.kills < 5:
                lba = chance.randrange(16000)
                if lba in model:
                    assert disk.read(lba, 1, False) == model[lba]
                model[lba] = chance.randbytes(512)
                disk.write(lba, memoryview(model[lba]), False)
        # What was written over iSCSI and not flushed might be lost with a unit that caches.
        with pytest.raises(WriteError, match="they may be lost, and this is said once"):
            disk.flush()
        disk.flush()
        after = stable.status()
        assert (after.portal, after.target) == (status.portal, status.target)
        assert after.restarts == killer.kills
    finally:
        disk.close()
    stable.stop()
    data = image.read_bytes()
    assert all(data[lba * 512 :][:512] == each for lba, each in model.items())


@requires("iscsi-perf")
def test_libiscsi_logs_in_again(stable: Stable) -> None:
    status = stable.start(stable.spec(str(stable.image(8 << 20))))
    said = stable.folder / "said"
    with open(said, "wb") as output:
        perf = subprocess.Popen(
            ["iscsi-perf", "-t", "3600", "-m", "8", f"iscsi://{status.portal}/{status.target}/0"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(3):
            stable.until(lambda: reads(said, len(said.read_bytes())))
            stable.again(stable.kill_unit())
        stable.until(lambda: reads(said, len(said.read_bytes())))
        assert perf.poll() is None
    finally:
        perf.kill()
        perf.wait()
    assert b"error" not in said.read_bytes().lower()
    stable.stop()


def reads(said: Path, start: int) -> bool:
    """Whether iscsi-perf, which says each second what it has read, goes on."""
    time.sleep(1.1)
    later = said.read_bytes()[start:]
    return any(int(found) > 0 for found in re.findall(rb"iops current (\d+)", later))


def caching(stable: Stable, **fields: Any) -> Spec:
    """A disk that keeps what it was given in memory until a flush; in the file `kept`."""
    return stable.spec(
        f"{UNITS}:Caching",
        options={"option": [f"path={stable.folder}/kept"]},
        attach=attached(),
        **fields,
    )


def pwrite(disk: int, data: bytes, offset: int) -> None:
    assert os.pwrite(disk, blocks_of(data), offset) == len(data)


def pread(disk: int, length: int, offset: int) -> bytes:
    back = blocks_of(bytes(length))
    assert os.preadv(disk, [back], offset) == length
    return back[:]


def test_what_a_caching_unit_had_not_written_out_is_repeated(stable: Stable) -> None:
    needs_devices()
    kept = stable.folder / "kept"
    before = stable.start(caching(stable))
    with opened(Path(before.device)) as disk:
        pwrite(disk, b"A" * 65536, 0)
        os.fsync(disk)
        assert kept.read_bytes()[:65536] == b"A" * 65536
        pwrite(disk, b"B" * 8192, 4096)
        pwrite(disk, b"C" * 131072, 1 << 20)
        assert kept.read_bytes()[4096:8192] == b"A" * 4096  # in the memory of the unit alone
        before = stable.again(stable.kill_unit())
        assert pread(disk, 16384, 0) == b"A" * 4096 + b"B" * 8192 + b"A" * 4096
        assert pread(disk, 131072, 1 << 20) == b"C" * 131072
        # Nothing was flushed since: the same again, and another time.
        pwrite(disk, b"D" * 4096, 8192)
        for _ in range(2):
            stable.again(stable.kill_unit())
            assert pread(disk, 16384, 0) == b"A" * 4096 + b"B" * 4096 + b"D" * 4096 + b"A" * 4096
        os.fsync(disk)
        assert kept.read_bytes()[4096:12288] == b"B" * 4096 + b"D" * 4096
    assert stable.stop()["failed"] == ""


def test_a_disk_in_memory_is_lost_with_its_process(stable: Stable) -> None:
    needs_devices()
    before = stable.start(stable.spec("ram:8M", attach=attached()))
    with opened(Path(before.device)) as disk:
        pwrite(disk, b"x" * 4096, 0)
        stable.kill_unit()
        failed = stable.wait(lambda now: now.state is State.FAILED)
        assert failed.exit_status == -9 and failed.restarts == 0 and failed.unit_pid == 0
        assert "was killed (SIGKILL)" in failed.last_error
        assert "its data went with it" in failed.last_error
        for call in (
            lambda: pread(disk, 4096, 0),
            lambda: pwrite(disk, bytes(4096), 0),
            lambda: os.fsync(disk),
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EIO
    # Nobody is left to wait in a queue.
    host, _, port = before.portal.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 30)
    stable.stop(force=True)


def test_one_that_is_never_started_again(stable: Stable) -> None:
    spec = stable.spec(str(stable.image(1 << 20)), policy=Policy(Restart.NEVER))
    stable.start(spec)
    stable.kill_unit()
    failed = stable.wait(lambda now: now.state is State.FAILED)
    assert failed.exit_status == -9 and failed.restarts == 0
    stable.stop()


def test_one_that_dies_at_every_start_has_failed(stable: Stable) -> None:
    (stable.folder / "orders").write_text("")
    policy = Policy(first_delay=0.05, longest_delay=0.1, starts=3)
    stable.start(obedient(stable, policy=policy))
    (stable.folder / "orders").write_text("open exit")
    stable.kill_unit()
    failed = stable.wait(lambda now: now.state is State.FAILED)
    assert failed.restarts == 0 and failed.exit_status == 3
    assert "3 times" in failed.last_error
    stable.stop()


def obedient(stable: Stable, **fields: Any) -> Spec:
    return stable.spec(
        f"{UNITS}:Obedient", options={"option": [f"folder={stable.folder}"]}, **fields
    )


def test_a_crash_of_one_is_invisible_to_another(stable: Stable) -> None:
    others = []
    for number in range(3):
        image = str(stable.image(1 << 20, f"{number}.img"))
        others.append(stable.start(stable.spec(image, f"d{number}")))
    stable.again(stable.kill_unit("test.d1"), "test.d1")
    assert stable.status("test.d0") == others[0]
    assert stable.status("test.d2") == others[2]
    for number in range(3):
        stable.stop(f"test.d{number}")


def test_a_device_of_one_that_is_not_started_again_fails_at_once(stable: Stable) -> None:
    needs_devices()
    policy = Policy(first_delay=0.05, longest_delay=0.05, starts=2)
    (stable.folder / "orders").write_text("")
    before = stable.start(obedient(stable, policy=policy, attach=attached()))
    with opened(Path(before.device)) as disk:
        pwrite(disk, b"x" * 4096, 0)
        (stable.folder / "orders").write_text("open exit")
        stable.kill_unit()
        with pytest.raises(OSError) as caught:
            pread(disk, 4096, 0)
        assert caught.value.errno == errno.EIO
        assert stable.status().state is State.FAILED
    stable.stop(force=True)


def test_a_connection_that_is_lost_alone_ends_the_process_behind_it(stable: Stable) -> None:
    """An old request of it could be done after a new one."""
    needs_devices()
    before = stable.start(stable.spec(str(stable.image(8 << 20)), attach=attached()))
    with opened(Path(before.device)) as disk:
        pwrite(disk, b"x" * 4096, 0)
        os.kill(before.unit_pid, signal.SIGSTOP)  # so that it does not see who talks to it
        sever(before.attach_pid)
        assert pread(disk, 4096, 0) == b"x" * 4096
        assert stable.again(before).exit_status == -9
    assert "had closed the connection, and is killed" in stable.log()
    stable.stop()


def sever(pid: int) -> None:
    """Shut down the connections of a process over Unix sockets."""
    with open_process(pid) as process:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                sock = socket.socket(fileno=getfd(process, int(name)))
                with sock:
                    if sock.family == socket.AF_UNIX and sock.getpeername():
                        sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def open_process(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def getfd(process: int, number: int) -> int:
    """pidfd_getfd(2): the same open file, here."""
    found = ctypes.CDLL(None, use_errno=True).syscall(438, process, number, 0)
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(found)
