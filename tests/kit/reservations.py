"""Persistent reservations from the initiator's side: a host with a nexus, a key and few words."""

from __future__ import annotations

import struct
from typing import NamedTuple

from tests.kit.engine import EnginePort, Result
from userdisk.target.nexus import Nexus

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, IGNORE, MOVE = range(8)
READ_KEYS, READ_RESERVATION, CAPABILITIES, FULL_STATUS = range(4)
WE, EA, WE_RO, EA_RO, WE_AR, EA_AR = TYPES = 1, 3, 5, 6, 7, 8
SPEC_I_PT, ALL_TG_PT, APTPL = 8, 4, 1
CONFLICT = 0x18


def basic(key: int, service_key: int, flags: int = 0) -> bytes:
    """The parameter list of 24 bytes."""
    return struct.pack(">QQIBxH", key, service_key, 0, flags, 0)


def moving(key: int, service_key: int, name: bytes, *, port: int = 1, flags: int = 0) -> bytes:
    """The parameter list of REGISTER AND MOVE; `name` is the TransportID."""
    return struct.pack(">QQxBHI", key, service_key, flags, port, len(name)) + name


def transport_id(
    initiator: str, isid: int | None = None, *, additional: int | None = None
) -> bytes:
    """An iSCSI TransportID, written out by SPC-5 tables 505 and 506."""
    text = initiator.encode() + (b"" if isid is None else b",i,0x%012x" % isid) + b"\0"
    while len(text) < 20 or len(text) % 4:
        text += b"\0"
    code = 0x05 if isid is None else 0x45
    return struct.pack(">BBH", code, 0, len(text) if additional is None else additional) + text


def specifying(key: int, service_key: int, *names: bytes, flags: int = 0) -> bytes:
    """The parameter list of REGISTER with SPEC_I_PT and these TransportIDs."""
    body = b"".join(names)
    return basic(key, service_key, SPEC_I_PT | flags) + struct.pack(">I", len(body)) + body


class Registered(NamedTuple):
    """A full status descriptor."""

    key: int
    holder: bool
    kind: int
    port: int
    name: bytes


class Host:
    """An initiator port that uses one logical unit; every answer is checked by the caller."""

    def __init__(self, nexus: Nexus, port: EnginePort | None = None) -> None:
        self.nexus = nexus
        self.port = port or EnginePort()

    def command(self, cdb: bytes, data: bytes = b"") -> Result:
        """Run a command."""
        return self.port.execute(self.nexus, cdb, data)

    def send(self, action: int, data: bytes, kind: int = 0) -> Result:
        """PERSISTENT RESERVE OUT with a parameter list."""
        return self.command(struct.pack(">BBBxxIx", 0x5F, action, kind, len(data)), data)

    def out(
        self, action: int, key: int = 0, service_key: int = 0, kind: int = 0, flags: int = 0
    ) -> int | tuple[int, int]:
        """PERSISTENT RESERVE OUT: its status, or sense key and code."""
        return outcome(self.send(action, basic(key, service_key, flags), kind))

    def read(self, action: int, length: int = 0xFFFF) -> bytes:
        """PERSISTENT RESERVE IN data."""
        result = self.command(struct.pack(">BB5xHx", 0x5E, action, length))
        assert result.status == 0
        return result.data

    def generation(self) -> int:
        """PRGENERATION."""
        return int.from_bytes(self.read(READ_KEYS)[:4], "big")

    def keys(self) -> list[int]:
        """The registered keys, sorted."""
        data = self.read(READ_KEYS)
        assert int.from_bytes(data[4:8], "big") == len(data) - 8
        return sorted(struct.unpack(f">{len(data[8:]) // 8}Q", data[8:]))

    def reservation(self) -> tuple[int, int] | None:
        """Type and key of the reservation."""
        data = self.read(READ_RESERVATION)
        if len(data) == 8:
            return None
        key, kind = struct.unpack(">8xQ5xB2x", data)
        return kind, key

    def status(self) -> list[Registered]:
        """READ FULL STATUS, taken apart."""
        data = self.read(FULL_STATUS)
        assert int.from_bytes(data[4:8], "big") == len(data) - 8
        found, at = [], 8
        while at < len(data):
            key, flags, kind, port, length = struct.unpack_from(">Q4xBB4xHI", data, at)
            assert not flags & ~1
            name = data[at + 24 : at + 24 + length]
            found.append(Registered(key, bool(flags), kind, port, name))
            at += 24 + length
        assert at == len(data)
        return found

    def told(self) -> list[int]:
        """The unit attentions that waited; TEST UNIT READY passes every reservation."""
        found = []
        while (result := self.command(bytes(6))).status:
            assert result.sense is not None and result.sense.key == 6
            found.append(result.sense.code)
        return found

    def writes(self) -> bool:
        """Whether a WRITE(10) of a block is let through."""
        return self._let_through(bytes.fromhex("2a000000000000000100"), bytes(512))

    def reads(self) -> bool:
        """Whether a READ(10) of a block is let through."""
        return self._let_through(bytes.fromhex("28000000000000000100"))

    def _let_through(self, cdb: bytes, data: bytes = b"") -> bool:
        result = self.command(cdb, data)
        assert result.status in (0, CONFLICT), result
        return not result.status


def outcome(result: Result) -> int | tuple[int, int]:
    """A status, or sense key and code of a CHECK CONDITION."""
    if result.sense is None:
        return result.status
    return result.sense.key, result.sense.code
