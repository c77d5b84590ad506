"""The model against the definition: what a read may find, for every order of things."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.stgtest.model import Entry, Model
from userdisk.stgtest.pattern import FOREIGN, ZERO
from userdisk.stgtest.runs import CHUNK, Runs, State

BLOCKS = 3
VALUES = [FOREIGN, ZERO, 1000, *range(1, 42)]


@dataclass(slots=True)
class Done:
    """An operation of a history; `ended` is 0 as long as it is under way."""

    entry: Entry
    began: int
    ended: int = 0
    failed: bool = False


def allowed(history: list[Done], read: Done, block: int) -> set[int]:
    """The definition: not what ended before the begin of another that ended before the read."""
    here = [
        each
        for each in history
        if each.entry.value is not None and each.entry.lba <= block < each.entry.end
    ]
    sure = [w for w in here if w.ended and not w.failed and not w.entry.weak]
    found = set()
    for write in here:
        gone = any(
            write.ended and write.ended < other.began and other.ended < read.began for other in sure
        )
        if not gone and write.entry.value is not None:
            found.add(write.entry.value)
    return found


def asking(model: Model, lba: int, blocks: int, value: int) -> Entry:
    """A read that begins, in both ways that there are."""
    if value % 2:
        entry = model.look(lba, blocks)
        assert entry is not None
    else:
        model.submit(entry := Entry(lba, blocks, None))
    return entry


SCRIPTS = st.lists(
    st.tuples(
        st.sampled_from(["write", "unmap", "weak", "read", "end", "end", "fail"]),
        st.integers(0, BLOCKS - 1),
        st.integers(1, BLOCKS),
    ),
    max_size=38,
)


def play(script: list[tuple[str, int, int]], base: int) -> None:
    """Every read is asked for every value there is. The blocks begin at `base`."""
    model, now = Model(), 1
    history: list[Done] = []
    flying: list[Done] = []
    askers: dict[int, list[Entry]] = {}

    def submit(entry: Entry) -> Done:
        model.submit(entry)
        history.append(done := Done(entry, now))
        return done

    first = submit(Entry(base, BLOCKS, 1000))
    now += 1
    model.written(first.entry)
    first.ended = now
    for what, number, blocks in script:
        now += 1
        if what in ("end", "fail"):
            if not flying:
                continue
            done = flying.pop(number % len(flying))
            failed = what == "fail"
            if done.entry.value is None:
                for value, asker in zip(VALUES, askers.pop(done.began), strict=True):
                    span = range(asker.lba, asker.end)
                    wrong = model.read(asker, [value] * len(span))
                    assert {block for block, _, _ in wrong} == {
                        block for block in span if value not in allowed(history, done, block)
                    }, (value, script)
            else:
                model.written(done.entry, failed=failed)
                done.failed = failed
            done.ended = now
            continue
        end = min(BLOCKS, number + blocks) + base
        number += base
        value = {"write": len(history), "read": None}.get(what, ZERO)
        if value is None:  # one for each answer that there can be
            askers[now] = [asking(model, number, end - number, each) for each in VALUES]
            history.append(done := Done(askers[now][0], now))
            flying.append(done)
        else:
            flying.append(submit(Entry(number, end - number, value, weak=what == "weak")))


@settings(max_examples=200, deadline=None)
@given(SCRIPTS, st.sampled_from([0, CHUNK - 1]))
def test_it_allows_what_can_be_and_nothing_else(
    script: list[tuple[str, int, int]], base: int
) -> None:
    play([*script, *[("read", 0, BLOCKS)], *[("end", 0, 0)] * 40], base)


CHANGES = st.lists(
    st.tuples(st.integers(-5, 5), st.integers(1, 9), st.sampled_from([None, 1, 2, (1, 2), (2, 3)])),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(CHANGES)
def test_runs_are_what_was_set(changes: list[tuple[int, int, State]]) -> None:
    """Against a plain list, around the edge of a chunk."""
    low, high = CHUNK - 6, CHUNK + 16
    runs = Runs()
    whole: list[State] = [None] * (high - low)
    for at, blocks, state in changes:
        lba = CHUNK + at
        runs.set(lba, lba + blocks, state)
        whole[lba - low : lba - low + blocks] = [state] * blocks
        cuts, states = runs.look(low, high)
        spans = [stop - start for start, stop in pairwise(cuts)]
        assert min(spans) > 0
        assert (cuts[0], cuts[-1]) == (low, high)
        assert [s for s, n in zip(states, spans, strict=True) for _ in range(n)] == whole
        for start, left, right in zip(cuts[1:], states, states[1:], strict=False):
            assert left != right or start == CHUNK
        assert runs.count == sum(len(starts) for starts, _ in runs._chunks.values())


def settled(model: Model, value: int, lba: int = 0, blocks: int = 4) -> None:
    entry = Entry(lba, blocks, value)
    model.submit(entry)
    model.written(entry)


def found(
    model: Model, versions: list[int], lba: int = 0
) -> list[tuple[int, int, tuple[int, ...]]]:
    entry = Entry(lba, len(versions), None)
    model.submit(entry)
    return model.read(entry, versions)


def test_before_a_write_anything_may_be_there() -> None:
    model = Model()
    settled(model, 7, 2, 1)
    assert found(model, [FOREIGN, ZERO, 7, 3]) == []
    assert found(model, [7, 7, FOREIGN, 7]) == [(2, FOREIGN, (7,))]


def test_a_lost_write_and_old_data_are_seen() -> None:
    model = Model()
    settled(model, 1)
    settled(model, 2, 1, 2)
    assert found(model, [1, 2, 2, 1]) == []
    assert found(model, [1, 1, 2, 1]) == [(1, 1, (2,))]
    settled(model, ZERO, 0, 1)
    assert found(model, [1, 2, 2, 1]) == [(0, 1, (ZERO,))]


def test_what_is_not_known_need_not_be_looked_at() -> None:
    model = Model()
    assert model.look(0, 4) is None
    settled(model, 7, 2, 1)
    assert model.look(0, 2) is None
    assert model.look(2, 1) is not None
    assert model.look(1, 3) is not None


def test_a_failed_write_to_an_unknown_block_leaves_it_unknown() -> None:
    model = Model()
    entry = Entry(0, 1, 5)
    model.submit(entry)
    model.written(entry, failed=True)
    for version in (FOREIGN, ZERO, 5):
        assert found(model, [version]) == []


def test_memory_is_bounded() -> None:
    model = Model(most=8)
    for lba in range(0, 4 * CHUNK, CHUNK // 2):
        settled(model, lba + 1, lba)
    assert model.forgotten == 2 * 2 * 4
    assert found(model, [FOREIGN] * 4, 0) == []
    assert found(model, [FOREIGN] * 4, 3 * CHUNK // 2) == []
    assert len(found(model, [FOREIGN] * 4, 2 * CHUNK)) == 4
    assert len(found(model, [FOREIGN] * 4, 7 * CHUNK // 2)) == 4


def test_operations_do_not_keep_each_other() -> None:
    model = Model()
    old = Entry(0, 1, 1)
    model.submit(old)
    for value in range(2, 100):
        settled(model, value, 0, 1)
    model.written(old)
    assert old.rivals == []
