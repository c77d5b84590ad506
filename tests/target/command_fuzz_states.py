"""States of a fuzzed world, brought about by commands of its manager or by its units."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.target.command_fuzz import World
from userdisk import errors
from userdisk.scsi.port_groups import AccessState, Cause


def enter(world: World) -> None:
    """Put the world into one of its states; half of the time it is a plain one."""
    rng = world.random
    if rng.random() < 0.5:
        for nexus in world.nexuses[:2]:  # with nothing left to be told
            world.settle(nexus)
    if rng.random() < 0.6:
        world.settle(world.manager)
        rng.choice(STATES)(world)


def _reserve_out(world: World, action: int, key: int, own: int, kind: int = 0) -> None:
    data = struct.pack(">QQ8x", key, own)
    cdb = struct.pack(">BBB2xIx", 0x5F, action, kind, len(data))
    world.command(world.manager, cdb.ljust(16, b"\0"), data)


def reserved(world: World) -> None:
    """The manager holds a persistent reservation; the others are registered or not."""
    _reserve_out(world, 0, 0, 3)
    _reserve_out(world, 1, 3, 0, world.random.choice((1, 3, 5, 6, 7, 8)))


def reserved_the_old_way(world: World) -> None:
    """The manager holds a RESERVE(6)."""
    world.command(world.manager, bytes.fromhex("16").ljust(16, b"\0"))


def ejected(world: World) -> None:
    """There is no medium."""
    world.command(world.manager, bytes.fromhex("1b0000000200").ljust(16, b"\0"))


def stopped(world: World) -> None:
    """The unit is stopped."""
    world.command(world.manager, bytes.fromhex("1b0000000000").ljust(16, b"\0"))


def write_protected(world: World) -> None:
    """SWP is set."""
    data = bytes(4) + bytes.fromhex("0a0a") + bytes(10)
    sensed = world.command(world.manager, bytes.fromhex("1a080a00ff00").ljust(16, b"\0")).data
    if len(sensed) >= 16:
        page = bytearray(sensed[4:])
        page[0] &= 0x7F
        page[4] |= 0x08
        data = bytes(4) + bytes(page)
    cdb = bytes([0x15, 0x10, 0, 0, len(data), 0])
    world.command(world.manager, cdb.ljust(16, b"\0"), data)


def in_standby(world: World) -> None:
    """The second nexus' port is in standby or unavailable."""
    state = world.random.choice((2, 3))
    data = bytes(4) + struct.pack(">BxH", state, 2)
    cdb = struct.pack(">BB4xIxx", 0xA4, 0x0A, len(data))
    world.command(world.manager, cdb.ljust(16, b"\0"), data)


def in_transition(world: World) -> None:
    """The first unit's access through the second nexus' port is changing."""
    lu = world.target.units[0]
    lu.gate.perform(lu.port_groups.change({2: AccessState.TRANSITIONING}, Cause.IMPLICIT))


def failing(world: World) -> None:
    """The first unit fails."""
    world.units[0].failing = world.random.choice(
        (errors.MediumError, errors.OutOfSpace, errors.HardwareError, errors.NotReady)
    )


def sanitize_failed(world: World) -> None:
    """A SANITIZE has failed."""
    world.units[0].failing = errors.WriteError
    flags = world.random.choice((0x80, 0xA0))
    world.command(world.manager, bytes([0x48, flags | 2]).ljust(16, b"\0"))
    world.units[0].failing = None


def sanitizing(world: World) -> None:
    """A SANITIZE is under way."""
    world.holding = True
    world.command(world.manager, bytes.fromhex("48820000000000000000").ljust(16, b"\0"))


STATES: list[Callable[[World], None]] = [
    reserved,
    reserved,
    reserved_the_old_way,
    ejected,
    stopped,
    write_protected,
    in_standby,
    in_standby,
    in_transition,
    failing,
    sanitize_failed,
    sanitizing,
]
