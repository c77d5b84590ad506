"""Captures: packets that others can put together again."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from userdisk.errors import UsageError
from userdisk.scsitool.capture import pieces
from userdisk.telemetry.capture import CaptureFile
from userdisk.telemetry.pcap import FILE_HEADER, Conversation


def _packets(data: bytes) -> list[bytes]:
    found, at = [], len(FILE_HEADER)
    while at < len(data):
        _, _, length, wire = struct.unpack_from("<IIII", data, at)
        assert length == wire
        found.append(data[at + 16 : at + 16 + length])
        at += 16 + length
    assert at == len(data)
    return found


def _sum(data: bytes) -> int:
    """RFC 1071, word by word."""
    if len(data) % 2:
        data += b"\0"
    total = sum(word for (word,) in struct.iter_unpack(">H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize(
    ("local", "remote", "ends"),
    [
        (("127.0.0.1", 9), ("127.0.0.2", 50000), ("127.0.0.1:3260", "127.0.0.2:50000")),
        (("unix:/run/x", 0), ("unix:/run/x", 0), ("127.0.0.1:3260", "127.0.0.1:40007")),
        (("::1", 9), ("fe80::1%eth0", 5), ("[0000:0000:0000:0000:0000:0000:0000:0001]:3260",
                                           "[fe80:0000:0000:0000:0000:0000:0000:0001]:5")),
    ],
)  # fmt: skip
def test_what_was_said(
    local: tuple[str, int], remote: tuple[str, int], ends: tuple[str, str]
) -> None:
    conversation = Conversation("iscsi", local, remote, 7)
    asked = [bytes(range(256)) * 400, b"x", b"\xff" * 60001]
    answered = [b"", b"yes", bytes(70000)]
    file = FILE_HEADER + conversation.opened(10.25)
    for one, other in zip(asked, answered, strict=True):
        file += conversation.received(11.0, one) + conversation.sent(11.5, other)
    file += conversation.closed(12.0)
    said: dict[str, bytes] = {}
    for piece in pieces(file):
        assert not piece.gap
        said[piece.source] = said.get(piece.source, b"") + piece.data
    assert said == {ends[1]: b"".join(asked), ends[0]: b"".join(answered)}
    for packet in _packets(file):
        header = 20 if packet[0] >> 4 == 4 else 40
        addresses = packet[12:20] if header == 20 else packet[8:40]
        tcp = packet[header:]
        assert _sum(addresses + struct.pack(">II", len(tcp), 6) + tcp) == 0xFFFF
        if header == 20:
            assert _sum(packet[:20]) == 0xFFFF
            assert int.from_bytes(packet[2:4], "big") == len(packet)


def test_sequence_numbers_go_round() -> None:
    conversation = Conversation("nbd", ("127.0.0.1", 1), ("127.0.0.1", 2), 0)
    conversation._client.sequence += 0xFFFFFFF0
    conversation._server.sequence += 5
    file = FILE_HEADER + conversation.received(1.0, bytes(100)) + conversation.received(1.0, b"ab")
    first, second = _packets(file)
    numbers = [int.from_bytes(packet[24:28], "big") for packet in (first, second)]
    assert numbers == [0xFFFFFFF1, 0xFFFFFFF1 + 100 - (1 << 32)]
    assert int.from_bytes(first[28:32], "big") == 6
    assert int.from_bytes(first[22:24], "big") == 10809


def test_a_file_ends_at_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    file = CaptureFile(str(path), 100)
    assert path.stat().st_mode & 0o777 == 0o600
    assert file.write(bytes(76))
    assert not file.write(b"x")
    assert not file.write(b"")  # it is closed
    file.close()
    assert path.read_bytes() == FILE_HEADER + bytes(76)
    CaptureFile(str(path), 100).close()  # it is a capture: it may be overwritten
    assert path.read_bytes() == FILE_HEADER


def test_a_full_disk_ends_it() -> None:
    file = CaptureFile.__new__(CaptureFile)
    with open("/dev/full", "wb") as full:
        import os
        import threading

        file._path, file._limit, file._written = "/dev/full", 1000, 0
        file._lock, file._file = threading.Lock(), os.dup(full.fileno())
    assert not file.write(b"packet")
    assert not file.write(b"packet")


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"data")
    with pytest.raises(UsageError, match="is no capture"):
        CaptureFile(str(image), 1000)
    with pytest.raises(UsageError, match="is no file"):
        CaptureFile(str(tmp_path), 1000)
    assert image.read_bytes() == b"data"
