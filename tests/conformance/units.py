"""A unit that declares what none of userdisk's own can."""

from __future__ import annotations

import time

from userdisk.backend.ram import RamUnit
from userdisk.unit import Inline

_LONG = 1 << 20  # bytes; nothing but overwriting a whole disk writes that much at once
_SECONDS = 0.15  # so that overwriting 40 MiB takes the seconds that Sanitize.Reset needs


class Complete(RamUnit):
    """Memory that can be erased, or given up at once by changing a key; slow to overwrite.

    It is serial, and its reads are copies: nobody sees half of a write.
    """

    product_id = "complete ram"
    inline = Inline.NONE
    concurrent = False
    live_reads = False
    atomic_blocks = 256

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        return bytes(super().read(lba, blocks, fua))

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        if data.nbytes >= _LONG:
            time.sleep(_SECONDS)
        super().write(lba, data, fua)

    def erase(self) -> None:
        self.unmap([(0, self.block_count)])

    def crypto_erase(self) -> None:
        self.unmap([(0, self.block_count)])
