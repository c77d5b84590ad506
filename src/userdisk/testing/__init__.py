"""The suite that checks a storage unit of your own: `check_storage_unit(unit)`.

It destroys what is on the disk. Run it on a unit made for it, from a test:

    def test_my_disk():
        check_storage_unit(MyDisk(block_count=65536))
"""

from __future__ import annotations

from userdisk.testing.check import check_storage_unit

__all__ = ["check_storage_unit"]
