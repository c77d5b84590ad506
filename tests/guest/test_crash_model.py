"""What counts as a broken promise after a crash: the judge of the crash tests, judged."""

from __future__ import annotations

from tests.guest.crash_model import BLOCK, BLOCKS, SECTOR, Promise, Step, content


def _disk(**blocks: int) -> bytearray:
    """A disk of zeros, but block N holds version V for each `_N=V`."""
    disk = bytearray(BLOCK * BLOCKS)
    for name, version in blocks.items():
        block = int(name[1:])
        disk[block * BLOCK : (block + 1) * BLOCK] = content(block, version)
    return disk


FLUSHED = [Step("write", 5, 2, 1), Step("flush"), Step("mark")]


def test_flushed_data_must_be_there() -> None:
    promise = Promise(FLUSHED)
    assert promise.broken(1, bytes(_disk(_5=1, _6=1))) == []
    assert promise.broken(1, bytes(_disk(_5=1))) == [
        "after mark 0: block 6 holds zeros, not version [1]"
    ]


def test_unflushed_data_may_be_there_or_not_sector_by_sector() -> None:
    promise = Promise([*FLUSHED, Step("write", 5, 1, 2), Step("mark")])
    torn = _disk(_5=1, _6=1)
    torn[5 * BLOCK : 5 * BLOCK + SECTOR] = content(5, 2)[:SECTOR]
    for disk in (torn, _disk(_5=1, _6=1), _disk(_5=2, _6=1)):
        assert promise.broken(2, bytes(disk)) == []
        assert promise.broken(1, bytes(disk)) == []  # it may be there before the next mark
    assert promise.broken(2, bytes(_disk(_6=1))) != []


def test_what_was_overwritten_and_flushed_must_not_come_back() -> None:
    promise = Promise([*FLUSHED, Step("write", 5, 1, 2), Step("flush"), Step("mark")])
    assert promise.broken(2, bytes(_disk(_5=2, _6=1))) == []
    assert promise.broken(2, bytes(_disk(_5=1, _6=1))) == [
        "after mark 1: block 5 holds version 1 of block 5, not version [2]"
    ]


def test_flushed_discards_read_as_zeros() -> None:
    promise = Promise([*FLUSHED, Step("discard", 5, 1, 2), Step("flush"), Step("mark")])
    assert promise.broken(2, bytes(_disk(_6=1))) == []
    assert promise.broken(2, bytes(_disk(_5=1, _6=1))) != []


def test_a_fua_write_promises_its_own_blocks_only() -> None:
    promise = Promise([Step("write", 5, 1, 1), Step("fua", 8, 1, 2), Step("mark")])
    assert promise.broken(1, bytes(_disk(_8=2))) == []
    assert promise.broken(1, bytes(_disk(_5=1, _8=2))) == []
    assert promise.broken(1, bytes(_disk(_5=1))) != []


def test_nothing_else_may_change() -> None:
    promise = Promise(FLUSHED)
    assert promise.broken(1, bytes(_disk(_5=1, _6=1, _9=1))) != []
    misplaced = _disk(_5=1, _6=1)
    misplaced[6 * BLOCK : 7 * BLOCK] = content(5, 1)
    assert promise.broken(1, bytes(misplaced)) != []
