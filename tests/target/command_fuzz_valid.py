"""Commands that are right, for each row of the operation table: the CDB and its data-out."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeAlias

from tests.target.command_fuzz import World
from userdisk.scsi.opcodes import Opcode
from userdisk.target.nexus import Nexus
from userdisk.target.row import Direction, Row

_Made: TypeAlias = tuple[bytes, bytes]
_Maker: TypeAlias = Callable[[World, Row, Nexus], _Made]


def valid(world: World, row: Row, nexus: Nexus) -> _Made:
    """A command of the row that a ready unit should answer GOOD, mostly."""
    key = row.opcode, row.service_action
    maker = _MAKERS.get(key) or _MAKERS.get((row.opcode, None))
    if maker is not None:
        return maker(world, row, nexus)
    return _addressed(world, row, nexus) if _has_lba(row) else _asking(world, row, nexus)


#: opcodes whose CDB addresses blocks: where lba and length are, as struct formats
_LAYOUTS = {6: ">BBHBx", 10: ">BBIBHx", 12: ">BBIIBx", 16: ">BBQIBx"}


def _has_lba(row: Row) -> bool:
    return row.usage[2:6] == b"\xff" * 4 or row.opcode in (Opcode.READ_6, Opcode.WRITE_6)


def extent(row: Row, lba: int, blocks: int, flags: int = 0) -> bytes:
    """A CDB of the row that addresses these blocks."""
    if row.service_action is not None:
        flags = row.service_action
    size = len(row.usage)
    lba = min(lba, {6: 0x1FFFFF, 16: lba}.get(size, 0xFFFFFFFF))
    if size == 6:
        return struct.pack(">BBHBx", row.opcode, lba >> 16, lba & 0xFFFF, blocks & 0xFF)
    if size == 10:
        return struct.pack(">BBIBHx", row.opcode, flags, lba, 0, blocks)
    if size == 12:
        return struct.pack(">BBIIBx", row.opcode, flags, lba, blocks, 0)
    return struct.pack(">BBQIBx", row.opcode, flags, lba, blocks, 0)


def _place(world: World, most: int = 32) -> tuple[int, int]:
    rng, count = world.random, world.unit.block_count
    blocks = rng.choice((0, 1, 1, 8, rng.randrange(most + 1)))
    lba = rng.choice((0, count - blocks, rng.randrange(count - blocks + 1)))
    return lba, blocks


def _memory(world: World, lba: int, blocks: int) -> bytes:
    length = world.unit.block_length
    if not hasattr(world.unit, "memory"):
        return bytes(blocks * length)
    return bytes(world.unit.memory[lba * length : (lba + blocks) * length])


def _addressed(world: World, row: Row, nexus: Nexus) -> _Made:
    rng = world.random
    lba, blocks = _place(world)
    flags = rng.choice((0, 0, 0x10, 0x08, 0x02, 0x04, 0x06)) & row.usage[1]
    data = b""
    if row.direction is Direction.OUT:
        count = blocks or (256 if len(row.usage) == 6 else 0)
        data = rng.randbytes(16) * (count * world.unit.block_length // 16)
        if flags & 0x06 and "VERIFY(" in row.name and "WRITE" not in row.name:
            data = _memory(world, lba, 1 if flags & 0x06 == 0x06 else blocks)
    return extent(row, lba, blocks, flags), data


def _asking(world: World, row: Row, nexus: Nexus) -> _Made:
    """A command without an address: allowed single bits now and then, an allocation length."""
    rng = world.random
    cdb = bytearray(len(row.usage))
    cdb[0] = row.opcode
    if row.service_action is not None:
        cdb[1] = row.service_action
    if row.direction is Direction.IN:
        at = max(n for n, mask in enumerate(row.usage[:-1]) if mask == 0xFF)
        cdb[at] = rng.choice((0, 4, 24, 255, rng.randrange(256)))
    return bytes(cdb), b""


def _inquiry(world: World, row: Row, nexus: Nexus) -> _Made:
    page = world.random.choice((None, 0x00, 0x80, 0x83, 0x86, 0x8F, 0xB0, 0xB1, 0xB2))
    return bytes([0x12, page is not None, page or 0, 0, 255, 0]), b""


def _mode_sense(world: World, row: Row, nexus: Nexus) -> _Made:
    rng = world.random
    page = rng.choice((0x3F, 0x01, 0x08, 0x0A, 0x1A, 0x1C)) | rng.randrange(4) << 6
    sub = rng.choice((0, 0, 0xFF, 1, 2))
    flags = rng.choice((0, 8, 0x10, 0x18)) & row.usage[1]
    if len(row.usage) == 6:
        return bytes([row.opcode, flags, page, sub, 255, 0]), b""
    return bytes([row.opcode, flags, page, sub, 0, 0, 0, 0, 255, 0]), b""


def _mode_select(world: World, row: Row, nexus: Nexus) -> _Made:
    """What MODE SENSE says, with a bit of the control or caching page turned."""
    rng = world.random
    page = rng.choice((0x08, 0x0A, 0x0A, 0x3F))
    short = len(row.usage) == 6
    dbd = rng.choice((0, 8))
    if short:
        sensed = world.command(world.manager, bytes([0x1A, dbd, page, 0, 255, 0]) + bytes(10))
    else:
        sensed = world.command(
            world.manager, bytes([0x5A, dbd, page, 0, 0, 0, 0, 0, 255, 0]) + bytes(6)
        )
    data = bytearray(sensed.data or bytes(4 if short else 8))
    data[0 : 1 if short else 2] = bytes(1 if short else 2)  # MODE DATA LENGTH is reserved
    data[2 if short else 3] = 0
    header = (4 if short else 8) + (data[3] if short else data[7])
    if rng.random() < 0.5 and page == 0x0A and len(data) > header + 4:
        data[header + 4] ^= 0x08  # SWP
    elif rng.random() < 0.5 and page == 0x0A and len(data) > header + 2:
        data[header + 2] ^= 0x04  # D_SENSE
    elif page == 0x08 and len(data) > header + 2:
        data[header + 2] ^= 0x04  # WCE
    for at in range(header, len(data) - 1):  # PS is reserved
        if at == header:
            data[at] &= 0x7F
    flags = 0x10 | rng.choice((0, 0, 0, 1))
    if short:
        return bytes([0x15, flags, 0, 0, len(data), 0]), bytes(data)
    return struct.pack(">BB5xHx", 0x55, flags, len(data)), bytes(data)


def _unmap(world: World, row: Row, nexus: Nexus) -> _Made:
    rng = world.random
    pairs = [_place(world) for _ in range(rng.choice((0, 1, 2, 5, 256, 257)))]
    if rng.random() < 0.05:
        pairs = [(0, 1 << 20), (0, 1)]
    body = b"".join(struct.pack(">QI4x", *pair) for pair in pairs)
    data = struct.pack(">HH4x", 6 + len(body), len(body)) + body
    return struct.pack(">B6xHx", row.opcode, len(data)), data


def _write_same(world: World, row: Row, nexus: Nexus) -> _Made:
    rng = world.random
    lba, blocks = _place(world)
    flags = rng.choice((0, 8, 1)) & row.usage[1]
    data = rng.choice((bytes(world.unit.block_length), rng.randbytes(1) * world.unit.block_length))
    return extent(row, lba, blocks, flags), b"" if flags & 1 else data


def _compare_and_write(world: World, row: Row, nexus: Nexus) -> _Made:
    rng = world.random
    lba, blocks = _place(world, 8)
    expected = _memory(world, lba, blocks)
    if rng.random() < 0.2:
        expected = rng.randbytes(len(expected))
    cdb = struct.pack(">BBQ3xBBx", row.opcode, rng.choice((0, 8, 0x10)), lba, blocks, 0)
    return cdb, expected + rng.randbytes(len(expected))


def _write_atomic(world: World, row: Row, nexus: Nexus) -> _Made:
    lba, blocks = _place(world, 16)
    cdb = struct.pack(">BBQHHBx", row.opcode, 0, lba, 0, blocks, 0)
    return cdb, bytes(blocks * world.unit.block_length)


def _lba_status(world: World, row: Row, nexus: Nexus) -> _Made:
    lba, _ = _place(world)
    lba = min(lba, world.unit.block_count - 1)
    allocation = world.random.choice((0, 8, 24, 4096))
    return struct.pack(">BBQIxx", row.opcode, row.service_action, lba, allocation), b""


def _supported_opcodes(world: World, row: Row, nexus: Nexus) -> _Made:
    from userdisk.target.operations import ROWS

    rng = world.random
    other = rng.choice(ROWS)
    option = rng.choice((0, 1, 2, 3))
    if rng.random() < 0.8 and option in (1, 2):
        option = 1 if other.service_action is None else 2
    option |= rng.choice((0, 0x80))
    action = other.service_action or 0
    return struct.pack(">BBBBHIxx", 0xA3, 0x0C, option, other.opcode, action, 4096), b""


def _log_sense(world: World, row: Row, nexus: Nexus) -> _Made:
    rng = world.random
    page = rng.choice((0, 0, 2, 3, 0x0C, 0x0D, 0x0E, 0x2F)) | rng.choice((0x40, 0x40, 0, 0x80))
    sub = rng.choice((0, 0, 0, 0xFF))
    return struct.pack(">BBBBxHHx", 0x4D, 0, page, sub, 0, rng.choice((0, 4, 255))), b""


def _log_select(world: World, row: Row, nexus: Nexus) -> _Made:
    return bytes([0x4C, 2, 0xC0, 0, 0, 0, 0, 0, 0, 0]), b""


def _reserve_out(world: World, row: Row, nexus: Nexus) -> _Made:
    """PERSISTENT RESERVE OUT; half of the time after what has to come before it."""
    rng = world.random
    action = row.service_action or 0
    own = world.nexuses.index(nexus) + 1
    kind = rng.choice((1, 3, 5, 6, 7, 8))
    if rng.random() < (0.8 if action == 7 else 0.5):
        for each in world.nexuses:
            world.command(each, bytes([0x17]).ljust(16, b"\0"))
        for each in {nexus, rng.choice(world.nexuses)}:
            number = world.nexuses.index(each) + 1
            world.command(each, *_out(6, 0, 0, number))
        if action == 3 and rng.random() < 0.9:
            world.command(nexus, *_out(3, 0, own, 0))
            for each in {nexus, rng.choice(world.nexuses)}:
                world.command(each, *_out(6, 0, 0, world.nexuses.index(each) + 1))
        if action in (2, 4, 5, 7):
            world.command(nexus, *_out(2, kind, own, 0))
            world.command(nexus, *_out(1, rng.choice((1, 3)) if action == 7 else kind, own, 0))
    key = rng.choice((own, own, own, own, own, 0, 3) if action != 7 else (own,))
    other = rng.choice((own, 1, 2, 3, 1, 2, 3, 0))
    flags = 0
    extra = b""
    if action == 0 and rng.random() < 0.1:  # for a nexus that is registered already, by another
        world.command(world.nexuses[0], *_out(6, 0, 0, 1, flags=4))
        world.command(world.nexuses[1], *_out(6, 0, 0, 0))
        ids = transport_id("one")
        data = struct.pack(">QQ4xB3xI", 0, 2, 8, len(ids)) + ids
        return struct.pack(">BBB2xIx", 0x5F, 0, 0, len(data)), data
    if action in (0, 6):
        flags = rng.choice((0, 0, 0, 4, 1, 8, 9))
        if action == 0 and rng.random() < 0.3:
            key = 0
        if flags & 8:
            names = rng.choice((("three", "four"), ("four",), (), ("one",), ("three*",), ("no*",)))
            ids = b"".join(map(transport_id, names))
            extra = struct.pack(">I", len(ids)) + ids
    if action == 7:
        target = transport_id(rng.choice(("one", "two", "three")))
        length = len(target) + rng.choice((0,) * 12 + (4, -4, 1))
        target += bytes(rng.choice((0, max(0, length - len(target)))))
        data = struct.pack(">QQxBHI", key, other or 5, rng.choice((0, 0, 2, 1)), 1, length)
        data += target
    else:
        data = struct.pack(">QQ4xB3x", key, other, flags) + extra
    return struct.pack(">BBB2xIx", 0x5F, action, kind, len(data)), data


def _out(action: int, kind: int, key: int, own: int, flags: int = 0) -> _Made:
    data = struct.pack(">QQ4xB3x", key, own, flags)
    return struct.pack(">BBB2xIx", 0x5F, action, kind, len(data)).ljust(16, b"\0"), data


def transport_id(name: str) -> bytes:
    """An iSCSI TransportID (SPC-5 7.6.4.6), with an ISID unless the name ends in *."""
    isid = {"one": 1, "two": 2}.get(name, 3)
    text = f"iqn.2026-11.io.userdisk:{name.rstrip('*')}".encode()
    if not name.endswith("*"):
        text += f",i,0x{isid:012x}".encode()
    text += bytes(4 - len(text) % 4)
    return struct.pack(">BxH", 0x05 if name.endswith("*") else 0x45, len(text)) + text


def _reserve_in(world: World, row: Row, nexus: Nexus) -> _Made:
    length = world.random.choice((0, 8, 24, 4096))
    return struct.pack(">BB5xHx", 0x5E, row.service_action, length), b""


def _start_stop(world: World, row: Row, nexus: Nexus) -> _Made:
    byte4 = world.random.choice((1, 1, 1, 0, 2, 3, 3, 3, 0x10, 0x20, 0x30))
    return bytes([0x1B, world.random.randrange(2), 0, 0, byte4, 0]), b""


def _prevent(world: World, row: Row, nexus: Nexus) -> _Made:
    return bytes([0x1E, 0, 0, 0, world.random.choice((0, 0, 1)), 0]), b""


def _sanitize(world: World, row: Row, nexus: Nexus) -> _Made:
    flags = world.random.choice((0, 0x20, 0x80, 0xA0))
    action = row.service_action or 0
    data = b""
    if action == 1:
        pattern = world.random.randbytes(4)
        data = struct.pack(">BxH", 1, len(pattern)) + pattern
    return struct.pack(">BB5xHx", 0x48, flags | action, len(data)), data


def designator(world: World, lun: int) -> bytes:
    """An identification CSCD descriptor (E4h) with the NAA name of a logical unit."""
    from userdisk.scsi.inquiry import naa

    name = naa(world.units[lun].parameters.guid)
    length = world.units[lun].block_length
    head = struct.pack(">BBH", 0xE4, 0, 0) + struct.pack(">BBxB", 1, 3, len(name)) + name
    return head.ljust(28, b"\0") + struct.pack(">I", length)


def _extended_copy(world: World, row: Row, nexus: Nexus) -> _Made:
    rng = world.random
    a, b = rng.choice(((0, 0), (0, 2), (2, 0), (1, 1), (0, 3)))
    segments = b""
    for _ in range(rng.choice((0, 1, 1, 2, 2, 2, 2, 260))):
        source, blocks = _place(world, 8)
        destination, _ = _place(world, 0)
        destination = min(destination, world.unit.block_count - blocks)
        segments += struct.pack(
            ">BBHHH2xHQQ", 2, 0, 0x18, 0, 1, blocks, min(source, 2000), min(destination, 2000)
        )
    targets = (designator(world, a) + designator(world, b)) * rng.choice((1,) * 30 + (9, 40, 900))
    head = struct.pack(
        ">BBH4xII", rng.randrange(4), rng.choice((0, 0x18)), len(targets), len(segments), 0
    )
    data = head + targets + segments
    if rng.random() < 0.05:
        data = b""
    return struct.pack(">BB8xIxx", 0x83, 0, len(data)), data


def _copy_results(world: World, row: Row, nexus: Nexus) -> _Made:
    """Results of a copy; half of the time there has just been one."""
    rng = world.random
    if rng.random() < 0.5:
        made = _extended_copy if row.service_action in (0, 4) else _populate_token
        cdb, data = made(world, row, nexus)
        world.command(nexus, cdb.ljust(16, b"\0"), data)
    number = rng.randrange(4)
    head = struct.pack(">BBB7x", 0x84, row.service_action, number)
    if row.service_action in (5, 7):
        head = struct.pack(">BBI4x", 0x84, row.service_action, number)
    return head + struct.pack(">I2x", rng.choice((0, 4, 4096, 4096))), b""


def _populate_token(world: World, row: Row, nexus: Nexus) -> _Made:
    rng = world.random
    ranges = b"".join(
        struct.pack(">QI4x", lba, blocks)
        for lba, blocks in (_place(world, 8) for _ in range(rng.choice((1, 1, 2, 2, 65, 300))))
    )
    data = struct.pack(">HBxIIxxH", 14 + len(ranges), 0, 60, 0, len(ranges)) + ranges
    cdb = struct.pack(">BB4xII2x", 0x83, 0x10, rng.randrange(4), len(data))
    return cdb, data


def _write_using_token(world: World, row: Row, nexus: Nexus) -> _Made:
    rng = world.random
    ranges = struct.pack(">QI4x", *_place(world, 8))
    token = (b"\xff\xff\x00\x01\x00\x00\x01\xf8").ljust(512, b"\0")  # zeros
    if world.token and rng.random() < 0.6:
        token = world.token
    data = struct.pack(">HB5xQ", 534 + len(ranges), 0, 0) + token
    data += struct.pack(">6xH", len(ranges)) + ranges
    cdb = struct.pack(">BB4xII2x", 0x83, 0x11, rng.randrange(4), len(data))
    return cdb, data


def _token_information(world: World, row: Row, nexus: Nexus) -> _Made:
    """What became of a token copy; the token is kept to be written later."""
    cdb, _ = _copy_results(world, row, nexus)
    cdb = cdb[:10] + struct.pack(">I2x", 4096)
    result = world.command(nexus, cdb.ljust(16, b"\0"))
    if result.status == 0 and len(result.data) >= 512:
        world.token = result.data[-512:]
    return cdb, b""


def _set_groups(world: World, row: Row, nexus: Nexus) -> _Made:
    rng = world.random
    body = b"".join(
        struct.pack(">BBH", rng.choice((0, 0, 1, 2, 3)), rng.choice((0,) * 15 + (1,)), group)
        for group in rng.choice(((1,), (2,), (1, 2)))
    )
    return struct.pack(">BB4xIxx", 0xA4, 0x0A, 4 + len(body)), bytes(4) + body


_MAKERS: dict[tuple[int, int | None], _Maker] = {
    (0x12, None): _inquiry,
    (0x15, None): _mode_select,
    (0x1A, None): _mode_sense,
    (0x1B, None): _start_stop,
    (0x1E, None): _prevent,
    (0x41, None): _write_same,
    (0x42, None): _unmap,
    (0x48, None): _sanitize,
    (0x4C, None): _log_select,
    (0x4D, None): _log_sense,
    (0x55, None): _mode_select,
    (0x5A, None): _mode_sense,
    (0x5E, None): _reserve_in,
    (0x5F, None): _reserve_out,
    (0x83, 0x00): _extended_copy,
    (0x83, 0x10): _populate_token,
    (0x83, 0x11): _write_using_token,
    (0x84, None): _copy_results,
    (0x84, 0x07): _token_information,
    (0x89, None): _compare_and_write,
    (0x93, None): _write_same,
    (0x9C, None): _write_atomic,
    (0x9E, 0x12): _lba_status,
    (0xA3, 0x0C): _supported_opcodes,
    (0xA4, 0x0A): _set_groups,
}

#: bytes of parameter lists that say what the rest means: those are the ones to get wrong
_TELLING: dict[tuple[int, int], tuple[int, ...]] = {
    (0x5F, 0): (8, 15, 20, 24, 27, 28, 31),
    (0x5F, 6): (8, 15, 20, 24, 27, 28, 31),
    (0x5F, 7): (7, 15, 17, 19, 20, 23, 24, 27),
    (0x83, 0x10): (0, 1, 2, 4, 5, 8, 9, 10, 14, 15, 16, 24, 26),
    (0x83, 0x11): (0, 1, 2, 8, 15, 16, 534, 535, 536, 544),
}


def spoiled(world: World, row: Row, data: bytes) -> bytes:
    """Data-out with one byte wrong, or cut off."""
    rng = world.random
    changed = bytearray(data)
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]
    places: tuple[int, ...] = _TELLING.get((row.opcode, row.service_action or 0), ())
    if row.opcode == 0x83 and row.service_action == 0 and len(data) > 16:
        segments = 16 + int.from_bytes(data[2:4], "big")
        places = (0, 1, 2, 3, 8, 11, 15, 16, 23, segments, segments + 1, segments + 3)
    if not places or rng.random() < 0.3:
        places = (rng.randrange(rng.choice((8, 32, 64, 256))),)
    place = rng.choice(places)
    if place < len(changed):
        changed[place] = rng.choice((0, 0, 1, 2, 5, 8, 0x10, 0x40, 0x80, 0xFF))
    return bytes(changed)
