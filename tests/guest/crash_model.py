"""What a disk promises about its medium after a crash, given what it acknowledged before.

At any time the medium holds, for each block, what was last written before the last flush (or the
last FUA write of the block) that was acknowledged, or something written since. A crash may leave
each 512-byte sector in another of these states.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

BLOCK = 4096
BLOCKS = 2048
SECTOR = 512

_TAG = struct.Struct("<QQ")


class Step(NamedTuple):
    """One step of a history: write, fua or discard of blocks, or flush, or mark."""

    kind: str
    block: int = 0
    blocks: int = 0
    version: int = 0


def content(block: int, version: int) -> bytes:
    """A block that says which it is, and in which version; version 0 is zeros."""
    return _TAG.pack(block, version) * (BLOCK // _TAG.size) if version else bytes(BLOCK)


class Promise:
    """What each block may hold once so many marks of a history are on the medium."""

    def __init__(self, history: Sequence[Step]) -> None:
        marks = sum(step.kind == "mark" for step in history)
        #: allowed[marks made][block]: versions; blocks that are not named hold zeros.
        self.allowed: list[dict[int, list[int]]] = []
        versions: dict[int, list[int]] = {}
        for step in history:
            touched = range(step.block, step.block + step.blocks)
            if step.kind == "mark":
                self.allowed.append({block: list(held) for block, held in versions.items()})
            elif step.kind == "flush":
                versions = {block: held[-1:] for block, held in versions.items()}
            elif step.kind == "fua":
                versions.update((block, [step.version]) for block in touched)
            else:
                version = 0 if step.kind == "discard" else step.version
                for block in touched:
                    versions.setdefault(block, [0]).append(version)
            if step.kind in ("write", "discard", "fua") and self.allowed:
                # Until the next mark the medium may hold it already.
                version = 0 if step.kind == "discard" else step.version
                for block in touched:
                    self.allowed[-1].setdefault(block, [0]).append(version)
        assert len(self.allowed) == marks

    def broken(self, marks: int, disk: bytes) -> list[str]:
        """What on the medium breaks the promise after so many marks (one or more)."""
        allowed = self.allowed[marks - 1]
        found = []
        for block in range(BLOCKS):
            data = disk[block * BLOCK : (block + 1) * BLOCK]
            candidates = [content(block, version) for version in allowed.get(block, [0])]
            if data in candidates:
                continue
            for start in range(0, BLOCK, SECTOR):
                sector = data[start : start + SECTOR]
                if all(sector != candidate[:SECTOR] for candidate in candidates):
                    found.append(f"after mark {marks - 1}: block {block} holds {_name(sector)},"
                                 f" not version {allowed.get(block, [0])}")  # fmt: skip
                    break
        return found


def _name(sector: bytes) -> str:
    if not any(sector):
        return "zeros"
    block, version = _TAG.unpack_from(sector)
    return f"version {version} of block {block}"
