"""`iscsi:URL` as a disk, of targets of our own: what it finds out, its errors, lost sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.link import TARGET
from tests.kit.sockets import connect, server_of, serving
from tests.kit.units import ConcurrentRamUnit, InlineRamUnit, RamUnit
from userdisk.backend import open_unit
from userdisk.errors import (
    HardwareError,
    MediumError,
    NotReady,
    OutOfSpace,
    ReservationConflict,
    StorageError,
    UsageError,
    UserdiskError,
    WriteError,
    WriteProtected,
)
from userdisk.server import Server
from userdisk.testing import check_storage_unit
from userdisk.unit import Extent, StorageUnit

GUID = "12345678-1234-5678-1234-567812345678"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def url(address: tuple[str, int], lun: int = 0) -> str:
    return f"iscsi://{address[0]}:{address[1]}/{TARGET}/{lun}"


@contextmanager
def disk(*units: RamUnit, **parameters: Any) -> Iterator[StorageUnit]:
    """A session with the first of these units."""
    with serving(*units) as (_, address):
        unit = open_unit(url(address), **parameters)
        try:
            yield unit
        finally:
            unit.close()


@contextmanager
def coming_back(unit: RamUnit) -> Iterator[tuple[Server, StorageUnit]]:
    """A server that a test stops, and a disk of it that lives longer."""
    server = server_of(unit)
    (address, *_) = server.start()
    found = open_unit(url(address))
    try:
        yield server, found
    finally:
        found.close()
        server.stop()


def again(unit: RamUnit, found: Any) -> Server:
    server = server_of(unit, listen=[(found.url.host, found.url.port)])
    server.start()
    return server


def read(unit: StorageUnit, lba: int, blocks: int, fua: bool = False) -> bytes:
    return bytes(unit.read(lba, blocks, fua))  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "length"), [(InlineRamUnit, 512), (ConcurrentRamUnit, 4096)])
def test_it_keeps_the_contract(kind: type[RamUnit], length: int) -> None:
    with serving(kind(block_length=length)) as (_, address):
        check_storage_unit(open_unit(url(address)), operations=100)


def test_what_the_disk_says_of_itself() -> None:
    made = {"block_length": 1024, "physical_block_length": 4096, "cache_supported": True}
    with disk(InlineRamUnit(**made)) as unit:
        found = unit.parameters
        assert (found.block_count, found.block_length) == (2048, 1024)
        assert found.physical_block_length == 4096
        assert found.cache_supported
        assert found.unmap_supported
        assert not found.write_protected
        with pytest.raises(UsageError, match="has 2097152 bytes, not 4096"):
            open_unit(str(unit.url), size=4096)  # type: ignore[attr-defined]
        with pytest.raises(UsageError, match="blocks have 1024 bytes"):
            open_unit(str(unit.url), block_length=512)  # type: ignore[attr-defined]
    made = {"write_protected": True, "cache_supported": False, "unmap_supported": False}
    with disk(InlineRamUnit(**made)) as unit:
        found = unit.parameters
        assert found.write_protected
        assert not found.cache_supported
        assert not found.unmap_supported
        assert list(unit.extents(3, 5)) == [Extent(3, 5)]


def test_the_same_url_is_the_same_disk() -> None:
    with serving(InlineRamUnit(), InlineRamUnit()) as (_, address):
        guids = []
        for where in (url(address), f"iscsi:{url(address)}", url(address, 1)):
            unit = open_unit(where)
            guids.append(unit.parameters.guid)
            unit.close()
        assert guids[0] == guids[1] != guids[2]


def test_fua_and_flush_reach_the_disk() -> None:
    target = InlineRamUnit(cache_supported=True)
    with disk(target) as unit:
        unit.write(1, memoryview(b"a" * 512), False)
        unit.write(2, memoryview(b"b" * 512), True)
        assert read(unit, 1, 2, True) == b"a" * 512 + b"b" * 512
        unit.flush()
        assert ("write", 1, 1, False) in target.log
        assert ("write", 2, 1, True) in target.log
        assert ("read", 1, 2, True) in target.log
        assert target.calls["flush"] == 1


def test_unmap_and_what_is_mapped() -> None:
    class Mapped(InlineRamUnit):
        def extents(self, lba: int, blocks: int) -> Iterator[Extent]:
            yield Extent(lba, 8 - lba)
            yield Extent(8, 8, False, True)
            yield Extent(16, blocks + lba - 16)

    target = Mapped()
    target.memory[:] = b"x" * len(target.memory)
    with disk(target) as unit:
        unit.unmap([(8, 4), (12, 4), (100, 1)])
        assert [entry[:3] for entry in target.log if entry[0] == "unmap"] == [
            ("unmap", 8, 4), ("unmap", 12, 4), ("unmap", 100, 1)
        ]  # fmt: skip
        unit.zero(32, 8, True)
        assert not any(target.memory[32 * 512 : 40 * 512])
        assert list(unit.extents(4, 10)) == [Extent(4, 4), Extent(8, 6, False, True)]


@pytest.mark.parametrize(
    ("error", "kind", "lba"),
    [
        (MediumError("bad", lba=5), MediumError, 5),
        (WriteError("bad", lba=6), WriteError, 6),
        (OutOfSpace("full"), OutOfSpace, None),
        (WriteProtected("no"), WriteProtected, None),
        (HardwareError("broken"), HardwareError, None),
        (NotReady("later"), NotReady, None),
    ],
)
def test_errors_of_the_disk(error: StorageError, kind: type[StorageError], lba: int | None) -> None:
    target = InlineRamUnit()

    def fail(name: str, *_: int) -> None:
        if name == ("read" if type(error) is MediumError else "write"):
            raise error

    with disk(target) as unit:
        target.fault = fail
        with pytest.raises(kind) as raised:
            if type(error) is MediumError:
                read(unit, 4, 4)
            else:
                unit.write(4, memoryview(bytes(4 * 512)), False)
        assert type(raised.value) is kind
        assert raised.value.lba == (4 if lba is None else lba) or raised.value.lba == lba
        target.fault = None
        assert read(unit, 4, 4) == bytes(4 * 512)


def test_somebody_else_has_it_reserved() -> None:
    with serving(InlineRamUnit()) as (_, address), connect(address) as other:
        unit = open_unit(url(address))
        other.execute(bytes.fromhex("160000000000"))  # RESERVE(6)
        with pytest.raises(ReservationConflict):
            unit.write(0, memoryview(bytes(512)), False)
        other.execute(bytes.fromhex("170000000000"))
        unit.write(0, memoryview(bytes(512)), False)
        unit.close()


def test_a_disk_that_grows_and_shrinks() -> None:
    target = InlineRamUnit()
    with disk(target) as unit:
        target.memory.extend(bytes(512 * 1024))
        target.resized(3072)
        read(unit, 0, 1)
        assert unit.block_count == 3072
        assert read(unit, 3000, 8) == bytes(8 * 512)
        target.resized(1000)
        unit.measure()
        assert unit.block_count == 1000


def test_a_target_that_comes_back() -> None:
    target = InlineRamUnit(guid=GUID, cache_supported=True)
    with coming_back(target) as (server, unit):
        unit.write(0, memoryview(b"1" * 512), False)
        unit.flush()
        server.stop()
        with pytest.raises(NotReady, match="cannot connect"):
            read(unit, 0, 1)
        second = again(target, unit)
        assert read(unit, 0, 1) == b"1" * 512
        unit.flush()  # all was flushed before
        unit.write(1, memoryview(b"2" * 512), False)
        second.stop()
        third = again(target, unit)
        try:
            unit.write(2, memoryview(b"3" * 512), False)
            with pytest.raises(WriteError, match="may be lost"):
                unit.flush()
            unit.flush()
            assert read(unit, 1, 2) == b"2" * 512 + b"3" * 512
        finally:
            unit.close()
            third.stop()


def test_a_session_that_breaks_under_a_write() -> None:
    """The write is repeated on the next session, and nobody sees an error."""
    target = InlineRamUnit()
    with disk(target) as unit:
        broken: list[int] = []

        def cut(name: str, *_: int) -> None:
            if name == "write" and not broken:
                broken.append(1)
                unit._client._socket.shutdown(2)  # type: ignore[attr-defined]

        target.fault = cut
        unit.write(7, memoryview(b"x" * 512), False)
        assert target.calls["write"] == 2
        assert read(unit, 7, 1) == b"x" * 512


def test_another_disk_behind_the_url() -> None:
    with coming_back(InlineRamUnit(guid=GUID)) as (server, unit):
        server.stop()
        second = again(InlineRamUnit(), unit)
        try:
            with pytest.raises(HardwareError, match="another disk"):
                read(unit, 0, 1)
        finally:
            unit.close()
            second.stop()


def test_after_close() -> None:
    with serving(InlineRamUnit()) as (server, address):
        unit = open_unit(url(address))
        unit.close()
        with pytest.raises(NotReady, match="closed"):
            read(unit, 0, 1)
        unit.open()
        assert read(unit, 0, 1) == bytes(512)
        assert server.connections == 2
        unit.close()


def test_what_is_no_disk(tmp_path: Path) -> None:
    with serving(InlineRamUnit()) as (_, address):
        for wrong, words in (
            (url(address, 5), "not a disk"),
            (url(address) + "x", "not of the form"),
            (url(address).replace("tested", "other"), "no such target"),
            (url(address).replace("iscsi://", "iscsi://anna@"), "secret of anna is missing"),
            (url(address) + "?chap-file=/nonexistent", "No such file"),
            (url(address) + "?speed=1", "no option speed"),
        ):
            with pytest.raises(UserdiskError, match=words) as raised:
                open_unit(wrong)
            assert "\n" not in str(raised.value)


def test_an_option_it_does_not_have() -> None:
    with serving(InlineRamUnit()) as (_, address), pytest.raises(UsageError, match="no option"):
        open_unit(url(address), options={"speed": "1"})
