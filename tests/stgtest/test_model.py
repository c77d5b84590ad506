"""The model never blames a disk that reorders within the rules, and always one that lies."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.stgtest.model import Change, Look, Mismatch, Model, Words
from userdisk.stgtest.pattern import ANY, ZERO, Pattern

LENGTH = 16
BLOCKS = 6
PATTERN = Pattern(BLOCKS)


@dataclass
class Request:
    """A request of the simulated disk, and which of its blocks were done already."""

    lba: int
    blocks: int
    asked: Change | Look
    left: list[int] = field(default_factory=list)
    data: dict[int, bytes] = field(default_factory=dict)


class Simulation:
    """A disk that does the blocks of its requests at any moment between beginning and end."""

    def __init__(self, initial: bytes = ANY) -> None:
        self.model = Model(LENGTH, initial)
        start = b"?" * 8 if initial == ANY else initial
        self.disk = dict.fromkeys(range(BLOCKS), start * 2)
        self.open: list[Request] = []
        self.serial = 0

    def begin(self, kind: str, lba: int, blocks: int) -> Request:
        blocks = min(blocks, BLOCKS - lba)
        if kind == "R":
            asked: Change | Look = self.model.begin_read(lba, blocks)
        else:
            words = PATTERN.words(lba, blocks, self.serial) if kind == "W" else ZERO * blocks
            asked = self.model.begin_change(lba, blocks, words)
        self.serial += 1
        request = Request(lba, blocks, asked, list(range(lba, lba + blocks)))
        self.open.append(request)
        return request

    def do(self, request: Request, block: int) -> None:
        """The disk does one block."""
        request.left.remove(block)
        if isinstance(request.asked, Change):
            self.disk[block] = request.asked.word(block) * 2
        else:
            request.data[block] = self.disk[block]

    def end(self, request: Request, *, done: bool = True) -> Mismatch | None:
        """The disk does what is left, unless it failed, and answers."""
        self.open.remove(request)
        if done:
            for block in list(request.left):
                self.do(request, block)
        if isinstance(request.asked, Change):
            self.model.end_change(request.asked, done=done)
            return None
        data = b"".join(request.data[block] for block in sorted(request.data))
        return self.model.end_read(request.asked, data if done else None)

    def run(self, kind: str, lba: int, blocks: int) -> Mismatch | None:
        return self.end(self.begin(kind, lba, blocks))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "do", "end", "end", "fail"]),
        st.sampled_from("RRWWU"),
        st.integers(0, BLOCKS - 1),
        st.integers(1, BLOCKS),
        st.integers(0, 100),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(STEPS, st.sampled_from([ANY, ZERO]))
def test_an_honest_disk_is_never_blamed(
    steps: list[tuple[str, str, int, int, int]], initial: bytes
) -> None:
    disk = Simulation(initial)
    for what, kind, lba, blocks, choice in steps:
        if what == "begin":
            disk.begin(kind, lba, blocks)
        elif disk.open:
            request = disk.open[choice % len(disk.open)]
            if what == "do" and request.left:
                disk.do(request, request.left[choice % len(request.left)])
            elif what != "do":
                assert disk.end(request, done=what == "end") is None
    while disk.open:
        assert disk.end(disk.open[-1]) is None
    assert disk.run("R", 0, BLOCKS) is None


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(0, BLOCKS - 1), st.sampled_from(["stale", "lost", "other", "torn"]))
def test_a_lie_about_a_settled_block_is_found(
    steps: list[tuple[str, str, int, int, int]], block: int, lie: str
) -> None:
    """Whatever went on before: a write that nothing overlaps leaves one content, and no other."""
    disk = Simulation()
    for what, kind, lba, blocks, choice in steps:
        if what == "begin":
            disk.begin(kind, lba, blocks)
        elif disk.open:
            disk.end(disk.open[choice % len(disk.open)], done=what == "end")
    while disk.open:
        disk.end(disk.open[0])
    assert disk.run("W", 0, BLOCKS) is None
    before = dict(disk.disk)
    assert disk.run("W", block, 1) is None
    right = disk.disk[block]
    disk.disk[block] = {
        "stale": before[block],
        "lost": bytes(LENGTH),
        "other": before[(block + 1) % BLOCKS],
        "torn": right[:8] + before[block][:8],
    }[lie]
    found = disk.run("R", 0, BLOCKS)
    assert found is not None
    assert found.lba == block
    assert found.expected == [right[:8]]
    assert found.found == (None if lie == "torn" else disk.disk[block][:8])


def test_a_read_that_overlaps_a_write_may_find_old_or_new_only() -> None:
    for value, right in (("old", True), ("new", True), ("older", False), ("zeros", False)):
        disk = Simulation()
        disk.run("W", 0, 2)
        older = disk.disk[0]
        disk.run("W", 0, 2)
        old = disk.disk[0]
        read = disk.begin("R", 0, 1)
        disk.run("W", 0, 1)
        contents = {"old": old, "new": disk.disk[0], "older": older, "zeros": bytes(LENGTH)}
        disk.disk[0] = contents[value]
        assert (disk.end(read) is None) is right


def test_a_value_that_was_replaced_before_the_read_is_stale() -> None:
    disk = Simulation()
    first, second = disk.begin("W", 0, 1), disk.begin("W", 0, 1)
    disk.end(first)
    disk.end(second)
    overlapped = disk.disk[0]
    disk.run("W", 0, 1)
    disk.disk[0] = overlapped
    assert disk.run("R", 0, 1) is not None


@pytest.mark.parametrize("winner", [0, 1])
def test_overlapping_writes_leave_either_and_a_read_settles_it(winner: int) -> None:
    disk = Simulation()
    writes = [disk.begin("W", 0, 1), disk.begin("W", 0, 1)]
    disk.end(writes[0])
    disk.end(writes[1])
    contents = [write.asked.words * 2 for write in writes if isinstance(write.asked, Change)]
    disk.disk[0] = contents[winner]
    assert disk.run("R", 0, 1) is None
    disk.disk[0] = contents[1 - winner]
    assert disk.run("R", 0, 1) is not None


def test_a_failed_write_leaves_old_or_new_and_nothing_else() -> None:
    for value, right in (("old", True), ("new", True), ("zeros", False)):
        disk = Simulation()
        disk.run("W", 0, 1)
        old = disk.disk[0]
        write = disk.begin("W", 0, 1)
        disk.end(write, done=False)
        assert isinstance(write.asked, Change)
        contents = {"old": old, "new": write.asked.words * 2, "zeros": bytes(LENGTH)}
        disk.disk[0] = contents[value]
        assert (disk.run("R", 0, 1) is None) is right


def test_what_is_forgotten_is_not_checked() -> None:
    disk = Simulation()
    disk.run("W", 0, BLOCKS)
    disk.model.forget()
    disk.disk[0] = bytes(LENGTH)
    assert disk.run("R", 0, BLOCKS) is None


def test_memory_of_changes_is_bounded_while_reads_are_under_way() -> None:
    disk = Simulation()
    for _ in range(2000):
        read = disk.begin("R", 0, 1)
        disk.run("W", 0, 2)
        assert disk.end(read) is None
    assert len(disk.model._recent) < 200


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 600), st.integers(1, 500)), max_size=12))
def test_words_are_kept_wherever_pages_begin(ranges: list[tuple[int, int]]) -> None:
    words, expected = Words(), [ANY] * 1200
    for number, (lba, blocks) in enumerate(ranges):
        put = [(number * 1000 + block).to_bytes(8, "big") for block in range(blocks)]
        words.put(lba, b"".join(put))
        expected[lba : lba + blocks] = put
        assert words.get(lba, blocks) == b"".join(put)
    assert words.get(0, 1200) == b"".join(expected)
    words.clear()
    assert words.get(5, 300) == ANY * 300
