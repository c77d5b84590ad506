"""What clients are told of an export: flags and block sizes."""

from __future__ import annotations

import pytest

from tests.kit.units import RamUnit
from userdisk.gate import Gate
from userdisk.nbd.export import MAX_PAYLOAD, Export, block_sizes, transmission_flags
from userdisk.nbd.wire import TransmissionFlag as Flag

ALWAYS = Flag.HAS_FLAGS | Flag.CAN_MULTI_CONN | Flag.SEND_CACHE
WRITES = Flag.SEND_FLUSH | Flag.SEND_FUA | Flag.SEND_WRITE_ZEROES
TRIMS = Flag.SEND_TRIM | Flag.SEND_FAST_ZERO


class Leaves(RamUnit):
    """After `unmap` there may be anything."""

    unmap_zeroes = False


@pytest.mark.parametrize(
    ("unit", "read_only", "expected"),
    [
        (RamUnit(), False, ALWAYS | WRITES | TRIMS),
        (RamUnit(cache_supported=False), False, ALWAYS | WRITES | TRIMS),
        (RamUnit(unmap_supported=False), False, ALWAYS | WRITES),
        (Leaves(), False, ALWAYS | WRITES | Flag.SEND_TRIM),
        (RamUnit(), True, ALWAYS | Flag.READ_ONLY),
        (RamUnit(write_protected=True), False, ALWAYS | Flag.READ_ONLY),
    ],
)
def test_flags(unit: RamUnit, read_only: bool, expected: Flag) -> None:
    export = Export("disk", Gate(unit), read_only=read_only)
    assert transmission_flags(export, structured=False) == expected
    structured = expected | Flag.SEND_DF
    assert transmission_flags(export, structured=True) == structured
    extended = structured | Flag.BLOCK_STATUS_PAYLOAD
    assert transmission_flags(export, structured=False, extended=True) == extended
    assert transmission_flags(export, structured=True, extended=True) == extended


@pytest.mark.parametrize(
    ("block_length", "physical", "expected"),
    [
        (512, None, (512, 4096)),
        (512, 4096, (512, 4096)),
        (4096, None, (4096, 4096)),
        (512, 65536, (512, 65536)),
        (2048, 1 << 20, (2048, 1 << 20)),
    ],
)
def test_block_sizes(block_length: int, physical: int | None, expected: tuple[int, int]) -> None:
    unit = RamUnit(block_length=block_length, physical_block_length=physical)
    minimum, preferred, maximum = block_sizes(Export("disk", Gate(unit)))
    assert (minimum, preferred) == expected
    assert maximum == MAX_PAYLOAD == 32 << 20
    assert maximum % minimum == preferred % minimum == 0
