"""The fake link itself: a whole session over it, whatever the size of the pieces."""

from __future__ import annotations

import struct

import pytest

from tests.iscsi.test_fuzz import Disk
from tests.kit.link import Link, close, environment_of, target_of


@pytest.mark.parametrize("piece", [1 << 30, 4096, 61])
@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("r2t", [False, True])
def test_a_session(piece: int, digests: bool, r2t: bool) -> None:
    target = target_of(Disk())
    environment = environment_of(target)
    link = Link(
        environment,
        piece=piece,
        header_digest=digests,
        data_digest=digests,
        initial_r2t=r2t,
        immediate_data=not r2t,
    ).login()
    assert link.session.parameters.data_digest is digests
    assert link.command(bytes(6)).sense[2] & 0xF == 6  # the unit attention of a new nexus
    link.ready()
    data = bytes(range(256)) * 2 * 300
    write = link.command(struct.pack(">BBQIxx", 0x8A, 0, 1007, 300), data_out=data)
    assert (write.status, write.residual) == (0, 0)
    read = link.command(struct.pack(">BBQIxx", 0x88, 0, 1007, 300), read_length=len(data))
    assert (read.status, read.residual) == (0, 0)
    assert read.data == data
    assert link.run(link.session.ping(b"echo")).data == b"echo"
    assert link.run(link.session.logout()).response == 0
    assert not link.end.reading
    link.end.disconnect()
    assert not target.nexuses
    close(target)
