"""What Windows asks a disk, as documented: disk.sys, classpnp, msdsm, failover clusters.

The commands are those of the published driver samples and documents. Nothing here ran on Windows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.interop.raw import (
    designators,
    inquiry,
    login,
    mode_select,
    mode_sense,
    number,
    refused,
    vpd,
)
from tests.kit.server import Served, serve
from userdisk.initiator_client import Initiator, ScsiError, sense_codes

_BLOCKS = 131072  # 64 MiB


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve("ram:64M", options=("--physical-block-length", "4096")) as server:
        yield server


@pytest.fixture
def windows(served: Served) -> Iterator[Initiator]:
    with login(served, "windows") as initiator:
        yield initiator


def test_what_the_disk_is(windows: Initiator) -> None:
    data = inquiry(windows)
    assert data[0] == 0, "a connected disk"
    assert data[1] >> 7 == 0, "not removable"
    assert data[2] >= 5 and data[3] & 0xF == 2
    assert data[4] + 5 == len(data)
    assert data[7] & 2, "CMDQUE"
    assert all(32 <= byte < 127 for byte in data[8:36])


def test_the_list_of_pages_begins_with_itself_and_ascends(windows: Initiator) -> None:
    """Otherwise classpnp uses none of them."""
    pages = vpd(windows, 0)[4:]
    assert pages[0] == 0
    assert list(pages) == sorted(set(pages))
    assert {0x80, 0x83, 0xB0, 0xB1, 0xB2, 0x8F} <= set(pages)


def test_identity(windows: Initiator) -> None:
    serial = vpd(windows, 0x80)[4:]
    assert serial and all(32 < byte < 127 for byte in serial)
    found = list(designators(windows))
    of_the_disk = [each for each in found if each.association == 0]
    assert of_the_disk[0].kind == 3 and len(of_the_disk[0].value) in (8, 16), "NAA comes first"
    assert any(each.kind == 8 for each in of_the_disk), "SCSI name string"
    # cluster validation wants more than a T10 vendor identification
    assert any(each.kind in (2, 3, 8) for each in of_the_disk)
    # msdsm: relative target port, target port group
    assert {4, 5} <= {each.kind for each in found if each.association == 1}


def test_limits(windows: Initiator) -> None:
    data = vpd(windows, 0xB0)
    assert number(data, 2, 2) == 0x3C, "the form with unmap"
    assert 0 < number(data, 12, 4) <= number(data, 8, 4), "optimal within maximum transfer length"
    assert number(data, 12, 4) % 8 == 0
    assert number(data, 20, 4) > 0, "else TRIM fails"
    assert number(data, 24, 4) > 0
    granularity = number(data, 28, 4)
    assert granularity and granularity % 8 == 0, "slabs; needed to consolidate them"
    assert number(data, 32, 4) == 1 << 31, "UGAVALID, alignment 0"


def test_it_is_shown_as_a_thin_ssd(windows: Initiator) -> None:
    data = vpd(windows, 0xB1)
    assert number(data, 2, 2) == 0x3C, "another length is ignored"
    assert number(data, 4, 2) == 1, "no seek penalty"
    data = vpd(windows, 0xB2)
    assert len(data) >= 8
    assert data[5] & 0x80, "LBPU: TRIM is enabled"
    assert data[5] & 0x60 == 0x60, "LBPWS, LBPWS10"
    assert data[5] >> 2 & 7 == 1, "LBPRZ"
    assert data[6] & 7 == 2, "thin provisioned"


def test_capacity_and_alignment(windows: Initiator) -> None:
    data = windows.execute(bytes([0x25]) + bytes(9), read_length=8)
    assert (number(data, 0, 4), number(data, 4, 4)) == (_BLOCKS - 1, 512)
    data = windows.execute(b"\x9e\x10" + bytes(11) + b"\x20\0\0", read_length=32)
    assert (number(data, 0, 8), number(data, 8, 4)) == (_BLOCKS - 1, 512)
    assert data[12] & 1 == 0, "no protection information"
    assert data[13] & 0xF == 3, "eight logical blocks in a physical one: 512e"
    assert data[14] & 0x80 and data[14] & 0x40, "LBPME, LBPRZ"
    assert number(data, 14, 2) & 0x3FFF == 0, "aligned at block 0"


def test_write_protection_is_asked_of_both_forms(windows: Initiator) -> None:
    data = windows.execute(bytes([0x1A, 0, 0x3F, 0, 192, 0]), read_length=192)
    assert data[0] == len(data) - 1
    assert data[2] & 0x80 == 0, "not write protected"
    assert data[2] & 0x10, "DPOFUA"
    data = windows.execute(bytes([0x5A, 0, 0x3F, 0, 0, 0, 0, 1, 0, 0]), read_length=256)
    assert number(data, 0, 2) == len(data) - 2
    assert data[3] & 0x90 == 0x10


def test_the_write_cache_tab(served: Served) -> None:
    """Page 08, its changeable mask, and MODE SELECT with SP as the mask allows."""
    with serve("ram:1M") as own, login(own, "windows") as windows, login(own, "other") as other:
        other.execute(bytes(6))
        _, page = mode_sense(windows, 8)
        assert page[0] & 0x3F == 8 and page[1] == 18 and len(page) == 20
        _, mask = mode_sense(windows, 8, control=1)
        if mask[2] & 4:  # the tick box can be used
            changed = page[:2] + bytes([page[2] ^ 4]) + page[3:]
            mode_select(windows, changed, save=bool(page[0] & 0x80))
            assert mode_sense(windows, 8)[1][2] == changed[2]
            task = other.finish(other.session.command(bytes(6)))
            assert sense_codes(task.sense) == (6, 0x2A, 1), "others hear of it"
        else:
            assert refused(
                windows, bytes([0x15, 0x10, 0, 0, 24, 0]),
                data_out=bytes(4) + bytes([8]) + page[1:2] + bytes([page[2] ^ 4]) + page[3:],
            )[:2] == (5, 0x26)  # fmt: skip


def test_control_page_for_clusters(windows: Initiator) -> None:
    """msdsm reads QERR and sets it to 0."""
    _, page = mode_sense(windows, 0x0A)
    assert page[0] & 0x3F == 0x0A and page[1] == 10
    assert page[3] >> 1 & 3 == 0, "QERR"
    mode_select(windows, page, save=False)


def test_failure_prediction_may_be_polled(windows: Initiator) -> None:
    try:
        _, page = mode_sense(windows, 0x1C)
    except ScsiError as error:
        assert (error.status, sense_codes(error.sense)) == (2, (5, 0x24, 0))
    else:
        assert page[0] & 0x3F == 0x1C and page[1] == 10


def test_trim_with_a_full_list(windows: Initiator) -> None:
    """Windows packs as many descriptors as the disk allows into a command."""
    count = min(number(vpd(windows, 0xB0), 24, 4), (65535 - 8) // 16)
    windows.write(0, b"\xff" * 512 * 16 * 16)
    ranges = b"".join(struct.pack(">QI4x", 16 * at, 8) for at in range(count))
    data = struct.pack(">HH4x", 6 + len(ranges), len(ranges)) + ranges
    windows.execute(struct.pack(">BBxxxxxHx", 0x42, 0, len(data)), data_out=data)
    kept = windows.read(0, 256)
    for at in range(16):
        start = at * 16 * 512
        assert kept[start : start + 4096] == bytes(4096)
        assert kept[start + 4096 : start + 8192] == b"\xff" * 4096


def test_slabs_are_looked_up(windows: Initiator) -> None:
    """GET LBA STATUS, from the block that was asked for."""
    windows.write(1024, b"x" * 512 * 64)
    windows.unmap(1024 + 16, 16)
    cdb = struct.pack(">BBQIxx", 0x9E, 0x12, 1024, 4096)
    data = windows.execute(cdb, read_length=4096)
    assert number(data, 0, 4) + 4 == len(data) and (len(data) - 8) % 16 == 0
    found = [struct.unpack_from(">QIB", data, at) for at in range(8, len(data), 16)]
    assert found[0] == (1024, 16, 0)
    assert found[1][0] == 1040 and found[1][2] & 0xF == 1, "deallocated"
    for (lba, blocks, _), (following, _, _) in pairwise(found):
        assert lba + blocks == following


def test_thin_provisioning_log(windows: Initiator) -> None:
    """LOG SENSE 0C, where the disk says how full it is; else the page must not be listed."""
    listed = windows.execute(bytes([0x4D, 0, 0x40, 0, 0, 0, 0, 1, 0, 0]), read_length=256)
    pages = listed[4 : 4 + number(listed, 2, 2)]
    assert pages[0] == 0 and list(pages) == sorted(set(pages))
    if 0x0C in pages:
        data = windows.execute(bytes([0x4D, 0, 0x4C, 0, 0, 0, 0, 1, 0, 0]), read_length=256)
        assert data[0] & 0x3F == 0x0C and number(data, 2, 2) == len(data) - 4
    else:
        cdb = bytes([0x4D, 0, 0x4C, 0, 0, 0, 0, 1, 0, 0])
        assert refused(windows, cdb, read_length=256) == (5, 0x24, 0)


def test_chkdsk_and_shutdown(windows: Initiator) -> None:
    for cdb in (
        struct.pack(">BBIBHB", 0x2F, 0, 0, 0, 1024, 0),  # VERIFY(10)
        struct.pack(">BBQIxx", 0x8F, 0, 0, 1024),  # VERIFY(16)
        bytes([0x35]) + bytes(9),  # SYNCHRONIZE CACHE(10)
        bytes([0x1B, 0, 0, 0, 0, 0]),  # START STOP UNIT: stop, at shutdown
        bytes([0x1B, 0, 0, 0, 1, 0]),
        bytes(6),
    ):
        assert windows.execute(cdb) == b"", cdb.hex(" ")


def test_offloaded_copy(windows: Initiator) -> None:
    """ODX: VPD 8F, POPULATE TOKEN, RECEIVE ROD TOKEN INFORMATION, WRITE USING TOKEN."""
    page = vpd(windows, 0x8F, 4096)
    assert (number(page, 4, 2), number(page, 6, 2)) == (0, 0x20), "token limits come first"
    assert number(page, 14, 2) >= 1, "range descriptors"
    assert number(page, 24, 8) > 0, "largest token"
    pattern = bytes(range(256)) * 2 * 64
    windows.write(2048, pattern)
    windows.write(8192, b"z" * len(pattern))

    source = struct.pack(">HBxI4x2xH", 14 + 16, 0, 60, 16) + struct.pack(">QI4x", 2048, 64)
    cdb = struct.pack(">BB4xIIBB", 0x83, 0x10, 1, len(source), 0, 0)
    windows.execute(cdb, data_out=source)

    cdb = struct.pack(">BBI4xIBB", 0x84, 0x07, 1, 1024, 0, 0)
    answer = windows.execute(cdb, read_length=1024)
    assert number(answer, 0, 4) + 4 == len(answer)
    assert answer[4] & 0x1F == 0x10 and answer[5] & 0x7F == 1, "POPULATE TOKEN, done without errors"
    assert number(answer, 16, 8) == 64
    at = 32 + answer[13]
    assert number(answer, at, 4) == 514
    token = answer[at + 6 : at + 6 + 512]
    assert len(token) == 512 and number(token, 6, 2) == 0x01F8

    target = struct.pack(">HB5xQ", 534 + 16, 0, 0) + token + struct.pack(">6xH", 16)
    target += struct.pack(">QI4x", 8192, 64)
    cdb = struct.pack(">BB4xIIBB", 0x83, 0x11, 2, len(target), 0, 0)
    windows.execute(cdb, data_out=target)
    assert windows.read(8192, 64) == pattern

    # the well-known token of zeros (SBC-4: ROD type FFFF0001h)
    zeros = struct.pack(">IHH504x", 0xFFFF0001, 0, 0x01F8)
    target = target[:16] + zeros + target[16 + 512 :]
    windows.execute(struct.pack(">BB4xIIBB", 0x83, 0x11, 3, len(target), 0, 0), data_out=target)
    assert windows.read(8192, 64) == bytes(64 * 512)


def _reserve_out(initiator: Initiator, action: int, key: int, new: int = 0, kind: int = 0) -> None:
    cdb = struct.pack(">BBBxxIB", 0x5F, action, kind, 24, 0)
    initiator.execute(cdb, data_out=struct.pack(">QQ8x", key, new))


def _reserve_in(initiator: Initiator, action: int) -> bytes:
    cdb = struct.pack(">BB5xHB", 0x5E, action, 512, 0)
    return initiator.execute(cdb, read_length=512)


def test_a_cluster_takes_the_disk_over(served: Served) -> None:
    """REGISTER AND IGNORE, RESERVE (5), READ KEYS, READ RESERVATION; PREEMPT by another node."""
    with login(served, "node1") as one, login(served, "node2") as two:
        _reserve_out(one, 6, 0, 0x11)
        _reserve_out(one, 1, 0x11, kind=5)  # write exclusive, registrants only
        two.read(0, 1)
        with pytest.raises(ScsiError) as caught:
            two.write(0, bytes(512))
        assert (caught.value.status, caught.value.sense) == (0x18, b"")
        _reserve_out(two, 6, 0, 0x22)
        two.write(0, bytes(512))

        keys = _reserve_in(one, 0)
        assert number(keys, 4, 4) == 16
        assert {number(keys, 8, 8), number(keys, 16, 8)} == {0x11, 0x22}
        held = _reserve_in(one, 1)
        assert (number(held, 4, 4), number(held, 8, 8), held[21]) == (16, 0x11, 5)

        generation = number(keys, 0, 4)
        _reserve_out(two, 4, 0x22, 0x11, kind=5)
        held = _reserve_in(two, 1)
        assert (number(held, 8, 8), number(held, 0, 4)) == (0x22, generation + 1)
        task = one.finish(one.session.command(bytes(6)))
        assert sense_codes(task.sense) == (6, 0x2A, 5), "registrations preempted"
        with pytest.raises(ScsiError) as caught:
            one.write(0, bytes(512))
        assert caught.value.status == 0x18
        full = _reserve_in(two, 3)
        assert number(full, 8, 8) == 0x22 and full[20] & 1, "the holder"
        _reserve_out(two, 3, 0x22)
        one.write(0, bytes(512))
