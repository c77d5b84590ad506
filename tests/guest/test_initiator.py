"""Linux's own initiator, in a stock Debian kernel: from discovery to recovery after a crash."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.initiator import LinuxInitiator
from tests.guest.server import ServeProcess, write_private
from tests.guest.session import HOST, Guest, GuestError
from tests.kit.requires import requires

pytestmark = [
    pytest.mark.timeout(240),
    requires("iscsid", "iscsiadm", "fio", "mkfs.ext4", "e2fsck", "blkdiscard"),
]

NAME = "iqn.2026-11.test:guest-disk"
SIZE = 128 << 20
USER = "guest"
TARGET_USER = "userdisk"

#: What a healthy attach may leave in the kernel log at level warning: the unit attention that
#: every new session gets (SAM-6 5.14.6: POWER ON, RESET, OR BUS DEVICE RESET OCCURRED).
_ALLOWED = "Power-on or device reset occurred"

FIO = (
    "fio --name=verify --rw=randwrite --bs=4k --ioengine=libaio --iodepth=16 --direct=1"
    " --verify=crc32c --verify_fatal=1 --randseed=7 --output-format=terse"
)


@dataclass
class Disk:
    """A served file, and how the guest gets at it."""

    server: ServeProcess
    image: Path
    portal: str
    secret: str
    mutual_secret: str


@pytest.fixture(scope="module")
def disk(initiator: LinuxInitiator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    folder = tmp_path_factory.mktemp("disk")
    secret = secrets.token_hex(8)
    mutual = secrets.token_hex(8)
    lines = f"user {USER} {secret}\nmutual {TARGET_USER} {mutual}\n"
    chap = write_private(folder / "chap", lines)
    image = folder / "disk.img"
    arguments: list[str | Path] = [image, "--size", str(SIZE), "--name", NAME, "--chap-file", chap]
    with ServeProcess(arguments, folder / "serve.log", advertise=HOST) as server:
        portal = f"{HOST}:{server.port}"
        yield Disk(server, image, portal, secret, mutual)
        initiator.drop(NAME, portal)


def _chap(user: str, secret: str) -> dict[str, str]:
    return {
        "node.session.auth.authmethod": "CHAP",
        "node.session.auth.username": user,
        "node.session.auth.password": secret,
    }


def _mutual_chap(disk: Disk) -> dict[str, str]:
    """Linux asks the target for its secret as well."""
    return {
        **_chap(USER, disk.secret),
        "node.session.auth.username_in": TARGET_USER,
        "node.session.auth.password_in": disk.mutual_secret,
    }


def _complaints(guest: Guest) -> list[str]:
    lines = guest.check("dmesg --level=emerg,alert,crit,err,warn").splitlines()
    return [line for line in lines if _ALLOWED not in line]


@pytest.fixture
def device(initiator: LinuxInitiator, disk: Disk) -> Iterator[str]:
    """The disk, logged in for one test."""
    initiator.guest.check("dmesg --clear")
    initiator.add(NAME, disk.portal, _mutual_chap(disk))
    yield initiator.login(NAME, disk.portal)[0]
    initiator.guest.run("umount /mnt")
    initiator.drop(NAME, disk.portal)


def test_discovery_names_the_advertised_address(initiator: LinuxInitiator, disk: Disk) -> None:
    chap = _chap(USER, disk.secret)
    assert initiator.discover(disk.portal, chap) == [f"{disk.portal},1 {NAME}"]


def test_discovery_without_the_secret_is_refused(initiator: LinuxInitiator, disk: Disk) -> None:
    with pytest.raises(GuestError, match=r"authorization failure|Login failed"):
        initiator.discover(disk.portal)


@pytest.mark.parametrize(
    "settings",
    [{}, _chap(USER, "not-the-secret"), _chap("somebody", "not-the-secret")],
    ids=["none", "wrong secret", "unknown user"],
)
def test_login_without_the_secret_is_refused(
    initiator: LinuxInitiator, disk: Disk, settings: dict[str, str]
) -> None:
    initiator.add(NAME, disk.portal, settings)
    try:
        with pytest.raises(GuestError, match="authorization failure"):
            initiator.login(NAME, disk.portal)
    finally:
        initiator.drop(NAME, disk.portal)


def test_login_to_a_target_that_cannot_prove_itself_is_refused(
    initiator: LinuxInitiator, disk: Disk
) -> None:
    wrong = {**_mutual_chap(disk), "node.session.auth.password_in": "what-it-does-not-know"}
    initiator.add(NAME, disk.portal, wrong)
    try:
        with pytest.raises(GuestError, match="non-retryable iSCSI login failure"):
            initiator.login(NAME, disk.portal)
    finally:
        initiator.drop(NAME, disk.portal)


def test_attach_leaves_no_complaint_in_the_kernel_log(
    initiator: LinuxInitiator, disk: Disk
) -> None:
    guest = initiator.guest
    guest.check("dmesg --clear")
    initiator.add(NAME, disk.portal, _chap(USER, disk.secret))
    (device,) = initiator.login(NAME, disk.portal)
    assert initiator.state(NAME) == "LOGGED_IN"
    assert int(guest.check(f"blockdev --getsize64 {device}")) == SIZE
    queue = f"/sys/block/{device.removeprefix('/dev/')}/queue"
    assert guest.check(f"cat {queue}/write_cache {queue}/fua {queue}/logical_block_size").split(
        "\n"
    ) == ["write back", "1", "512"]
    assert int(guest.check(f"cat {queue}/discard_max_bytes")) > 0
    attached = guest.check("dmesg")
    assert "Write cache: enabled, read cache: enabled, supports DPO and FUA" in attached
    initiator.logout(NAME, disk.portal)
    assert guest.run(f"test -b {device}").code != 0
    assert _complaints(guest) == []


def test_file_system_with_verified_io(device: str, disk: Disk, initiator: LinuxInitiator) -> None:
    guest = initiator.guest
    guest.check(f"mkfs.ext4 -q {device} && mount {device} /mnt", 60)
    guest.check("cp -r /usr/include/linux /mnt/tree")
    guest.check(f"{FIO} --filename=/mnt/fio --size=8M", 90)
    guest.check(f"umount /mnt && e2fsck -fn {device} && mount {device} /mnt", 60)
    guest.check("diff -r /usr/include/linux /mnt/tree", 60)
    guest.check("umount /mnt")
    assert _complaints(guest) == []


def test_discard_frees_the_image_and_reads_as_zeros(
    device: str, disk: Disk, initiator: LinuxInitiator
) -> None:
    guest = initiator.guest
    guest.check(
        f"yes | head -c 16M | dd of={device} bs=1M iflag=fullblock oflag=direct status=none"
    )
    before = disk.image.stat().st_blocks
    guest.check(f"blkdiscard -f {device}")
    after = disk.image.stat().st_blocks
    assert before - after >= 16 << 11, f"{before} and then {after} blocks of 512 bytes"
    guest.check(f"head -c 16M /dev/zero | cmp -n 16777216 - {device}")
    assert _complaints(guest) == []


def test_io_goes_on_after_the_server_was_killed(
    device: str, disk: Disk, initiator: LinuxInitiator
) -> None:
    """Nothing that was answered is lost, and nothing that was not answered fails."""
    guest = initiator.guest
    guest.start(f"{FIO} --filename={device} --size=12M --rate_iops=400", "/run/fio", "/run/fio.pid")
    for _ in range(2):
        time.sleep(1.5)
        assert guest.run("kill -0 $(cat /run/fio.pid)").code == 0, guest.check("cat /run/fio")
        disk.server.kill()
        guest.wait_until(f"grep -qx FAILED <(cat {_session_state()})", 30)
        disk.server.start()
        guest.wait_until(f"grep -qx LOGGED_IN <(cat {_session_state()})", 60)
    guest.wait_until("grep -q '^exit' /run/fio", 120)
    output = guest.check("cat /run/fio")
    assert output.endswith("exit 0"), output
    # The same data once more, from the medium: fio checks what the run wrote, writing nothing.
    guest.check(f"echo 1 > /proc/sys/vm/drop_caches; {FIO} --verify_only --filename={device}"
                " --size=12M", 90)  # fmt: skip
    assert "I/O error" not in guest.check("dmesg")


def _session_state() -> str:
    return "/sys/class/iscsi_session/session*/state"
