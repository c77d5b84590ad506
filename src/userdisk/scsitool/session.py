"""A captured iSCSI session in words, a line for each PDU (RFC 7143 11)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from userdisk.iscsi import pdu
from userdisk.iscsi.pdu import BHS_LENGTH, DIGEST_LENGTH, InitiatorOpcode, TargetOpcode, padded
from userdisk.scsitool.capture import Piece
from userdisk.scsitool.layout import Listing
from userdisk.scsitool.words import cdb_words, status_words

_MOST_LINES = 200_000
_MOST_TASKS = 4096  # commands whose names are remembered
_MAX_TEXT = 2000  # characters of keys in a line
_STAGES = {0: "security", 1: "operational", 3: "full feature"}
_FULL_FEATURE = 3
_TRANSIT = 0x80
_FUNCTIONS = {
    1: "ABORT TASK", 2: "ABORT TASK SET", 3: "CLEAR ACA", 4: "CLEAR TASK SET",
    5: "LOGICAL UNIT RESET", 6: "TARGET WARM RESET", 7: "TARGET COLD RESET", 8: "TASK REASSIGN",
}  # fmt: skip
_FUNCTION_RESPONSES = {
    0: "done", 1: "there is no such task", 2: "there is no such LUN", 3: "the task is allegiant",
    4: "reassignment is not supported", 5: "the function is not supported",
    6: "authorization failed", 255: "refused",
}  # fmt: skip
_EVENTS = {
    0: "SCSI asynchronous event", 1: "the target wants a logout",
    2: "the target drops the connection", 3: "the target drops all connections",
    4: "the target wants to negotiate", 255: "vendor specific",
}  # fmt: skip
_LOGOUT = {0: "done", 1: "there is no such connection", 2: "no recovery", 3: "cleanup failed"}
_SECRET = ("CHAP_R=", "CHAP_C=")


class Pdu(NamedTuple):
    """One PDU."""

    header: bytes
    data: bytes

    @property
    def opcode(self) -> int:
        """The operation code, without the immediate bit."""
        return self.header[0] & 0x3F

    @property
    def itt(self) -> int:
        """INITIATOR TASK TAG."""
        return self.number(16)

    def number(self, at: int) -> int:
        """A field of 4 bytes."""
        return int.from_bytes(self.header[at : at + 4], "big")

    @property
    def lun(self) -> int:
        """The number in the LUN field, in the simple forms."""
        return int.from_bytes(self.header[8:10], "big") & 0x3FFF


@dataclass(slots=True)
class _Connection:
    """What both directions of a connection share."""

    header_digest: bool = False
    data_digest: bool = False
    keys: dict[str, str] = field(default_factory=dict)
    tasks: dict[int, str] = field(default_factory=dict)

    def name_of(self, itt: int) -> str:
        """The command of a tag, if it was seen."""
        return self.tasks.get(itt, "")


class _Direction:
    """Bytes become PDUs."""

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection
        self.lost = False
        self._buffer = bytearray()

    @property
    def waiting(self) -> int:
        """Bytes of a PDU that is not whole."""
        return 0 if self.lost else len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Pdu]:
        """The PDUs that are whole now."""
        self._buffer += data
        while len(self._buffer) >= BHS_LENGTH:
            if self._buffer[0] & 0x3F not in _SAY:  # its lengths mean nothing then
                yield Pdu(bytes(self._buffer[:BHS_LENGTH]), b"")
                return
            size = int.from_bytes(self._buffer[5:8], "big")
            data_at = BHS_LENGTH + 4 * self._buffer[4]
            data_at += DIGEST_LENGTH if self.connection.header_digest else 0
            total = data_at + padded(size)
            total += DIGEST_LENGTH if self.connection.data_digest and size else 0
            if len(self._buffer) < total:
                return
            found = Pdu(
                bytes(self._buffer[:BHS_LENGTH]), bytes(self._buffer[data_at : data_at + size])
            )
            del self._buffer[:total]
            yield found


def _text(data: bytes) -> str:
    """Keys of login and text requests; what proves a secret is left out."""
    pairs = [pair for pair in data.decode("utf-8", "replace").split("\0") if pair]
    shown = [pair[:7] + "..." if pair.startswith(_SECRET) else pair for pair in pairs]
    text = ", ".join("".join(c if c.isprintable() else "." for c in pair) for pair in shown)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "..."


def _stage(flags: int) -> str:
    here, after = flags >> 2 & 3, flags & 3
    text = f"{_STAGES.get(here, here)} stage"
    return f"{text}, to {_STAGES.get(after, after)}" if flags & _TRANSIT else text


def _residual(one: Pdu) -> str:
    count = one.number(44)
    if one.header[1] & pdu.RESIDUAL_OVERFLOW:
        return f", {count} bytes more were there"
    return f", {count} bytes fewer" if one.header[1] & pdu.RESIDUAL_UNDERFLOW else ""


def _command(one: Pdu, connection: _Connection) -> str:
    words = cdb_words(one.header[32:48])
    if len(connection.tasks) >= _MOST_TASKS:
        connection.tasks.clear()
    connection.tasks[one.itt] = words.partition(",")[0]
    ways = [
        name
        for bit, name in ((pdu.COMMAND_READ, "to read"), (pdu.COMMAND_WRITE, "to write"))
        if one.header[1] & bit
    ]
    expected = f", {one.number(20)} bytes {' and '.join(ways)}" if ways else ""
    with_data = f", {len(one.data)} sent with it" if one.data else ""
    return f"LUN {one.lun}: {words}{expected}{with_data}"


def _response(one: Pdu, connection: _Connection) -> str:
    name = connection.tasks.pop(one.itt, "command")
    if one.header[2]:
        return f"{name}: iSCSI response {one.header[2]:02X}h"
    size = int.from_bytes(one.data[:2], "big")
    return f"{name}: {status_words(one.header[3], one.data[2 : 2 + size])}{_residual(one)}"


def _data_in(one: Pdu, connection: _Connection) -> str:
    status = ""
    if one.header[1] & pdu.DATA_IN_STATUS:
        status = f", {status_words(one.header[3], b'')}{_residual(one)}"
    return f"{connection.name_of(one.itt)} data: {len(one.data)} bytes at {one.number(40)}{status}"


def _login(one: Pdu, connection: _Connection) -> str:
    return f"login, {_stage(one.header[1])}: {_text(one.data)}"


def _login_response(one: Pdu, connection: _Connection) -> str:
    status = int.from_bytes(one.header[36:38], "big")
    for pair in one.data.decode("latin-1").split("\0"):
        key, _, value = pair.partition("=")
        if key in ("HeaderDigest", "DataDigest"):
            connection.keys[key] = value
    ended = one.header[1] & _TRANSIT and one.header[1] & 3 == _FULL_FEATURE
    if ended and not status:
        connection.header_digest = connection.keys.get("HeaderDigest") == "CRC32C"
        connection.data_digest = connection.keys.get("DataDigest") == "CRC32C"
    refused = f" refused with status {status:04X}h" if status else ""
    return f"login{refused}, {_stage(one.header[1])}: {_text(one.data)}"


def _function(one: Pdu, connection: _Connection) -> str:
    number = one.header[1] & 0x7F
    name = _FUNCTIONS.get(number, f"function {number}")
    about = connection.name_of(one.number(20))
    return f"LUN {one.lun}: {name}{f' of {about}' if number == 1 and about else ''}"


_Say = Callable[[Pdu, _Connection], str]

_SAY: dict[int, _Say] = {
    InitiatorOpcode.NOP_OUT: lambda one, _: (
        "ping answered" if one.itt == pdu.RESERVED_TAG else "ping"
    ),
    InitiatorOpcode.SCSI_COMMAND: _command,
    InitiatorOpcode.TASK_MANAGEMENT: _function,
    InitiatorOpcode.LOGIN: _login,
    InitiatorOpcode.TEXT: lambda one, _: f"text: {_text(one.data)}",
    InitiatorOpcode.DATA_OUT: lambda one, connection: (
        f"{connection.name_of(one.itt)} data: {len(one.data)} bytes at {one.number(40)}"
    ),
    InitiatorOpcode.LOGOUT: lambda one, _: "logout",
    InitiatorOpcode.SNACK: lambda one, _: "SNACK: send again",
    TargetOpcode.NOP_IN: lambda one, _: (
        "ping" if one.itt == pdu.RESERVED_TAG else "ping answered"
    ),
    TargetOpcode.SCSI_RESPONSE: _response,
    TargetOpcode.TASK_MANAGEMENT_RESPONSE: lambda one, _: (
        "task management: "
        + _FUNCTION_RESPONSES.get(one.header[2], f"response {one.header[2]}")
    ),
    TargetOpcode.LOGIN_RESPONSE: _login_response,
    TargetOpcode.TEXT_RESPONSE: lambda one, _: f"text: {_text(one.data)}",
    TargetOpcode.DATA_IN: _data_in,
    TargetOpcode.LOGOUT_RESPONSE: lambda one, _: (
        f"logout: {_LOGOUT.get(one.header[2], f'response {one.header[2]}')}"
    ),
    TargetOpcode.R2T: lambda one, connection: (
        f"{connection.name_of(one.itt)} asks for {one.number(44)} bytes at {one.number(40)}"
    ),
    TargetOpcode.ASYNC_MESSAGE: lambda one, _: (
        f"message: {_EVENTS.get(one.header[36], f'event {one.header[36]}')}"
    ),
    TargetOpcode.REJECT: lambda one, connection: (
        f"rejected (reason {one.header[2]:02X}h): "
        + say(Pdu(one.data[:BHS_LENGTH].ljust(BHS_LENGTH, b"\0"), b""), connection)
    ),
}  # fmt: skip


def say(one: Pdu, connection: _Connection) -> str:
    """A PDU in words."""
    known = _SAY.get(one.opcode)
    if known is None or (one.opcode == TargetOpcode.REJECT and not one.data):
        return f"PDU with opcode {one.opcode:02X}h"
    return known(one, connection)


def lines(pieces: Iterable[Piece]) -> Listing:
    """All PDUs of a capture, in the order in which they are whole."""
    connections: dict[frozenset[str], _Connection] = {}
    directions: dict[tuple[str, str], _Direction] = {}
    rows: list[tuple[str, str, str]] = []
    warnings: list[str] = []
    for piece in pieces:
        ends = (piece.source, piece.destination)
        connection = connections.setdefault(frozenset(ends), _Connection())
        direction = directions.setdefault(ends, _Direction(connection))
        if piece.gap and not direction.lost:
            direction.lost = True
            warnings.append(f"{ends[0]} to {ends[1]}: bytes are missing, the rest cannot be read")
        if direction.lost:
            continue
        for one in direction.feed(piece.data):
            if one.opcode not in _SAY:
                direction.lost = True
                warnings.append(f"{ends[0]} to {ends[1]}: not iSCSI (opcode {one.opcode:02X}h)")
                break
            way = "<" if one.opcode >= TargetOpcode.NOP_IN else ">"
            rows.append((f"{piece.time:.6f}", way, say(one, connection)))
            if len(rows) >= _MOST_LINES:
                warnings.append(f"only the first {_MOST_LINES} PDUs are shown")
                return _listing(rows, warnings)
    for ends, direction in directions.items():
        if direction.waiting:
            text = f"{direction.waiting} bytes at the end are no whole PDU"
            warnings.append(f"{ends[0]} to {ends[1]}: {text}")
    return _listing(rows, warnings)


def _listing(rows: list[tuple[str, str, str]], warnings: list[str]) -> Listing:
    return Listing(
        "Session",
        ("TIME", "WAY", "WHAT"),
        rows,
        warnings,
        empty="no iSCSI PDU",
        sentence="{TIME} {WAY} {WHAT}",
    )
