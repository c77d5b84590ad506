"""Smaller PNG files of what a browser shows: large areas of one colour, so rows without filters."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEPTHS = {2: 3, 6: 4}  # bytes of a pixel, by colour type: RGB, RGBA


def smaller(png: bytes) -> bytes:
    """The same picture, without transparency."""
    chunks = list(_chunks(png))
    width, height, bits, kind = struct.unpack(">IIBB", chunks[0][1][:10])
    assert bits == 8, "8 bits a channel are what browsers write"
    depth = _DEPTHS[kind]
    data = zlib.decompress(b"".join(body for name, body in chunks if name == b"IDAT"))
    rows = _rows(data, width * depth, depth)
    if depth == 4:
        rows = [_without(row, 4) for row in rows]
    body = b"".join(b"\0" + row for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in [
            (b"IHDR", header),
            (b"IDAT", zlib.compress(body, 9)),
            (b"IEND", b""),
        ]
    )


def _without(row: bytes, depth: int) -> bytes:
    """Without the last byte of each pixel."""
    kept = bytearray(len(row) // depth * (depth - 1))
    for channel in range(depth - 1):
        kept[channel :: depth - 1] = row[channel::depth]
    return bytes(kept)


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    assert png.startswith(_SIGNATURE)
    at = len(_SIGNATURE)
    while at < len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        yield name, png[at + 8 : at + 8 + length]
        at += length + 12


def _rows(data: bytes, length: int, depth: int) -> list[bytes]:
    """Rows without their filters (PNG, 9)."""
    rows: list[bytes] = []
    above = bytes(length)
    for at in range(0, len(data), length + 1):
        row = bytearray(data[at + 1 : at + 1 + length])
        _unfilter(data[at], row, above, depth)
        above = bytes(row)
        rows.append(above)
    return rows


def _unfilter(kind: int, row: bytearray, above: bytes, depth: int) -> None:
    for i in range(len(row)) if kind else ():
        left = row[i - depth] if i >= depth else 0
        up, corner = above[i], above[i - depth] if i >= depth else 0
        guess = (0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind]
        row[i] = (row[i] + guess) & 0xFF


def _paeth(a: int, b: int, c: int) -> int:
    guess = a + b - c
    near = (abs(guess - a), abs(guess - b), abs(guess - c))
    return (a, b, c)[near.index(min(near))]
