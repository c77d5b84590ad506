"""MODE SENSE: pages, page control, headers and block descriptors, against bytes made by hand."""

from __future__ import annotations

import pytest

from tests.kit.modes import CACHING, CHANGEABLE, CONTROL, CURRENT, DEFAULT, SAVED, Disk
from userdisk.scsi.sense import Asc, Pointer
from userdisk.unit import Extents, StorageUnit, Usage

RECOVERY = bytes.fromhex("01 0a" + "00" * 10)
EXTENSION = bytes.fromhex("4a 01 001c" + "00" * 28)
POWER = bytes.fromhex("1a 26" + "00" * 38)
EXCEPTIONS = bytes.fromhex("1c 0a 08" + "00" * 9)
#: a soft threshold of the available resource, 20 % of 4 GiB in sets of 1 MiB
THRESHOLD = bytes.fromhex("5c 02 0014" + "00" * 12 + "80 01 0000 00000334")


class Thin(StorageUnit):
    """4 GiB that nobody reads or writes; tells its usage."""

    block_count = 1 << 23
    soft_threshold = 80

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        raise AssertionError

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        raise AssertionError

    def unmap(self, extents: Extents) -> None:
        raise AssertionError

    def usage(self) -> Usage:
        return Usage(0, 1 << 22)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_the_pages_of_a_disk(disk: Disk) -> None:
    plain = RECOVERY + CACHING + CONTROL
    assert disk.sense(0x3F) == plain + POWER + EXCEPTIONS
    assert disk.sense(0x3F, 0xFF) == plain + EXTENSION + POWER + EXCEPTIONS
    for page in (RECOVERY, CACHING, CONTROL, POWER, EXCEPTIONS):
        assert disk.sense(page[0]) == page
    assert disk.sense(0x0A, 0x01) == EXTENSION
    assert disk.sense(0x0A, 0xFF) == CONTROL + EXTENSION
    assert disk.sense(0x08, 0xFF) == CACHING


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize(
    ("page", "subpage", "pointer"),
    [
        (0x00, 0x00, Pointer(2, 5)),
        (0x02, 0xFF, Pointer(2, 5)),
        (0x3E, 0x00, Pointer(2, 5)),
        (0x0A, 0x02, Pointer(3)),
        (0x0A, 0x05, Pointer(3)),
        (0x08, 0x01, Pointer(3)),
        (0x3F, 0x01, Pointer(3)),
        (0x1C, 0x02, Pointer(3)),  # of units that do not tell their usage
    ],
)
def test_pages_that_are_none(
    disk: Disk, page: int, subpage: int, pointer: Pointer, which: int
) -> None:
    for cdb in (
        bytes([0x1A, 0, which << 6 | page, subpage, 255, 0]),
        bytes([0x5A, 0, which << 6 | page, subpage, 0, 0, 0, 1, 0, 0]),
    ):
        result = disk.run(cdb)
        assert result.sense is not None
        assert result.sense.code == Asc.INVALID_FIELD_IN_CDB
        assert result.sense.pointer == pointer


def test_page_control(disk: Disk) -> None:
    assert disk.select(bytes.fromhex("0a 0a 06 10 08 00 0000 ffff 0000")).status == 0
    assert disk.sense(0x0A, 0, CURRENT).hex(" ", -2) == "0a0a 0610 0800 0000 ffff 0000"
    assert disk.sense(0x0A, 0, DEFAULT) == CONTROL
    assert disk.sense(0x0A, 0, CHANGEABLE).hex(" ", -2) == "0a0a 0400 0800 0000 0000 0000"
    assert disk.sense(0x08, 0, CHANGEABLE) == bytes.fromhex("08 12 04" + "00" * 17)
    assert disk.sense(0x3F, 0xFF, CHANGEABLE) == (
        RECOVERY
        + bytes.fromhex("08 12 04" + "00" * 17)
        + bytes.fromhex("0a 0a 04 00 08" + "00" * 7)
        + EXTENSION
        + POWER
        + bytes.fromhex("1c 0a" + "00" * 10)
    )


def test_nothing_is_saved_where_nothing_can_be(disk: Disk) -> None:
    for cdb in ("1a 00 ca 00 ff 00", "5a 00 ff ff 000000 00ff 00"):
        result = disk.run(bytes.fromhex(cdb))
        assert result.sense is not None and result.sense.code == Asc.SAVING_NOT_SUPPORTED
    for which in (CURRENT, CHANGEABLE, DEFAULT):
        assert not disk.sense(0x0A, 0, which)[0] & 0x80
    with pytest.raises(AssertionError):
        disk.sense(0x0A, 0, SAVED)


def test_a_unit_without_a_cache_cannot_have_one_switched_on() -> None:
    disk = Disk(cache_supported=False)
    assert disk.sense(0x08) == bytes.fromhex("08 12" + "00" * 18)
    assert disk.sense(0x08, 0, CHANGEABLE) == disk.sense(0x08)
    assert disk.select(CACHING).status == 2


def test_the_threshold_of_a_thin_unit() -> None:
    disk = Disk(Thin())
    assert disk.sense(0x1C, 0x02) == THRESHOLD
    assert disk.sense(0x1C, 0xFF) == EXCEPTIONS + THRESHOLD
    assert disk.sense(0x3F, 0xFF).endswith(POWER + EXCEPTIONS + THRESHOLD)
    assert disk.sense(0x01)[7] == 0x80  # LBPERE: it is told when it is reached
    assert disk.sense(0x1C, 0x02, CHANGEABLE) == THRESHOLD[:4] + bytes(20)
    disk = Disk(Thin(soft_threshold=0))
    assert disk.sense(0x1C, 0x02) == THRESHOLD[:16] + bytes.fromhex("00 01 0000 00000000")
    assert disk.sense(0x01)[7] == 0


@pytest.mark.parametrize(
    ("cdb", "start"),
    [
        ("1a 00 0a 00 ff 00", "17 00 10 08 00000800 00000200 0a0a"),
        ("1a 08 0a 00 ff 00", "0f 00 10 00 0a0a"),
        ("5a 00 0a 00 000000 00ff 00", "001a 00 10 00 00 0008 00000800 00000200 0a0a"),
        (
            "5a 10 0a 00 000000 00ff 00",
            "0022 00 10 01 00 0010 00000000 00000800 00000000 00000200 0a0a",
        ),
        ("5a 18 0a 00 000000 00ff 00", "0012 00 10 00 00 0000 0a0a"),
    ],
)
def test_headers(disk: Disk, cdb: str, start: str) -> None:
    data = disk.run(bytes.fromhex(cdb)).data
    assert data.startswith(bytes.fromhex(start))
    length = data[0] + 1 if cdb.startswith("1a") else int.from_bytes(data[:2], "big") + 2
    assert len(data) == length


def test_wp_of_the_header() -> None:
    for disk, expected in ((Disk(), 0x10), (Disk(write_protected=True), 0x90)):
        assert disk.run(bytes.fromhex("1a 00 3f 00 04 00")).data[2] == expected
        assert disk.select(bytes.fromhex("0a 0a 02 10 08 00 0000 ffff 0000")).status == 0
        assert disk.run(bytes.fromhex("1a 00 3f 00 04 00")).data[2] == 0x90
        assert disk.select(CONTROL).status == 0
        assert disk.run(bytes.fromhex("5a 00 3f 00 000000 0008 00")).data[3] == expected
