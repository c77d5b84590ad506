"""READ DEFECT DATA: an empty list, in the format that was asked for."""

from __future__ import annotations

import pytest

from tests.kit.units import InlineRamUnit
from tests.target.test_block_commands import code, disk, run
from userdisk.scsi.sense import Asc, Pointer


@pytest.mark.parametrize("lists", [0x00, 0x08, 0x10, 0x18])
@pytest.mark.parametrize("form", range(6))
def test_an_empty_list(lists: int, form: int) -> None:
    nexus = disk(InlineRamUnit())
    asked = lists | form
    assert run(nexus, bytes([0x37, 0, asked, 0, 0, 0, 0, 0, 32, 0])).data == bytes([0, asked, 0, 0])
    long = bytes([0xB7, asked, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0])
    assert run(nexus, long).data == bytes([0, asked, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("form", [6, 7])
def test_formats_that_do_not_exist(form: int) -> None:
    nexus = disk(InlineRamUnit())
    for cdb, byte in [
        (bytes([0x37, 0, form, 0, 0, 0, 0, 0, 32, 0]), 2),
        (bytes([0xB7, form, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]), 1),
    ]:
        result = run(nexus, cdb)
        assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
        assert result.sense is not None and result.sense.pointer == Pointer(byte, 2)
