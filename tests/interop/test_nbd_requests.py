"""Requests by libnbd: what is refused and how, FUA, flushes, fast zeroes, one piece."""

from __future__ import annotations

import os
from pathlib import Path

from tests.interop.libnbd import NEEDS_LIBNBD, libnbd
from tests.kit.nbd_server import nbd_server
from tests.kit.units import KINDS, InlineRamUnit, RamUnit, ThickRamUnit
from userdisk.backend import open_unit
from userdisk.unit import StorageUnit

pytestmark = NEEDS_LIBNBD

SIZE = 8 << 20


def uris(socket: Path, *names: str) -> list[str]:
    return [f"nbd+unix:///{name}?socket={socket}" for name in names]


# Offsets and lengths that do not fit blocks of 4096 bytes, or the disk; then the same connection
# still works.
REFUSED = """
for uri in each:
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.add_meta_context("base:allocation")
    h.connect_uri(uri)
    size = h.get_size()
    assert h.get_block_size(nbd.SIZE_MINIMUM) == 4096
    h.pwrite(b"a" * 8192, 0)
    seen = lambda *_: 0
    def read(length, offset): h.pread(length, offset)
    def read_structured(length, offset): h.pread_structured(length, offset, seen)
    def write(length, offset): h.pwrite(b"x" * length, offset)
    def status(length, offset): h.block_status(length, offset, seen)
    full = {write: errno.ENOSPC, h.zero: errno.ENOSPC}
    calls = read, read_structured, write, h.trim, h.zero, h.cache, status
    for call in calls:
        for length, offset in (
            (512, 0), (4096, 512), (512, 512), (4095, 0), (4097, 4096), (0, 0), (0, 4096),
            (0, size), (4096, 1), (1, size - 1), (8192, size - 512), (4096, (1 << 63) - 1),
        ):
            fails(errno.EINVAL, call, length, offset)
        for length, offset in (
            (4096, size), (8192, size - 4096), (size + 4096, 0), (4096, 1 << 62),
            (4096, (1 << 63) - 4096),
        ):
            fails(full.get(call, errno.EINVAL), call, length, offset)
        assert h.pread(8192, 0) == b"a" * 8192
    for call in h.trim, h.zero, h.cache, status:
        fails(full.get(call, errno.EINVAL), call, 0xFFFFF000, 4096)
    fails(errno.EINVAL, h.pread, 33 << 20, 0)
    assert h.pread(size, 0) == b"a" * 8192 + bytes(size - 8192)
    h.pwrite(b"b" * 4096, size - 4096)
    assert h.pread(4096, size - 4096) == b"b" * 4096
    h.shutdown()
"""


