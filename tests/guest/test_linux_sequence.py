"""What Linux asks a disk while it attaches, captured on its way, and what it makes of the answers.

Then the disk at work: discards, zeroing, FUA, reservations, a size that changes; with sg3_utils in
the guest as a further judge.
"""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.initiator import LinuxInitiator
from tests.guest.recorder import Exchange, Recorder
from tests.guest.server import ServeProcess
from tests.guest.session import HOST
from tests.kit.requires import requires

pytestmark = [
    pytest.mark.timeout(240),
    requires("iscsid", "iscsiadm", "sg_persist", "sg_vpd", "sg_opcodes", "blkdiscard"),
]

NAME = "iqn.2026-11.test:sequence"
SIZE = 128 << 20

#: What a new nexus is told.
_ATTENTIONS = {(6, 0x29, 0x00)}
#: Linux asks for I/O advice hints, of which this disk has none.
_IO_HINTS = b"\x5a\x08\x0a\x05"


@dataclass
class Disk:
    """The disk in the guest, what was asked of it, and what the attach asked."""

    initiator: LinuxInitiator
    server: ServeProcess
    recorder: Recorder
    image: Path
    device: str
    attach: list[Exchange]

    @property
    def name(self) -> str:
        return self.device.removeprefix("/dev/")

    def sys(self, path: str) -> str:
        """A file below /sys/block/DISK."""
        return self.initiator.guest.check(f"cat /sys/block/{self.name}/{path}")

    def asked(self, command: str, seconds: float = 30) -> list[Exchange]:
        """What a command in the guest makes Linux ask."""
        start = len(self.recorder.exchanges)
        self.initiator.guest.check(command.replace("DISK", self.device), seconds)
        return self.recorder.since(start)

    def judge(self, command: str, seconds: float = 30) -> str:
        """The output of a program in the guest that must end well."""
        return self.initiator.guest.check(command.replace("DISK", self.device), seconds)


