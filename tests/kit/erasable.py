"""A thin disk that encrypts what it stores: forgetting the key forgets the data.

`userdisk serve tests/kit/erasable.py:Encrypted --size 16M` serves one; `Slow` takes its time for
large writes, so that overwriting it lasts long enough to be looked at.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from userdisk.unit import Buffer, Extent, Extents, StorageUnit


class Encrypted(StorageUnit):
    """Memory that holds ciphertext; blocks that were never written, or unmapped, read as zeros."""

    product_id = "encrypted ram"
    block_count = 2048

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self._stored: dict[int, bytes] = {}
        self._key = os.urandom(32)

    def _crypt(self, lba: int, block: Buffer) -> bytes:
        """XOR with a keystream of the block's own; the same again decrypts."""
        stream = hashlib.shake_256(self._key + lba.to_bytes(8, "big")).digest(self.block_length)
        number = int.from_bytes(block, "big") ^ int.from_bytes(stream, "big")
        return number.to_bytes(self.block_length, "big")

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        """Decrypt."""
        zeros = bytes(self.block_length)
        return b"".join(
            self._crypt(at, self._stored[at]) if at in self._stored else zeros
            for at in range(lba, lba + blocks)
        )

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        """Encrypt."""
        for number, at in enumerate(range(0, len(data), self.block_length)):
            block = data[at : at + self.block_length]
            self._stored[lba + number] = self._crypt(lba + number, block)

    def unmap(self, extents: Extents) -> None:
        """Forget blocks."""
        for lba, blocks in extents:
            for at in range(lba, lba + blocks):
                self._stored.pop(at, None)

    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        """Which blocks are stored."""
        for mapped, run in groupby(range(lba, lba + blocks), self._stored.__contains__):
            found = list(run)
            yield Extent(found[0], len(found), mapped, zero=not mapped)

    def erase(self) -> None:
        """Overwrite the ciphertext, block by block."""
        for at in self._stored:
            self._stored[at] = bytes(self.block_length)

    def crypto_erase(self) -> None:
        """Forget the key: what is stored now decrypts to noise."""
        self._key = os.urandom(32)


class Slow(Encrypted):
    """Writes of 1 MiB take their time; nothing but overwriting a whole disk writes so much."""

    seconds = 0.4  #: so that 16 MiB last longer than the six seconds of the suite's Sanitize.Reset

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        """As `Encrypted`."""
        if data.nbytes >= 1 << 20:
            time.sleep(self.seconds)
        super().write(lba, data, fua)
