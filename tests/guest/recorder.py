"""Between an initiator and a server: passes bytes on, and writes down each SCSI command's end.

It reads PDU headers only as far as it needs (RFC 7143 11.2, 11.3, 11.4, 11.7), of sessions without
digests.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field

_COMMAND, _RESPONSE, _DATA_IN = 0x01, 0x21, 0x25  # opcodes
_WITH_STATUS = 0x01  # flag of a Data-In PDU


@dataclass(slots=True)
class Exchange:
    """A command and how it ended; `status` is -1 until then."""

    lun: int
    cdb: bytes
    status: int = -1
    sense: bytes = b""
    data: bytearray = field(default_factory=bytearray)

    @property
    def codes(self) -> tuple[int, int, int]:
        """Sense key, additional sense code and qualifier, of fixed-format sense data."""
        return (self.sense[2] & 0xF, self.sense[12], self.sense[13]) if self.sense else (0, 0, 0)

    def __str__(self) -> str:
        key, asc, ascq = self.codes
        sense = f" {key:x}/{asc:02x}/{ascq:02x}" if self.sense else ""
        return f"{self.cdb.hex(' ')} -> {self.status:02x}{sense}, {len(self.data)} bytes"


class Recorder:
    """Listens on a free port of 127.0.0.1 and connects on; stopped by `with`.

    `exchanges` are the commands of all sessions in the order in which they were sent.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.exchanges: list[Exchange] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []
        self._threads[0].start()

    def since(self, start: int) -> list[Exchange]:
        """Those from the number `start` on, which have all ended."""
        return [exchange for exchange in self.exchanges[start:] if exchange.status >= 0]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [near, far]
                open_commands: dict[int, Exchange] = {}
                for source, sink in ((near, far), (far, near)):
                    arguments = (source, sink, open_commands)
                    self._threads.append(threading.Thread(target=self._pump, args=arguments))
                    self._threads[-1].start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, open_commands: dict[int, Exchange]
    ) -> None:
        with contextlib.suppress(OSError), source.makefile("rb") as stream:
            while len(header := stream.read(48)) == 48:
                extra = header[4] * 4
                length = int.from_bytes(header[5:8], "big")
                rest = stream.read(extra + (length + 3 & ~3))
                self._note(header, rest[extra : extra + length], open_commands)
                sink.sendall(header + rest)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _note(self, header: bytes, data: bytes, open_commands: dict[int, Exchange]) -> None:
        opcode, flags = header[0] & 0x3F, header[1]
        (tag,) = struct.unpack_from(">I", header, 16)
        if opcode == _COMMAND:
            exchange = Exchange(header[9], header[32:48])
            open_commands[tag] = exchange
            self.exchanges.append(exchange)
        elif opcode == _DATA_IN:
            open_commands[tag].data += data
            if flags & _WITH_STATUS:
                open_commands.pop(tag).status = header[3]
        elif opcode == _RESPONSE:
            exchange = open_commands.pop(tag)
            if data:
                exchange.sense = data[2 : 2 + int.from_bytes(data[:2], "big")]
            exchange.status = header[3]

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()