@pytest.fixture(scope="module")
def disk(initiator: LinuxInitiator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    folder = tmp_path_factory.mktemp("sequence")
    image = folder / "disk.img"
    arguments = [str(image), "--size", str(SIZE), "--physical-block-length", "4096", "--name", NAME]
    with (
        ServeProcess(arguments, folder / "serve.log", advertise=HOST) as server,
        Recorder(server.port) as recorder,
    ):
        portal = f"{HOST}:{recorder.port}"
        initiator.guest.check("dmesg --clear")
        initiator.add(NAME, portal)
        (device,) = initiator.login(NAME, portal)
        initiator.guest.check(f"blockdev --flushbufs {device}")
        yield Disk(initiator, server, recorder, image, device, recorder.since(0))
        initiator.drop(NAME, portal)


def _is(exchange: Exchange, *start: int) -> bool:
    return exchange.cdb.startswith(bytes(start))


def _complaints(disk: Disk) -> list[str]:
    lines = disk.judge("dmesg --level=emerg,alert,crit,err,warn").splitlines()
    return [line for line in lines if "Power-on or device reset occurred" not in line]


def test_every_command_of_the_attach_is_answered(disk: Disk) -> None:
    asked = disk.attach
    text = "\n".join(map(str, asked))
    print(text)
    assert _is(asked[0], 0x12, 0, 0), "INQUIRY comes first"
    # INQUIRY and pages, REPORT LUNS, TEST UNIT READY, READ CAPACITY(16), MODE SENSE, reads
    for start in (
        b"\x12\x00\x00\x00\x24", b"\x12\x01\x00", b"\x12\x01\x80", b"\x12\x01\x83", b"\x12\x01\xb0",
        b"\x12\x01\xb1", b"\x12\x01\xb2", b"\xa0", b"\x00", b"\x9e\x10", b"\x1a", b"\xa3\x0c",
    ):  # fmt: skip
        assert any(each.cdb.startswith(start) for each in asked), f"{start.hex()} in\n{text}"
    attentions = 0
    for each in asked:
        if each.status == 2 and each.codes in _ATTENTIONS:
            attentions += 1
        elif each.status != 0:
            assert each.cdb.startswith(_IO_HINTS) and each.codes == (5, 0x24, 0), str(each)
    assert attentions <= 1, text
    assert _complaints(disk) == []


def test_allocation_lengths_are_honoured_to_the_byte(disk: Disk) -> None:
    """Linux reads the header of a page, then the page."""
    pages = [each for each in disk.attach if _is(each, 0x12, 1)]
    assert pages
    for each in pages:
        (asked,) = struct.unpack_from(">H", each.cdb, 3)
        (length,) = struct.unpack_from(">H", each.data, 2)
        assert each.data[1] == each.cdb[2]
        assert len(each.data) == min(asked, length + 4), str(each)
    listed = next(each.data for each in pages if each.cdb[2] == 0 and len(each.data) > 8)
    assert list(listed[4:]) == sorted(listed[4:])
    assert {each.cdb[2] for each in pages} <= set(listed[4:])


def test_what_linux_makes_of_it(disk: Disk) -> None:
    assert int(disk.sys("size")) * 512 == SIZE
    for path, value in {
        "queue/logical_block_size": "512",
        "queue/physical_block_size": "4096",
        "queue/rotational": "0",
        "queue/fua": "1",
        "queue/write_cache": "write back",
        "queue/discard_granularity": "4096",
        "alignment_offset": "0",
        "ro": "0",
        "removable": "0",
    }.items():
        assert disk.sys(path) == value, path
    assert int(disk.sys("queue/discard_max_bytes")) >= 64 << 20
    assert int(disk.sys("queue/write_zeroes_max_bytes")) >= 16 << 20
    assert int(disk.sys("queue/max_hw_sectors_kb")) >= 1024
    found = {
        name: disk.sys(f"device/scsi_disk/*/{name}")
        for name in ("provisioning_mode", "thin_provisioning", "FUA", "cache_type", "zeroing_mode")
    }
    assert found == {
        "provisioning_mode": "unmap",
        "thin_provisioning": "1",
        "FUA": "1",
        "cache_type": "write back",
        "zeroing_mode": "writesame_16_unmap",
    }


def test_names_under_which_the_disk_is_found(disk: Disk) -> None:
    """/dev/disk/by-id/wwn-..., by udev's own program: the NAA name, first in VPD page 83."""
    page = next(
        each.data for each in disk.attach if _is(each, 0x12, 1, 0x83) and len(each.data) > 8
    )
    assert page[5] == 0x03, "NAA, of the logical unit"
    naa = page[8 : 8 + page[7]].hex()
    said = disk.judge("/lib/udev/scsi_id --whitelisted --export --device=DISK").splitlines()
    assert {f"ID_WWN=0x{naa}", f"ID_SERIAL=3{naa}"} <= set(said)
    assert disk.sys("device/wwid").startswith(("naa.", "t10.userdisk"))


def test_discard_and_zeroing(disk: Disk) -> None:
    discards = disk.asked("blkdiscard -f -o 1M -l 16M DISK")
    unmaps = [each for each in discards if _is(each, 0x42)]
    assert unmaps and all(each.status == 0 for each in discards)
    # zeros that stay provisioned, then zeros that need not: WRITE SAME(16) without and with UNMAP
    for command, unmap in (("blkdiscard -f -z", 0), ("fallocate --punch-hole", 0x08)):
        zeroing = disk.asked(f"{command} -o 1M -l 16M DISK")
        same = [each for each in zeroing if _is(each, 0x93)]
        assert same and all(each.cdb[1] & 0x08 == unmap for each in same), command
        assert all(each.status == 0 for each in zeroing)
    assert int(disk.sys("queue/write_zeroes_max_bytes")), "Linux switches it off after a refusal"
    disk.judge("head -c 16M /dev/zero | cmp -n 16777216 - <(tail -c +1048577 DISK)")
    assert _complaints(disk) == []


def test_fua_and_flush(disk: Disk) -> None:
    asked = disk.asked("dd if=/dev/zero of=DISK bs=4k count=1 oflag=direct,dsync status=none")
    writes = [each for each in asked if each.cdb[0] in (0x2A, 0x8A)]
    assert writes and all(each.cdb[1] & 0x08 for each in writes), "FUA"
    asked = disk.asked("dd if=/dev/zero of=DISK bs=4k count=1 oflag=direct conv=fsync status=none")
    assert any(each.cdb[0] in (0x35, 0x91) for each in asked), "SYNCHRONIZE CACHE"
    assert all(each.status == 0 for each in asked)


def test_persistent_reservations(disk: Disk) -> None:
    persist = "sg_persist --no-inquiry"
    disk.judge(f"{persist} --out --register --param-sark=0xabc DISK")
    disk.judge(f"{persist} --out --reserve --param-rk=0xabc --prout-type=5 DISK")
    assert "0xabc" in disk.judge(f"{persist} --in --read-keys DISK")
    held = disk.judge(f"{persist} --in --read-reservation DISK")
    assert "Write Exclusive, registrants only" in held
    full = disk.judge(f"{persist} --in --read-full-status DISK")
    assert "Reservation holder" in full and "iqn.2026-11.test:guest" in full
    capabilities = disk.judge(f"{persist} --in --report-capabilities DISK")
    assert "Persistent Reserve Capabilities" in capabilities.title() or "PTPL_C" in capabilities
    disk.judge("dd if=/dev/zero of=DISK bs=4k count=1 oflag=direct status=none")
    disk.judge(f"{persist} --out --release --param-rk=0xabc --prout-type=5 DISK")
    disk.judge(f"{persist} --out --clear --param-rk=0xabc DISK")
    assert "there are NO registered" in disk.judge(f"{persist} --in --read-keys DISK")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("sg_turs -n 4 DISK", ""),
        ("sg_luns DISK", "1 lun entry"),
        ("sg_readcap --16 DISK", "Logical block provisioning: lbpme=1, lbprz=1"),
        ("sg_vpd --page=bl DISK", "Maximum unmap block descriptor count"),
        ("sg_vpd --page=bdc DISK", "Non-rotating medium"),
        ("sg_vpd --page=lbpv DISK", "Provisioning type: 2"),
        ("sg_vpd --page=ei DISK", "SIMPSUP=1"),
        ("sg_vpd --page=tpc DISK", "Block Device ROD Token Limits"),
        ("sg_opcodes DISK", "Compare and write"),
        ("sg_opcodes --opcode=0x93 DISK", "Write same(16)"),
        ("sg_opcodes --tmf DISK", "ogical unit reset"),
        ("sg_modes --all DISK", "Caching"),
        ("sg_logs --page=0 DISK", "Supported log pages"),
        ("sg_get_lba_status --lba=0 DISK", "LBA: 0x0000000000000000"),
        ("sg_verify --lba=0 --count=8 DISK", ""),
        ("sg_unmap --lba=2048 --num=64 --force DISK", ""),
        ("sg_write_same --16 --lba=2048 --num=64 --in=/dev/zero --xferlen=512 DISK", ""),
        ("sg_write_same --16 --unmap --lba=2048 --num=64 --in=/dev/zero --xferlen=512 DISK", ""),
        ("head -c 1024 /dev/zero > /run/caw && sg_compare_and_write --in=/run/caw --lba=2048"
         " --num=1 --xferlen=1024 DISK", ""),
        ("sg_sync DISK", ""),
    ],
    ids=lambda value: value.split(" DISK")[0][-50:],
)  # fmt: skip
def test_sg3_utils_agrees(disk: Disk, command: str, says: str) -> None:
    assert says in disk.judge(command), command


