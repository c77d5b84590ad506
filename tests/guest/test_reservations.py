"""Persistent reservations and a real kernel: it is fenced while it writes; servers that are killed.

The kernel in the guest is one host of a cluster, the test itself the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.initiator import INITIATOR_NAME, LinuxInitiator
from tests.guest.server import ServeProcess
from tests.guest.session import HOST, Guest
from tests.kit import reservations as pr
from tests.kit.requires import requires
from userdisk.initiator_client import Initiator, ScsiError
from userdisk.iscsi.initiator_login import Settings

pytestmark = [pytest.mark.timeout(240), requires("iscsid", "iscsiadm", "sg_persist", "fio")]

NAME = "iqn.2026-11.test:reservations"
SIZE = 8 << 20
KERNEL, OTHER = 0xA, 0xB  # keys
TIMEOUT = 5  # seconds of a command in the guest: aborted ones are not answered (TAS is zero)
PERSIST = "sg_persist --no-inquiry"
FENCED = "Invalid exchange"  # EBADE, what Linux makes of RESERVATION CONFLICT
FIO = (
    "fio --name=write --rw=randwrite --bs=4k --ioengine=libaio --iodepth=16 --direct=1"
    f" --size={SIZE} --time_based --runtime=600 --output-format=terse"
)


@dataclass
class Disk:
    """The disk as the guest has it."""

    initiator: LinuxInitiator
    server: ServeProcess
    image: Path
    device: str

    @property
    def guest(self) -> Guest:
        return self.initiator.guest

    @property
    def sys(self) -> str:
        """Its directory below /sys."""
        return f"/sys/block/{self.device.removeprefix('/dev/')}"

    def persist(self, arguments: str) -> str:
        """sg_persist in the guest."""
        return self.guest.check(f"{PERSIST} {arguments} {self.device}")

    def write(self) -> tuple[int, str]:
        """Write a block in the guest: the exit code, and what was said."""
        return self.guest.run(
            f"dd if=/dev/urandom of={self.device} bs=4k count=1 oflag=direct status=none"
        )

    @contextmanager
    def other_host(self) -> Iterator[Initiator]:
        """A session of the other host, past its first unit attention."""
        settings = Settings("iqn.2026-11.test:other", NAME)
        with Initiator(("127.0.0.1", self.server.port), settings) as host:
            host.execute(bytes(6))
            yield host


@pytest.fixture
def disk(initiator: LinuxInitiator, tmp_path: Path) -> Iterator[Disk]:
    image = tmp_path / "disk.img"
    arguments: list[str | Path] = [image, "--size", str(SIZE), "--name", NAME]
    with ServeProcess(arguments, tmp_path / "serve.log", advertise=HOST) as server:
        portal = f"{HOST}:{server.port}"
        initiator.guest.check("dmesg --clear")
        initiator.add(NAME, portal)
        (device,) = initiator.login(NAME, portal)
        yield Disk(initiator, server, image, device)
        initiator.guest.run("touch /run/stop")
        initiator.drop(NAME, portal)


def _out(host: Initiator, action: int, key: int, service_key: int) -> None:
    cdb = struct.pack(">BBBxxIx", 0x5F, action, pr.WE_RO, 24)
    host.execute(cdb, data_out=pr.basic(key, service_key))


def _refused(host: Initiator, cdb: bytes, data: bytes = b"", length: int = 0) -> bool:
    try:
        host.execute(cdb, data_out=data, read_length=length)
    except ScsiError as error:
        return error.status == pr.CONFLICT
    return False


def _write_refused(host: Initiator) -> bool:
    return _refused(host, bytes.fromhex("2a 00 00000000 00 0001 00"), bytes(512))


def test_a_kernel_that_is_fenced_while_it_writes(disk: Disk) -> None:
    guest = disk.guest
    guest.check(f"rm -f /run/stop; echo {TIMEOUT} > {disk.sys}/device/timeout")
    disk.persist(f"--out --register --param-sark={KERNEL:#x}")
    disk.persist(f"--out --reserve --param-rk={KERNEL:#x} --prout-type={pr.WE_RO}")
    with disk.other_host() as host:
        assert _write_refused(host)
        _out(host, pr.REGISTER, 0, OTHER)
        writer = f"until [ -e /run/stop ]; do {FIO} --filename={disk.device}; echo ended $?; done"
        guest.start(f"bash -c '{writer}'", "/run/writer", "/run/writer.pid")
        guest.wait_until(f"(read -r _ _ _ _ n _ < {disk.sys}/stat; [ $n -ge 1000 ])", 60)

        _out(host, pr.PREEMPT_AND_ABORT, OTHER, KERNEL)
        after = disk.image.read_bytes()

        # those under way fail, and so do the writes of two more attempts
        guest.wait_until("[ $(grep -c '^ended' /run/writer) -ge 3 ]", 90)
        guest.check("touch /run/stop")
        guest.wait_until("grep -q '^exit' /run/writer", 60)
        said = guest.check("cat /run/writer")
        assert said.count("ended 1") == said.count("ended"), said
        assert said.count(f"{FENCED}: write") >= 3, said
        code, said = disk.write()
        assert code and FENCED in said
        assert "reservation conflict" in guest.check("dmesg")
        guest.check(f"dd if={disk.device} of=/dev/null bs=4k count=1 iflag=direct status=none")
        assert disk.image.read_bytes() == after, "a write of the fenced host reached the disk"

        host.write(0, b"o" * 512)
        disk.persist(f"--out --register-ignore --param-sark={KERNEL:#x}")
        assert disk.write() == (0, "")
        disk.persist(
            f"--out --preempt-abort --param-rk={KERNEL:#x} --param-sark={OTHER:#x}"
            f" --prout-type={pr.WE_RO}"
        )
        assert _write_refused(host)


def test_a_reservation_outlives_the_server(disk: Disk) -> None:
    guest = disk.guest
    disk.persist(f"--out --register --param-sark={KERNEL:#x} --param-aptpl")
    disk.persist(f"--out --reserve --param-rk={KERNEL:#x} --prout-type={pr.EA_RO}")
    # without the first line, the generation: a start resets it
    _, _, before = disk.persist("--in --read-full-status").partition("\n")
    assert "Reservation holder" in before and INITIATOR_NAME in before
    disk.server.kill()
    guest.wait_until("grep -qx FAILED <(cat /sys/class/iscsi_session/session*/state)", 30)
    disk.server.start()
    with disk.other_host() as host:
        assert _write_refused(host)
        assert _refused(host, bytes.fromhex("28 00 00000000 00 0001 00"), length=512)
        guest.wait_until("grep -qx LOGGED_IN <(cat /sys/class/iscsi_session/session*/state)", 60)
        assert disk.write() == (0, "")
        assert disk.persist("--in --read-full-status").partition("\n")[2] == before
        assert _write_refused(host)
