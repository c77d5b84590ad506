"""Sense data and CDBs in words, against texts written out by hand."""

from __future__ import annotations

import pytest

from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, Relayed, Sense, SenseKey
from userdisk.scsitool.words import cdb_words, sense_words, status_words

VALUES = [
    (
        sense.invalid_field_in_cdb(2, 5),
        "illegal request, invalid field in CDB (5/24/00), wrong is byte 2 bit 5 of the CDB",
    ),
    (
        sense.invalid_field_in_parameter_list(40),
        "illegal request, invalid field in parameter list (5/26/00),"
        " wrong is byte 40 of the parameter list",
    ),
    (
        sense.lba_out_of_range(4096),
        "illegal request, logical block address out of range (5/21/00), information 4096 (0x1000)",
    ),
    (
        sense.sanitize_in_progress(0x4000),
        "not ready, logical unit not ready, sanitize in progress (2/04/1B), 25.0 % done",
    ),
    (
        Sense(SenseKey.COPY_ABORTED, Asc.COPY_TARGET_NOT_REACHABLE, None,
              sense.Pointer(4, None, False, True), 7),
        "copy aborted, copy target device not reachable (A/0D/02)",
    ),
]  # fmt: skip


@pytest.mark.parametrize("descriptor", [False, True])
@pytest.mark.parametrize(("value", "expected"), VALUES)
def test_what_the_engine_says(value: Sense, expected: str, descriptor: bool) -> None:
    assert sense_words(value.encode(descriptor=descriptor)).startswith(expected)


def test_a_segment_pointer_and_command_specific_information() -> None:
    for descriptor in (False, True):
        words = sense_words(VALUES[-1][0].encode(descriptor=descriptor))
        assert "command-specific information 7" in words
        assert "wrong is byte 4 of the segment descriptor" in words


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("", "without sense data"),
        ("00 00", "not sense data (response code 00h)"),
        ("71 00 63 00000000 0a 00000000 1100 05 80 0003",
         "medium error, unrecovered read error (3/11/00), deferred: of an earlier command, EOM,"
         " ILI: the length is not what it should be, field replaceable unit 05h, retried 3 times"),
        ("f0 00 03", "medium error, no additional sense information (3/00/00), information 0"),
        ("72 06 29 01 00 00 00 08 02 06 00 00 81 00 00 00",
         "unit attention, power on occurred (6/29/01), unit attentions were lost: too many"),
        ("72 05 20 00 80 00 00 0a 05 02 00 20 80 04 aa bb cc dd",
         "illegal request, invalid command operation code (5/20/00),"
         " SDAT_OVFL: there was more sense data, ILI: the length is not what it should be,"
         " descriptor 80 04 aa bb cc dd"),
        ("72 03 11 00 00 00 00 0c 00 0a 80",
         "medium error, unrecovered read error (3/11/00), descriptor 00 0a 80 (cut off)"),
        ("70 00 05 00000000 04 00000000 2400 00 c0 0002", "illegal request, no additional sense"
         " information (5/00/00)"),
    ],
)  # fmt: skip
def test_what_others_say(data: str, expected: str) -> None:
    assert sense_words(bytes.fromhex(data)) == expected


def test_forwarded_sense() -> None:
    inner = Sense(SenseKey.MEDIUM_ERROR, Asc.UNRECOVERED_READ_ERROR, 5).encode()
    value = Sense(
        SenseKey.COPY_ABORTED, Asc.THIRD_PARTY_DEVICE_FAILURE, relayed=Relayed(1, 2, inner)
    )
    words = sense_words(value.encode(descriptor=True))
    assert "forwarded: CHECK CONDITION, medium error, unrecovered read error (3/11/00)" in words


def test_status() -> None:
    assert status_words(0x18, b"") == "RESERVATION CONFLICT"
    assert status_words(0x99, b"") == "status 99h"
    assert status_words(2, b"") == "CHECK CONDITION: without sense data"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("00 00 00 00 00 00", "TEST UNIT READY"),
        ("12 01 83 00 ff 00", "INQUIRY, EVPD 1, PAGE CODE 83h, ALLOCATION LENGTH 255"),
        ("2a 08 00 00 10 00 00 00 08 00",
         "WRITE(10), FUA 1, LOGICAL BLOCK ADDRESS 4096, TRANSFER LENGTH 8"),
        ("91 02 0000000000000000 00000000 00 00",
         "SYNCHRONIZE CACHE(16), IMMED 1, LOGICAL BLOCK ADDRESS 0, NUMBER OF LOGICAL BLOCKS 0"),
        ("5f 06 00 00 00 00 00 00 18 00",
         "PERSISTENT RESERVE OUT (REGISTER AND IGNORE EXISTING KEY), PARAMETER LIST LENGTH 24"),
        ("9e 10 0000000000000000 00000020 00 00",
         "READ CAPACITY(16), LOGICAL BLOCK ADDRESS 0, ALLOCATION LENGTH 32"),
        ("28 00 00 00", "READ(10), LOGICAL BLOCK ADDRESS 00 00, cut off: 4 of 10 bytes"),
        ("00 01 01 00 00 04", "TEST UNIT READY, reserved bits are set, NACA 1"),
        ("00 00 00 00 00 00 01", "TEST UNIT READY, 1 bytes too many"),
        ("c7 01", "vendor specific command (C7h): c7 01"),
        ("5e 1f 00 00 00 00 00 00 00 00",
         "PERSISTENT RESERVE IN (5Eh): 5e 1f 00 00 00 00 00 00 00 00"),
        ("", "no CDB"),
    ],
)  # fmt: skip
def test_cdbs(data: str, expected: str) -> None:
    assert cdb_words(bytes.fromhex(data)) == expected
