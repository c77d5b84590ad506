"""Text requests on a whole connection: SendTargets in both kinds of session, a new length."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.kit.link import TARGET, Link, close, environment_of, target_of
from tests.kit.units import InlineRamUnit
from userdisk.iscsi.environment import Environment

OTHER = "iqn.2026-11.io.userdisk:other"
READ_64_BLOCKS = struct.pack(">BxIxHx6x", 0x28, 0, 64)


@pytest.fixture
def environment() -> Iterator[Environment]:
    targets = [target_of(InlineRamUnit()), target_of(InlineRamUnit(), name=OTHER)]
    yield environment_of(*targets)
    for target in targets:
        close(target)


def test_send_targets_in_a_discovery_session(environment: Environment) -> None:
    link = Link(environment, target=None).login()
    task = link.run(link.session.text([("SendTargets", "All")]))
    assert bytes(task.data).decode().split("\0") == [
        f"TargetName={TARGET}", "TargetAddress=127.0.0.1:3260,1",
        f"TargetName={OTHER}", "TargetAddress=127.0.0.1:3260,1", "",
    ]  # fmt: skip


def test_send_targets_in_a_normal_session_shows_its_own_target(environment: Environment) -> None:
    link = Link(environment).login()
    task = link.run(link.session.text([("SendTargets", "All")]))
    assert bytes(task.data) == f"TargetName={TARGET}\0TargetAddress=127.0.0.1:3260,1\0".encode()


def test_a_reject_leaves_the_connection_usable(environment: Environment) -> None:
    link = Link(environment).login()
    for number, pair in enumerate([("SendTargetsPlease", "All"), ("sENDtARGETS", "aLL")], 1):
        link.session.text([pair])
        link.pump()
        assert [reason for reason, _ in link.session.rejects] == [0x04] * number
    task = link.run(link.session.text([("SendTargets", "All")]))
    assert bytes(task.data).startswith(f"TargetName={TARGET}".encode())


def test_a_shorter_segment_length_holds_for_the_next_read(environment: Environment) -> None:
    link = Link(environment).login()
    link.ready()
    before = link.command(READ_64_BLOCKS, read_length=64 * 512)
    link.run(link.session.text([("MaxRecvDataSegmentLength", "4096")]))
    after = link.command(READ_64_BLOCKS, read_length=64 * 512)
    assert (before.status, before.data_pdus) == (0, 1)
    assert (after.status, after.data_pdus) == (0, 8)
    assert len(after.data) == 64 * 512
