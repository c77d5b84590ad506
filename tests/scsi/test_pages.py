"""INQUIRY, VPD, mode and capacity data against bytes written out by hand from SPC-5 and SBC-4."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from userdisk.scsi import capacity, inquiry, luns, mode
from userdisk.scsi.inquiry import Designator

GUID = uuid.UUID("12345678-9abc-def0-1122-334455667788")


def test_standard_inquiry() -> None:
    expected = (
        "00 00 06 12 5b 08 00 02"
        + b"userdisk".hex()
        + b"my disk         ".hex()
        + b"1.0 ".hex()
        + "00" * 22
        + "00a0 0460 04c0 0960"
    )
    assert inquiry.standard("my disk", "1.0", {}) == bytes.fromhex(expected).ljust(96, b"\0")


def test_inquiry_of_an_absent_unit() -> None:
    data = inquiry.absent()
    assert data[:5] == bytes.fromhex("7f 00 06 02 1f")
    assert len(data) == 36


def test_locally_assigned_naa_name_uses_all_of_the_guid() -> None:
    # 123456789abcdef0 ^ 1122334455667788, its high digit replaced by NAA type 3
    assert inquiry.naa(GUID).hex() == "3316653ccfdaa978"
    assert inquiry.naa(GUID)[0] >> 4 == 3
    for bit in range(60):
        assert inquiry.naa(uuid.UUID(int=GUID.int ^ 1 << bit)) != inquiry.naa(GUID)
        assert inquiry.naa(uuid.UUID(int=GUID.int ^ 1 << 64 + bit)) != inquiry.naa(GUID)


def test_designators() -> None:
    names = inquiry.designators(GUID, "my disk", "iqn.2024-01.org.example:a")
    body = b"".join(name.encode() for name in names)
    assert body.startswith(bytes.fromhex("01 03 00 08") + inquiry.naa(GUID))
    assert bytes.fromhex("51 94 00 04 00000001") in body  # relative target port, PIV, iSCSI
    assert bytes.fromhex("51 95 00 04 00000001") in body  # target port group
    assert b"\x53\x98\x00\x24iqn.2024-01.org.example:a,t,0x0001\0\0" in body
    assert b"\x53\xa8\x00\x1ciqn.2024-01.org.example:a\0\0\0" in body
    assert Designator.decode_all(body) == names
    assert all(len(name.value) % 4 == 0 for name in names if name.kind == 8)


def test_designators_of_a_unit_without_an_iscsi_target() -> None:
    assert {name.association for name in inquiry.designators(GUID, "d", None)} == {0}


@given(st.binary(max_size=80))
def test_designators_of_anything(body: bytes) -> None:
    for name in Designator.decode_all(body):
        assert name.value in body


def test_fixed_vpd_pages() -> None:
    page = inquiry.fixed_page(0xB0, {"MAXIMUM TRANSFER LENGTH": 0x4000, "UGAVALID": 1})
    expected = bytearray(64)
    expected[:4], expected[10], expected[32] = bytes.fromhex("00b0003c"), 0x40, 0x80
    assert page == expected
    assert inquiry.fixed_page(0xB1, {"MEDIUM ROTATION RATE": 1})[:8].hex() == "00b1003c00010000"
    page = inquiry.fixed_page(0xB2, {"LBPU": 1, "LBPRZ": 1, "PROVISIONING TYPE": 2})
    assert page.hex() == "00b2000400840200"


def test_capacity() -> None:
    assert capacity.short(0x1000, 512).hex() == "00000fff00000200"
    assert capacity.short(1 << 32, 512).hex() == "ffffffff00000200"
    assert capacity.short((1 << 32) + 5, 4096).hex() == "ffffffff00001000"
    long = capacity.long((1 << 32) + 1, 512, exponent=3, provisioned=True, zeroes=True)
    assert long == bytes.fromhex("0000000100000000 00000200 00 03 c000").ljust(32, b"\0")
    thick = capacity.long(8, 4096, exponent=0, provisioned=False, zeroes=True)
    assert thick == bytes.fromhex("0000000000000007 00001000 00 00 0000").ljust(32, b"\0")


def test_report_luns() -> None:
    assert luns.encode([]) == bytes(8)
    assert luns.encode([0, 1 << 48]).hex() == "00000010 00000000".replace(" ", "") + (
        "0000000000000000" + "0001000000000000"
    )


def test_mode_pages() -> None:
    assert mode.CACHING.encode({"PS": 1, "WCE": 1}).hex() == "881204" + "00" * 17
    page = mode.CONTROL.encode({"QUEUE ALGORITHM MODIFIER": 1, "SWP": 1, "D_SENSE": 1})
    assert page.hex() == "0a0a04100800000000000000"
    assert mode.CONTROL_EXTENSION.encode({"SCSIP": 1}).hex() == "4a01001c02" + "00" * 27
    page = mode.LOGICAL_BLOCK_PROVISIONING.encode(
        {"ENABLED": 1, "THRESHOLD RESOURCE": 1, "THRESHOLD COUNT": 0x12345678}
    )
    assert page.hex() == "5c020014" + "00" * 12 + "8001000012345678"


def test_mode_headers() -> None:
    short = mode.block_descriptor(1 << 33, 512, long_lba=False)
    assert short.hex() == "ffffffff00000200"
    data = mode.encode(b"\x0a\x00", short, short=True, write_protected=True, long_lba=False)
    assert data.hex() == "0d009008" + short.hex() + "0a00"
    long = mode.block_descriptor(1 << 33, 512, long_lba=True)
    assert long.hex() == "00000002000000000000000000000200"
    data = mode.encode(b"", long, short=False, write_protected=False, long_lba=True)
    assert data.hex() == "0016001001000010" + long.hex()
