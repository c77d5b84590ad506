"""The table of bits, the canonical lines and JSON: compared with text written out by hand."""

from __future__ import annotations

import json

import pytest

from userdisk.scsi import inquiry
from userdisk.scsi.fields import Field, Form
from userdisk.scsitool import pages
from userdisk.scsitool.items import Item, Reader, Section
from userdisk.scsitool.layout import Listing, as_json, as_lines, as_table, number_text, table

#: Page B2h as an early draft of SBC-3 had it.
OLD_DRAFT = (
    *inquiry.HEADER,
    Field("THRESHOLD EXPONENT", 4),
    Field("LBPU", 5, 1, 7),
    Field("LBPWS", 5, 1, 6),
    Field("ANC_SUP", 5, 1, 1),
    Field("DP", 5, 1, 0),
    Field("PROVISIONING TYPE", 6, 3, 2),
)
THIN = bytes.fromhex("00 b2 0004 00 80 02 00")
LABELS = {"PAGE CODE": "PAGE CODE (B2h)", "PAGE LENGTH": "PAGE LENGTH (n-3)"}

SAMPLE_TABLE = """\
+--------+--------+--------+--------+--------+--------+--------+--------+
|  PERIPHERAL QUALIFIER=0  |          PERIPHERAL DEVICE TYPE=0          |
+--------+--------+--------+--------+--------+--------+--------+--------+
|                      PAGE CODE (B2h)=178 (0xb2)                       |
+--------+--------+--------+--------+--------+--------+--------+--------+
|                          PAGE LENGTH (n-3)=4                          |
+--------+--------+--------+--------+--------+--------+--------+--------+
|                         THRESHOLD EXPONENT=0                          |
+--------+--------+--------+--------+--------+--------+--------+--------+
| LBPU=1 |LBPWS=0 |            Reserved=0             |ANC_SU=0|  DP=0  |
+--------+--------+--------+--------+--------+--------+--------+--------+
|                 Reserved=0                 |   PROVISIONING TYPE=2    |
+--------+--------+--------+--------+--------+--------+--------+--------+
|                              Reserved=0                               |
+--------+--------+--------+--------+--------+--------+--------+--------+
"""
SAMPLE_LINES = """\
PERIPHERAL QUALIFIER=0
PERIPHERAL DEVICE TYPE=0
PAGE CODE (B2h)=178 (0xb2)
PAGE LENGTH (n-3)=4
THRESHOLD EXPONENT=0
LBPU=1
LBPWS=0
Reserved=0
ANC_SUP=0
DP=0
Reserved=0
PROVISIONING TYPE=2
Reserved=0
"""


def old_draft() -> Section:
    reader = Reader(THIN, LABELS)
    reader.fields(OLD_DRAFT, 8)
    return reader.section("B2")


def text(lines: object) -> str:
    return "".join(f"{line}\n" for line in lines)  # type: ignore[attr-defined]


def test_the_sample_of_winspd() -> None:
    assert text(as_table([old_draft()])) == SAMPLE_TABLE
    assert text(as_lines([old_draft()])) == SAMPLE_LINES


def test_page_b2_as_the_standard_has_it() -> None:
    (page,) = pages.vpd(0xB2, bytes.fromhex("00 b2 0004 03 e7 02 00"))
    lines = list(table(page))
    assert lines[7] == "|                         THRESHOLD EXPONENT=3                          |"
    assert lines[9] == "| LBPU=1 |LBPWS=1 |LBPWS1=1|         LBPRZ=1          |ANC_SU=1|  DP=1  |"
    assert "LBPWS10=1" in as_lines([page])


def test_a_field_that_does_not_fit_beside_others_goes_below() -> None:
    section = Section("", (Item("UGAVALID", 1, 1), Item("UNMAP GRANULARITY ALIGNMENT", 31, 5)))
    assert list(table(section)) == [
        "+--------+--------+--------+--------+--------+--------+--------+--------+",
        "|UGAVAL=1|                                                              |",
        "+--------+                                                              |",
        "|                     UNMAP GRANULARITY ALIGNMENT=5                     |",
        "+--------+--------+--------+--------+--------+--------+--------+--------+",
    ]


def test_rows_of_text_and_bytes() -> None:
    serial = Item("SERIAL", 8 * 70, b"x" * 64 + b"\0y\x7fz\xff!", Form.TEXT)
    raw = Item("RAW", 8 * 17, bytes(range(17)), Form.BYTES)
    lines = list(table(Section("", (serial, raw))))
    assert lines[1:5] == [
        "|" + "SERIAL".center(70) + " |",
        "|   " + "x" * 64 + "    |",
        "|" + ".y.z.!".center(70) + " |",
        "+--------+--------+--------+--------+--------+--------+--------+--------+",
    ]
    assert lines[6].strip("| ") == "00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f"
    assert lines[7].strip("| ") == "10"
    assert {len(line) for line in lines} == {73}


def test_a_value_that_is_too_long_keeps_the_table_in_shape() -> None:
    lines = list(table(Section("", (Item("A" * 80, 7, 127), Item("B", 1, 0)))))
    assert {len(line) for line in lines} == {73}
    assert lines[1].startswith("|AAA") and "A=127 (0x7f)|" in lines[1]
    narrow = list(table(Section("", (Item("SEVERAL", 4, 15), *[Item("X", 1, 1)] * 4))))
    assert {len(line) for line in narrow} == {73}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (9, "9"),
        (10, "10 (0xa)"),
        ((1 << 32) - 1, "4294967295 (0xffffffff)"),
        (1 << 32, "1:00000000"),
        ((1 << 64) - 1, "ffffffff:ffffffff"),
    ],
)
def test_numbers(value: int, expected: str) -> None:
    assert number_text(value) == expected


def test_warnings_are_seen_in_every_form() -> None:
    (page,) = pages.vpd(0xB2, bytes.fromhex("00 b2 0008 00 84 02 01"))
    assert text(as_table([page])).endswith(
        "warning: PAGE LENGTH (n-3): data buffer length mismatch\n"
        "warning: Reserved: non-zero reserved value\n"
    )
    lines = list(as_lines([page]))
    assert "PAGE LENGTH (n-3)=8 (WARN: data buffer length mismatch)" in lines
    assert "Reserved=1 (WARN: non-zero reserved value)" in lines
    (read,) = json.loads(as_json([page]))
    assert {"name": "Reserved", "bits": 8, "value": 1, "warning": "non-zero reserved value"} in (
        read["fields"]
    )


def test_lists() -> None:
    listing = Listing("Runs", ("LBA", "STATE"), [(5, "mapped"), (4096, "hole")], ["cut off"])
    assert list(as_table([listing])) == [
        " LBA  STATE",
        "   5  mapped",
        "4096  hole",
        "warning: cut off",
    ]
    assert list(as_lines([listing])) == [
        "LBA=5", "STATE=mapped", "LBA=4096 (0x1000)", "STATE=hole", "(WARN: cut off)",
    ]  # fmt: skip
    assert json.loads(as_json([listing]))[0]["rows"][1] == {"LBA": 4096, "STATE": "hole"}
    assert list(as_table([listing._replace(rows=[], warnings=[])])) == ["none"]


def test_several_parts_have_titles() -> None:
    lines = list(as_table([old_draft(), old_draft()]))
    assert lines[0] == "B2" and lines.count("B2") == 2 and "" in lines