def test_what_does_not_fit_blocks_or_disk(tmp_path: Path) -> None:
    shape = {"block_count": SIZE // 4096, "block_length": 4096}
    units = {name: kind(**shape) for name, kind in KINDS.items()}
    with nbd_server(tmp_path / "s", **units):
        libnbd(REFUSED, *uris(tmp_path / "s", *KINDS))
    for unit in units.values():  # no call of the unit was for a refused request
        changes = [call[:3] for call in unit.log if call[0] in ("write", "unmap")]
        assert changes == [("write", 0, 2), ("write", SIZE // 4096 - 1, 1)]


# The payload is not received; what is left of it cannot be told from requests.
TOO_LONG = """
other = nbd.NBD()
other.connect_uri(each[0])
other.pwrite(b"a" * 4096, 0)
for uri in each:
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.connect_uri(uri)
    try:
        h.pwrite(b"x" * (33 << 20), 0)
    except nbd.Error:
        pass
    else:
        raise AssertionError("33 MiB were taken")
    assert h.aio_is_dead() or h.aio_is_closed(), h.connection_state()
    assert other.pread(4096, 0) == b"a" * 4096
    h = nbd.NBD()
    h.connect_uri(uri)
    h.pwrite(b"b" * (32 << 20), 0)
    assert h.pread(32 << 20, 0) == b"b" * (32 << 20)
    h.pwrite(b"a" * 4096, 0)
    h.shutdown()
assert other.pread(4096, 0) == b"a" * 4096
other.shutdown()
"""


def test_33_mib_end_one_connection(tmp_path: Path) -> None:
    units = {name: KINDS[name](block_count=(40 << 20) // 512) for name in ("inline", "serial")}
    with nbd_server(tmp_path / "s", **units):
        libnbd(TOO_LONG, *uris(tmp_path / "s", *units))
    for unit in units.values():
        assert b"x" not in unit.memory


READ_ONLY = """
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(each[0])
assert h.is_read_only()
for flags in 0, nbd.CMD_FLAG_FUA:
    fails(errno.EPERM, h.pwrite, bytes(512), 0, flags=flags)
    fails(errno.EPERM, h.zero, 512, 0, flags=flags)
    fails(errno.EPERM, h.trim, 512, 0, flags=flags)
h.cache(512, 0)
h.flush()
assert h.pread(512, 0) == b"r" * 512
h.shutdown()
"""


def test_a_read_only_export(tmp_path: Path) -> None:
    unit = InlineRamUnit(write_protected=True)
    unit.memory[:] = b"r" * len(unit.memory)
    with nbd_server(tmp_path / "s", disk=unit) as uri:
        libnbd(READ_ONLY, uri)
    assert set(unit.calls) == {"read"}


# Each line is one request; below is what of it reaches the unit.
DURABLE = """
FUA = nbd.CMD_FLAG_FUA
for uri in each:
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.connect_uri(uri)
    assert h.can_fua() and h.can_flush()
    h.pwrite(b"a" * 4096, 0)
    h.pwrite(b"b" * 4096, 4096, FUA)
    h.flush()
    h.trim(4096, 0)
    h.trim(4096, 4096, FUA)
    h.zero(4096, 0)
    h.zero(4096, 4096, FUA)
    h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE)
    h.zero(4096, 8192, nbd.CMD_FLAG_NO_HOLE | FUA)
    h.pwrite(b"c" * (2 << 20), 0)
    h.pwrite(b"d" * (2 << 20), 0, FUA)
    h.pread(4096, 0)
    h.pread(4096, 0, FUA)
    h.cache(4096, 0, FUA)
    h.flush(FUA)
    h.shutdown()
"""

_FLUSH = ("flush", 0, 0, False)
REACHES = [
    ("write", 0, 8, False),
    ("write", 8, 8, True),
    _FLUSH,
    ("unmap", 0, 8, False),
    ("unmap", 8, 8, False),
    _FLUSH,
    ("unmap", 0, 8, False),
    ("unmap", 8, 8, False),
    _FLUSH,
    ("write", 16, 8, False),
    ("write", 16, 8, False),
    _FLUSH,
    ("write", 0, 2048, False),
    ("write", 2048, 2048, False),
    ("write", 0, 2048, False),
    ("write", 2048, 2048, False),
    _FLUSH,
    ("read", 0, 8, False),
    ("read", 0, 8, False),
    _FLUSH,
]


def test_fua_and_flush_as_they_reach_the_unit(tmp_path: Path) -> None:
    units = {name: kind(block_count=SIZE // 512) for name, kind in KINDS.items()}
    with nbd_server(tmp_path / "s", **units):
        libnbd(DURABLE, *uris(tmp_path / "s", *units))
        logs = {name: list(unit.log) for name, unit in units.items()}
    for name, log in logs.items():  # the server's end flushes once more
        assert log == REACHES, name
        assert units[name].log == [*REACHES, _FLUSH], name


# What one connection was told is written, a flush on another one makes durable.
MULTI = """
for uri in each:
    handles = [nbd.NBD() for _ in range(3)]
    for h in handles:
        h.connect_uri(uri)
        assert h.can_multi_conn()
    first, second, third = handles
    for at in range(64):
        (first, second)[at % 2].pwrite(bytes([at + 1]) * 4096, at * 4096)
    third.flush()
    assert third.pread(64 * 4096, 0) == b"".join(bytes([at + 1]) * 4096 for at in range(64))
    third.pwrite(b"z" * 4096, 0)
    for h in handles:
        h.shutdown()
"""


def test_a_flush_covers_other_connections(tmp_path: Path) -> None:
    units: dict[str, RamUnit] = {}
    durable: dict[str, list[bytes]] = {name: [] for name in KINDS}

    def keeps(unit: RamUnit, kept: list[bytes]) -> None:
        """At a flush, what is in memory then becomes durable."""

        def fault(name: str, _lba: int, _blocks: int) -> None:
            if name == "flush":
                kept.append(bytes(unit.memory))

        unit.fault = fault

    for name, kind in KINDS.items():
        units[name] = kind(block_count=SIZE // 512)
        keeps(units[name], durable[name])
    with nbd_server(tmp_path / "s", **units):
        libnbd(MULTI, *uris(tmp_path / "s", *units))
        found = {name: list(kept) for name, kept in durable.items()}
    written = b"".join(bytes([at + 1]) * 4096 for at in range(64))
    for name, kept in found.items():
        assert [each[: len(written)] for each in kept] == [written], name


class _UnmapKeeps(InlineRamUnit):
    """What it unmaps does not read as zeros."""

    unmap_zeroes = False

    def unmap(self, extents: object) -> None:
        self._begin("unmap")


FAST_ZERO = """
fast, thick, keeps = (nbd.NBD() for _ in each)
for h, uri in zip((fast, thick, keeps), each):
    h.set_strict_mode(0)
    h.connect_uri(uri)
    h.pwrite(b"a" * 65536, 0)
assert fast.can_fast_zero() and not thick.can_fast_zero() and not keeps.can_fast_zero()
fast.zero(4096, 4096, nbd.CMD_FLAG_FAST_ZERO)
assert fast.pread(8192, 0) == b"a" * 4096 + bytes(4096)
fails(errno.ENOTSUP, fast.zero, 4096, 0, flags=nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
for h in thick, keeps:
    for flags in nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE:
        fails(errno.ENOTSUP, h.zero, 4096, 0, flags=flags)
    assert h.pread(65536, 0) == b"a" * 65536
    h.zero(4096, 0)
    assert h.pread(8192, 0) == bytes(4096) + b"a" * 4096
assert fast.pread(4096, 0) == b"a" * 4096
for h in fast, thick, keeps:
    h.shutdown()
"""


def test_fast_zero_is_fast_or_refused(tmp_path: Path) -> None:
    fast, thick, keeps = InlineRamUnit(), ThickRamUnit(), _UnmapKeeps()
    units: dict[str, StorageUnit] = {"fast": fast, "thick": thick, "keeps": keeps}
    with nbd_server(tmp_path / "s", **units):
        libnbd(FAST_ZERO, *uris(tmp_path / "s", *units))
    changes = [each[:3] for each in fast.log if each[0] in ("write", "unmap")]
    assert changes == [("write", 0, 128), ("unmap", 8, 8)]
    assert not keeps.calls["unmap"]


# A hole between data: in pieces, unless they must not be.
PIECES = """
h = nbd.NBD()
h.connect_uri(each[0])
assert h.can_df()
def pieces(flags):
    found = []
    data = h.pread_structured(
        3 << 20, 1 << 20, lambda buf, at, kind, err: found.append((at, len(buf), kind)), flags
    )
    assert data == b"d" * (1 << 20) + bytes(1 << 20) + b"d" * (1 << 20)
    return found
MIB, DATA, HOLE = 1 << 20, nbd.READ_DATA, nbd.READ_HOLE
assert pieces(0) == [(MIB, MIB, DATA), (2 * MIB, MIB, HOLE), (3 * MIB, MIB, DATA)], pieces(0)
assert pieces(nbd.CMD_FLAG_DF) == [(MIB, 3 * MIB, DATA)], pieces(nbd.CMD_FLAG_DF)
h.shutdown()
plain = nbd.NBD()
plain.set_strict_mode(0)
plain.set_request_structured_replies(False)
plain.connect_uri(each[0])
assert not plain.can_df()
fails(errno.EINVAL, plain.pread, 512, 0, flags=nbd.CMD_FLAG_DF)
assert plain.pread(512, 1 << 20) == b"d" * 512
plain.shutdown()
"""


def test_a_reply_in_one_piece(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        for at in (1, 3):
            file.seek(at << 20)
            file.write(b"d" * (1 << 20))
    os.truncate(image, SIZE)
    with nbd_server(tmp_path / "s", disk=open_unit(str(image))) as uri:
        libnbd(PIECES, uri)
