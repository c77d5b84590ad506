"""What VMware ESXi asks a disk, as documented: VAAI, device names, multipathing, aborts.

The commands follow VMware's documents and the reports of others' targets. Nothing here ran on ESXi.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.interop.raw import designators, inquiry, login, number, refused, vpd
from tests.kit.server import Served, serve
from userdisk.initiator_client import Initiator, ScsiError, sense_codes


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """512-byte blocks, by two target port groups."""
    options = ("--listen", "127.0.0.1:0,2")
    with serve("ram:64M", options=options, listen="127.0.0.1:0,1", urls=2) as server:
        yield server


@pytest.fixture
def esxi(served: Served) -> Iterator[Initiator]:
    with login(served, "esxi") as initiator:
        yield initiator


def _naa(initiator: Initiator) -> bytes:
    return next(
        each.value for each in designators(initiator) if (each.association, each.kind) == (0, 3)
    )


def test_the_device_has_a_naa_name_by_both_paths(served: Served) -> None:
    with login(served, "esxi") as one, login(served, "esxi", 1) as two:
        assert _naa(one) == _naa(two) and len(_naa(one)) in (8, 16)
        assert vpd(one, 0x80) == vpd(two, 0x80)


def test_atomic_test_and_set(esxi: Initiator) -> None:
    """The lock of VMFS; a heartbeat does the same."""
    assert vpd(esxi, 0xB0)[5] >= 1, "MAXIMUM COMPARE AND WRITE LENGTH"
    old, new = b"o" * 512, b"n" * 512
    esxi.write(100, old)
    cdb = struct.pack(">BBQ3xBxx", 0x89, 0, 100, 1)
    esxi.execute(cdb, data_out=old + new)
    assert esxi.read(100, 1) == new
    task = esxi.finish(esxi.session.command(cdb, data_out=old + b"x" * 512))
    assert task.status == 2 and sense_codes(task.sense) == (0xE, 0x1D, 0)
    assert task.sense[0] & 0x80 and number(task.sense, 3, 4) == 0, "the first byte that differs"
    assert esxi.read(100, 1) == new, "nothing was written"


def test_full_copy(esxi: Initiator) -> None:
    """EXTENDED COPY (LID1), a block-to-block segment between descriptors with the NAA name."""
    cdb = struct.pack(">BB8xIBB", 0x84, 0x03, 128, 0, 0)
    limits = esxi.execute(cdb, read_length=128)
    assert number(limits, 0, 4) + 4 == len(limits)
    assert number(limits, 8, 2) >= 2 and number(limits, 10, 2) >= 1, "descriptors"
    assert number(limits, 12, 4) >= 2 * 32 + 28, "descriptor list"
    types = limits[44 : 44 + limits[43]]
    assert {0x02, 0xE4} <= set(types)

    naa = _naa(esxi)
    target = struct.pack(">BBHBBxB20sB3s", 0xE4, 0, 0, 1, 3, len(naa), naa, 0, b"\0\x02\0")
    assert len(target) == 32
    pattern = bytes(range(256)) * 2 * 256
    esxi.write(1000, pattern)
    segment = struct.pack(">BBHHHxxHQQ", 0x02, 0, 0x18, 0, 1, 256, 1000, 5000)
    data = struct.pack(">BBH4xII", 7, 0, 64, len(segment), 0) + target + target + segment
    esxi.execute(struct.pack(">BB8xIBB", 0x83, 0, len(data), 0, 0), data_out=data)
    assert esxi.read(5000, 256) == pattern


def test_block_zeroing(esxi: Initiator) -> None:
    esxi.write(300, b"x" * 4096)
    cdb = struct.pack(">BBQIxx", 0x93, 0, 300, 8)
    esxi.execute(cdb, data_out=bytes(512))
    assert esxi.read(300, 8) == bytes(4096)


def test_automatic_unmap(esxi: Initiator) -> None:
    """VMFS 6 wants a granularity of 1 MiB or less."""
    limits = vpd(esxi, 0xB0)
    assert number(limits, 20, 4) >= 2048 and number(limits, 24, 4) >= 1
    granularity = number(limits, 28, 4)
    assert 1 <= granularity <= 2048 and 2048 % granularity == 0
    assert vpd(esxi, 0xB2)[5] & 0x80
    esxi.write(4096, b"x" * (1 << 20))
    esxi.unmap(4096, 2048)
    assert esxi.read(4096, 2048) == bytes(1 << 20)


def test_reserve_for_hosts_without_ats(served: Served) -> None:
    with login(served, "host1") as one, login(served, "host2") as two:
        one.execute(bytes([0x16, 0, 0, 0, 0, 0]))
        with pytest.raises(ScsiError) as caught:
            two.read(0, 1)
        assert caught.value.status == 0x18
        one.execute(bytes([0x17, 0, 0, 0, 0, 0]))
        two.read(0, 1)


def test_access_states_of_paths(served: Served) -> None:
    """SATP_ALUA: TPGS, the port's own designators, REPORT TARGET PORT GROUPS."""
    for path in (0, 1):
        with login(served, "esxi", path) as esxi:
            assert inquiry(esxi)[5] >> 4 & 3, "TPGS"
            of_port = {each.kind: each.value for each in designators(esxi) if each.association == 1}
            port, group = number(of_port[4], 2, 2), number(of_port[5], 2, 2)
            assert group == path + 1
            data = esxi.execute(bytes([0xA3, 0x0A]) + struct.pack(">4xIxx", 512), read_length=512)
            assert number(data, 0, 4) + 4 == len(data)
            groups = {}
            at = 4
            while at < len(data):
                count = data[at + 7]
                ports = [number(data, at + 8 + 4 * each + 2, 2) for each in range(count)]
                groups[number(data, at + 2, 2)] = (data[at] & 0xF, ports)
                at += 8 + 4 * count
            assert set(groups) == {1, 2}
            assert groups[group][0] == 0 and port in groups[group][1], "active/optimized"


