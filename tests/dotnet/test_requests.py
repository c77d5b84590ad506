"""Every request has an answer: which ones reach the class, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.dotnet.disk import FLUSH, READ, UNMAP, WRITE, Answer, Client, Disk, serve
from tests.kit.requires import requires

pytestmark = requires("mcs", "mono", "make")

GOOD = (0, 0, 0)
INVALID_LIST = (5, 0x26, 0)
INVALID_FIELD = (5, 0x24, 0)
INVALID_COMMAND = (5, 0x20, 0)
OUT_OF_RANGE = (5, 0x21, 0)
PROTECTED = (7, 0x27, 0)
READ_ERROR = (3, 0x11, 0)
WRITE_ERROR = (3, 0x0C, 0)

BLOCKS = 1024  # of the disks here, 512 bytes each
MOST = 128  # blocks of one request
LAST64 = (1 << 64) - 1

_NAMES = {READ: "Read", WRITE: "Write", FLUSH: "Flush", UNMAP: "Unmap"}


@pytest.fixture(scope="module")
def disk(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with serve(built, tmp_path_factory.mktemp("requests") / "s") as disk:
        yield disk


@pytest.fixture
def client(disk: Disk) -> Iterator[Client]:
    with disk.client() as client:
        yield client


def _failed(answer: Answer, sense: tuple[int, int, int]) -> None:
    assert (answer.status, answer.sense, answer.data) == (2, sense, b"")


@pytest.mark.parametrize(
    ("kind", "address", "count", "payload", "sense"),
    [
        (READ, BLOCKS, 1, 0, OUT_OF_RANGE),
        (READ, BLOCKS - 1, 2, 0, OUT_OF_RANGE),
        (READ, LAST64, 1, 0, OUT_OF_RANGE),
        (READ, LAST64, 2, 0, OUT_OF_RANGE),  # the sum wraps
        (READ, BLOCKS + 1, 0, 0, OUT_OF_RANGE),
        (READ, 0, 1 << 23, 0, OUT_OF_RANGE),  # 2^32 bytes: 0 in 32 bits
        (READ, 0, MOST + 1, 0, INVALID_FIELD),
        (READ, 0, 1, 1, INVALID_FIELD),
        (WRITE, BLOCKS, 1, 512, OUT_OF_RANGE),
        (WRITE, LAST64, 1, 512, OUT_OF_RANGE),
        (WRITE, 0, 1 << 23, 0, OUT_OF_RANGE),
        (WRITE, 0, MOST + 1, MOST * 512, INVALID_FIELD),
        (WRITE, 0, 1, 511, INVALID_FIELD),
        (WRITE, 0, 1, 513, INVALID_FIELD),
        (WRITE, 0, 1, 0, INVALID_FIELD),
        (WRITE, 0, 0, 1, INVALID_FIELD),
        (FLUSH, BLOCKS, 1, 0, OUT_OF_RANGE),
        (FLUSH, BLOCKS + 1, 0, 0, OUT_OF_RANGE),
        (FLUSH, 1, 0xFFFFFFFF, 0, OUT_OF_RANGE),
        (FLUSH, 0, 1, 1, INVALID_FIELD),
        (0, 0, 1, 0, INVALID_COMMAND),
        (5, 0, 1, 0, INVALID_COMMAND),
        (255, 0, 1, 512, INVALID_COMMAND),
        (UNMAP, 1, 0, 0, INVALID_LIST),  # the descriptors are not there
    ],
)
def test_requests_that_are_refused(
    disk: Disk, kind: int, address: int, count: int, payload: int, sense: tuple[int, int, int]
) -> None:
    with disk.client() as client:
        answer = client.call(kind, address, count, bytes(payload))
        _failed(answer, sense)
        if sense == OUT_OF_RANGE:  # the first block that is not there
            assert answer.information == max(address, BLOCKS)
        assert client.call(READ, 9, 1).data == bytes(512)  # the client goes on
    call = f"{_NAMES.get(kind)} {address} {count}"
    assert not any(line.startswith(call) for line in disk.told("Read 9 1 False"))


def test_a_huge_count_on_a_huge_disk(built: Path, tmp_path: Path) -> None:
    """In range, but 2^32 bytes, or 2^40: lengths that are small in 32 bits."""
    with (
        serve(built, tmp_path / "s", kind="bare", blocks=1 << 53) as disk,
        disk.client() as client,
    ):
        for count in (1 << 23, 1 << 31, (1 << 23) + 1, 0xFFFFFFFF):
            _failed(client.call(READ, 0, count), INVALID_FIELD)
            _failed(client.call(WRITE, 0, count), INVALID_FIELD)
            _failed(client.call(WRITE, 0, count, bytes(512)), INVALID_FIELD)


def test_ranges_at_the_very_end(client: Client, disk: Disk) -> None:
    assert client.call(READ, BLOCKS - MOST, MOST).sense == GOOD
    assert client.call(WRITE, BLOCKS - MOST, MOST, b"e" * 512 * MOST).sense == GOOD
    assert client.call(READ, BLOCKS - 1, 1).data == b"e" * 512
    for kind in (READ, WRITE, FLUSH):
        assert client.call(kind, BLOCKS, 0).sense == GOOD
    assert client.unmap((BLOCKS - MOST, MOST), (BLOCKS, 0)).sense == GOOD
    told = disk.told(f"Unmap {BLOCKS - MOST}+{MOST} {BLOCKS}+0")
    assert "Flush 1024 0" in told
    assert not any(line.startswith(("Read 1024", "Write 1024")) for line in told)


@pytest.mark.parametrize(
    ("ranges", "count", "sense"),
    [
        ([(0, 1), (BLOCKS, 1)], None, OUT_OF_RANGE),
        ([(LAST64, 1)], None, OUT_OF_RANGE),
        ([(1, 0xFFFFFFFF)], None, OUT_OF_RANGE),
        ([(0, 1)], 2, INVALID_LIST),
        ([(0, 1)], 0, INVALID_LIST),
        ([(0, 1)], (1 << 28) + 1, INVALID_LIST),  # 16 bytes in 32 bits
    ],
)
def test_unmaps_that_are_refused(
    client: Client,
    disk: Disk,
    ranges: list[tuple[int, int]],
    count: int | None,
    sense: tuple[int, int, int],
) -> None:
    _failed(client.unmap(*ranges, count=count), sense)
    client.call(FLUSH, 7, 7)
    assert not any(line.startswith("Unmap") for line in disk.told("Flush 7 7"))


def test_an_unmap_of_nothing(client: Client, disk: Disk) -> None:
    assert client.unmap().sense == GOOD
    client.call(FLUSH, 7, 8)
    assert not any(line.startswith("Unmap") for line in disk.told("Flush 7 8"))


def test_hint_0_is_refused(client: Client) -> None:
    _failed(client.call(READ, 0, 1, hint=0), INVALID_FIELD)
    _failed(client.call(WRITE, 0, 1, bytes(512), hint=0), INVALID_FIELD)
    _failed(client.call(FLUSH, hint=0), INVALID_FIELD)


def test_a_hint_may_be_used_again(client: Client) -> None:
    for _ in range(50):
        assert client.call(READ, 0, 1, hint=77).data == bytes(512)


def test_what_reads_do_not_fill_is_zero(client: Client) -> None:
    """Not what another request had in the same buffer."""
    for _ in range(40):
        client.call(WRITE, 0, MOST, b"s" * 512 * MOST)
    assert client.call(READ, 104, 3).data == bytes(3 * 512)
    assert client.call(READ, 104, MOST).data == bytes(MOST * 512)
    client.unmap((0, MOST))


@pytest.mark.parametrize(
    ("call", "sense"),
    [
        (lambda client: client.call(READ, 100, 1), READ_ERROR),
        (lambda client: client.call(WRITE, 100, 1, bytes(512)), WRITE_ERROR),
        (lambda client: client.call(FLUSH, 100, 1), WRITE_ERROR),
        (lambda client: client.unmap((0, 1), (100, 1)), WRITE_ERROR),
        (lambda client: client.call(READ, 106, 1), READ_ERROR),  # Wait would wait for itself
    ],
)
def test_exceptions_are_errors(
    client: Client, call: Callable[[Client], Answer], sense: tuple[int, int, int]
) -> None:
    for _ in range(3):
        _failed(call(client), sense)
        assert client.call(READ, 0, 1).sense == GOOD


def test_other_statuses_are_told_as_they_are(client: Client) -> None:
    answer = client.call(READ, 105, 1)
    assert (answer.status, answer.sense, answer.data) == (8, (0, 0, 0), b"")


def test_a_write_protected_disk(built: Path, tmp_path: Path) -> None:
    with serve(built, tmp_path / "s", protected=1) as disk, disk.client() as client:
        _failed(client.call(WRITE, 0, 1, bytes(512)), PROTECTED)
        _failed(client.unmap((0, 1)), PROTECTED)
        assert client.call(READ, 0, 1).data == bytes(512)
        assert client.call(FLUSH).sense == GOOD
        assert disk.told("Flush 0 0") == ["Read 0 1 False", "Flush 0 0"]


def test_without_a_cache_every_write_goes_through(built: Path, tmp_path: Path) -> None:
    with serve(built, tmp_path / "s", cache=0, unmap=0) as disk, disk.client() as client:
        assert client.call(WRITE, 3, 1, bytes(512)).sense == GOOD
        assert client.call(FLUSH).sense == GOOD  # nothing is volatile
        assert client.call(READ, 3, 1).sense == GOOD
        _failed(client.unmap((0, 1)), INVALID_COMMAND)
        assert disk.told("Read 3 1 True") == ["Write 3 1 True", "Read 3 1 True"]


def test_with_a_cache_the_flag_is_the_clients(client: Client, disk: Disk) -> None:
    for fua in (0, 1):
        client.call(WRITE, 4, 1, bytes(512), fua=fua)
        client.call(READ, 4, 1, fua=fua)
    assert disk.told("Read 4 1 True")[-4:] == [
        "Write 4 1 False",
        "Read 4 1 False",
        "Write 4 1 True",
        "Read 4 1 True",
    ]


def test_a_class_with_nothing_fails_all(built: Path, tmp_path: Path) -> None:
    """Success would be a lie."""
    with serve(built, tmp_path / "s", kind="bare") as disk, disk.client() as client:
        _failed(client.call(READ, 0, 1), INVALID_COMMAND)
        _failed(client.call(WRITE, 0, 1, bytes(512)), INVALID_COMMAND)
        _failed(client.call(FLUSH), INVALID_COMMAND)
        _failed(client.unmap((0, 1)), INVALID_COMMAND)


def test_the_debug_log(built: Path, tmp_path: Path) -> None:
    with serve(built, tmp_path / "s", debug=2 | 16) as disk:
        with disk.client() as client:
            client.call(READ, 7, 2, fua=1, hint=0xABC)
            client.call(READ, 101, 1)
            client.call(WRITE, 0, 1, bytes(512))
            client.unmap((0, 1))
            client.call(9)
        errors = disk.stop()[2]
    lines = [line.split("]: ", 1)[1] for line in errors.splitlines()]
    assert errors.startswith("TestDisk[TID=")
    assert lines == [
        "0000000000000abc: >>Read  BlockAddress=00000000:00000007, BlockCount=2, FUA=1",
        "0000000000000abc: <<Read  Status=GOOD",
        "0000000000000001: >>Read  BlockAddress=00000000:00000065, BlockCount=1, FUA=0",
        "0000000000000001: <<Read  Status=02 Sense=3/11/04, Information=11223344:55667788",
        "0000000000000003: >>Unmap Count=1",
        "0000000000000003: <<Unmap Status=GOOD",
        "0000000000000004: >>INVLD BlockAddress=00000000:00000000, BlockCount=0",
        "0000000000000004: <<INVLD Status=02 Sense=5/20/00",
    ]
