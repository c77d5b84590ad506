"""Sense data against bytes written out by hand from SPC-5, and both formats against each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk import errors
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, Pointer, Sense, SenseKey

FIXED = [
    (sense.invalid_opcode(), "70 00 05 00000000 0a 00000000 20 00 00 c0 0000"),
    (sense.invalid_field_in_cdb(1, 4), "70 00 05 00000000 0a 00000000 24 00 00 cc 0001"),
    (sense.invalid_field_in_cdb(300), "70 00 05 00000000 0a 00000000 24 00 00 c0 012c"),
    (sense.invalid_field_in_parameter_list(8), "70 00 05 00000000 0a 00000000 26 00 00 80 0008"),
    (sense.lba_out_of_range(0x12345678), "f0 00 05 12345678 0a 00000000 21 00 00 000000"),
    (sense.lba_out_of_range(1 << 32), "70 00 05 00000000 0a 00000000 21 00 00 000000"),
    (sense.unit_attention(Asc.POWER_ON_OR_RESET), "70 00 06 00000000 0a 00000000 29 00 00 000000"),
    (sense.write_protected(), "70 00 07 00000000 0a 00000000 27 00 00 000000"),
    (sense.parameter_list_length_error(), "70 00 05 00000000 0a 00000000 1a 00 00 000000"),
    (sense.logical_unit_not_supported(), "70 00 05 00000000 0a 00000000 25 00 00 000000"),
    (sense.data_out_too_short(), "70 00 05 00000000 0a 00000000 0e 03 00 000000"),
    (sense.software_write_protected(), "70 00 07 00000000 0a 00000000 27 02 00 000000"),
    (Sense(2, 0x041B, progress=0x8000), "70 00 02 00000000 0a 00000000 04 1b 00 808000"),
    (Sense(0xA, 0x0D02, 5, None, 7), "f0 00 0a 00000005 0a 00000007 0d 02 00 000000"),
    (Sense(0xA, 0x0D02, 5, None, 1 << 32), "f0 00 0a 00000005 0a 00000000 0d 02 00 000000"),
    (sense.NO_SENSE, "70 00 00 00000000 0a 00000000 00 00 00 000000"),
]


@pytest.mark.parametrize(("value", "text"), FIXED, ids=[str(value) for value, _ in FIXED])
def test_fixed_format(value: Sense, text: str) -> None:
    assert value.encode() == bytes.fromhex(text)


def test_descriptor_format() -> None:
    value = Sense(3, Asc.UNRECOVERED_READ_ERROR, 0x1122334455667788, None)
    assert value.encode(descriptor=True) == bytes.fromhex(
        "72 03 11 00 000000 0c  00 0a 80 00 1122334455667788"
    )
    assert sense.invalid_field_in_cdb(2, 5).encode(descriptor=True) == bytes.fromhex(
        "72 05 24 00 000000 08  02 06 0000 cd 0002 00"
    )
    assert Sense(2, 0x041B, progress=0x8000).encode(descriptor=True) == bytes.fromhex(
        "72 02 04 1b 000000 08  02 06 0000 80 8000 00"
    )
    assert Sense(0xA, 0x0D02, 5, None, 1 << 33).encode(descriptor=True) == bytes.fromhex(
        "72 0a 0d 02 000000 18  00 0a 80 00 0000000000000005  01 0a 0000 0000000200000000"
    )


pointers = st.none() | st.builds(
    Pointer, st.integers(0, 0xFFFF), st.none() | st.integers(0, 7), st.booleans()
)
numbers = st.none() | st.integers(0, (1 << 64) - 1)
_WITH_PROGRESS = (SenseKey.NO_SENSE, SenseKey.NOT_READY)


@st.composite
def _values(draw: st.DrawFn) -> Sense:
    key = draw(st.integers(0, 15))
    progress = key in _WITH_PROGRESS
    return Sense(
        key,
        draw(st.integers(0, 0xFFFF)),
        draw(numbers),
        None if progress else draw(pointers),
        draw(numbers),
        draw(st.none() | st.integers(0, 0xFFFF)) if progress else None,
    )


values = _values()


def _in_32_bits(number: int | None) -> int | None:
    return number if number is not None and number < 1 << 32 else None


@given(values)
def test_decode_reads_what_encode_wrote(value: Sense) -> None:
    assert sense.decode(value.encode(descriptor=True)) == value
    fixed = sense.decode(value.encode())
    # fixed format cannot tell a command-specific zero from none
    assert fixed == value._replace(
        information=_in_32_bits(value.information),
        command_specific=_in_32_bits(value.command_specific) or None,
    )


@given(st.binary(max_size=64))
def test_decode_of_anything_is_a_value_or_value_error(data: bytes) -> None:
    try:
        assert 0 <= sense.decode(data).key <= 15
    except ValueError:
        assert not data or data[0] & 0x7F not in (0x70, 0x71, 0x72, 0x73)


def test_decode_takes_fixed_sense_that_ends_early() -> None:
    # a disk that returns 14 bytes (ADDITIONAL SENSE LENGTH 6): no field pointer
    assert sense.decode(bytes.fromhex("f0 00 03 00000010 06 00000000 11 00")) == Sense(
        3, 0x1100, 0x10
    )


@pytest.mark.parametrize(
    ("error", "key", "code", "information"),
    [
        (errors.MediumError(lba=7), 3, 0x1100, 7),
        (errors.WriteError(), 3, 0x0C00, 7),
        (errors.HardwareError(), 4, 0x4400, 7),
        (errors.WriteProtected(), 7, 0x2700, 7),
        (errors.OutOfSpace(), 7, 0x2707, 7),
        (errors.NotReady(), 2, 0x0400, None),
        (errors.OutOfMemory(), 0xB, 0x5503, None),
    ],
)
def test_storage_errors(
    error: errors.StorageError, key: int, code: int, information: int | None
) -> None:
    assert sense.from_error(error, 7) == Sense(key, code, information)