def test_a_miscompare_is_seen(disk: Disk) -> None:
    command = (
        "head -c 1024 /dev/urandom > /run/caw; sg_compare_and_write --in=/run/caw --lba=2048"
        " --num=1 --xferlen=1024 DISK"
    )
    result = disk.initiator.guest.run(command.replace("DISK", disk.device))
    assert result.code == 14, "sg3_utils: miscompare"


def test_the_disk_grows(disk: Disk) -> None:
    """SIGHUP has the image measured; Linux hears of it, and sees the size after a rescan."""
    guest = disk.initiator.guest
    start = len(disk.recorder.exchanges)
    with disk.image.open("r+b") as file:
        file.truncate(2 * SIZE)
    disk.server.signal(signal.SIGHUP)
    guest.wait_until(
        f"dd if={disk.device} of=/dev/null bs=4k count=1 iflag=direct status=none;"
        " dmesg | grep -q 'Capacity data has changed'"
    )
    assert any(each.codes == (6, 0x2A, 0x09) for each in disk.recorder.since(start))
    guest.check(f"echo 1 > /sys/block/{disk.name}/device/rescan")
    assert int(guest.check(f"blockdev --getsize64 {disk.device}")) == 2 * SIZE
    guest.check(
        f"dd if=/dev/zero of={disk.device} bs=4k count=1 seek={SIZE // 4096} oflag=direct"
        " status=none"
    )
    assert [line for line in _complaints(disk) if "Capacity data has changed" not in line] == []