def test_failure_prediction_is_not_answered_busy(esxi: Initiator) -> None:
    esxi.execute(bytes(6))
    task = esxi.finish(esxi.session.command(bytes([0x1A, 8, 0x1C, 0, 64, 0]), read_length=64))
    assert task.status == 0 or (task.status, sense_codes(task.sense)) == (2, (5, 0x24, 0))


def test_aborts_and_resets_are_answered(served: Served) -> None:
    """Otherwise the connection is given up."""
    with login(served, "esxi") as esxi:
        esxi.execute(bytes(6))
        done = esxi.session.command(bytes([0x28]) + bytes(6) + b"\0\x08\0", read_length=4096)
        esxi.finish(done)
        abort = esxi.session.task_management(1, about=done)
        assert esxi.finish(abort).response in (0, 1)
        assert esxi.finish(esxi.session.task_management(5)).response == 0
        task = esxi.finish(esxi.session.command(bytes(6)))
        assert sense_codes(task.sense)[:2] == (6, 0x29)
        assert esxi.finish(esxi.session.command(bytes(6))).status == 0


def test_residuals_are_exact(esxi: Initiator) -> None:
    """ESXi expects as much as the CDB says, and compares."""
    esxi.execute(bytes(6))
    for blocks, length, residual in ((8, 4096, 0), (8, 8192, 4096), (8, 2048, -2048)):
        cdb = struct.pack(">BBIBHB", 0x28, 0, 0, 0, blocks, 0)
        task = esxi.finish(esxi.session.command(cdb, read_length=length))
        assert (task.status, task.residual) == (0, residual)
    big = bytes(1 << 20)
    cdb = struct.pack(">BBQIxx", 0x8A, 0, 0, len(big) // 512)
    task = esxi.finish(esxi.session.command(cdb, data_out=big))
    assert (task.status, task.residual) == (0, 0)


def test_unknown_commands_do_not_end_the_session(esxi: Initiator) -> None:
    assert refused(esxi, bytes([0xC1]) + bytes(9)) == (5, 0x20, 0)
    esxi.execute(bytes(6))
