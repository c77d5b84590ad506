"""A WRITE that fails is answered when all of its payload has come: clients wait to have sent it."""

from __future__ import annotations

import pytest

from tests.kit.nbd_link import Link
from tests.kit.units import KINDS
from userdisk import errors
from userdisk.nbd.replies import Replies
from userdisk.nbd.wire import Command, Error

SIZE = 3 << 20
BLOCKS = (8 << 20) // 512


def fails(name: str, _lba: int, _blocks: int) -> None:
    if name == "write":
        raise errors.WriteError("broken")


@pytest.mark.parametrize("replies", Replies)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["past the end", "read-only", "the unit fails"])
def test_answered_at_the_end(replies: Replies, kind: str, case: str) -> None:
    unit = KINDS[kind](block_count=BLOCKS)
    unit.memory[:] = b"m" * len(unit.memory)
    offset, error = {
        "past the end": ((8 << 20) - 512, Error.ENOSPC),
        "read-only": (0, Error.EPERM),
        "the unit fails": (0, Error.EIO),
    }[case]
    with Link(unit, replies, read_only=case == "read-only") as link:
        unit.fault = fails
        request = link.request(Command.WRITE, offset, SIZE, 0, bytes(SIZE))
        for count in (1000, 100_000, 1 << 20, 1 << 20, 900_000):
            link.send(request[:count])
            request = request[count:]
            while link.connection.tasks.operating:
                link.wait()
            assert not link.received
        # its last bytes, and the next request with them
        rest = (request, offset, 0)
        reads = (link.request(Command.READ, 512, 512), 512, 512)
        answers = link.answers([rest, reads])
        assert [answer.error for answer in answers] == [error, 0]
        assert answers[1].data == b"m" * 512


@pytest.mark.parametrize("replies", Replies)
def test_nothing_is_answered_of_what_never_comes(replies: Replies) -> None:
    unit = KINDS["inline"](block_count=BLOCKS)
    with Link(unit, replies) as link:
        link.send(link.request(Command.WRITE, 8 << 20, SIZE, 0, bytes(SIZE))[:-1])
        assert not link.received
        link.connection.request_end(0)
        assert link.connection.closing and not link.received
