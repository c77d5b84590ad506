"""A client of NBD that takes simple replies alone."""

from __future__ import annotations

import socket
import struct


def talk(path: str) -> None:
    """Write a block at 4096, read it, and leave."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.settimeout(30)
        stream = client.makefile("rb")
        stream.read(18)
        client.sendall(struct.pack(">I", 3) + struct.pack(">QII", 0x49484156454F5054, 1, 0))
        stream.read(10)
        data = bytes(range(256)) * 16
        client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 4096, 4096) + data)
        assert stream.read(16)[4:8] == bytes(4)
        client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 2, 4096, 4096))
        assert stream.read(16 + 4096)[16:] == data
        client.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 3, 0, 0))
