"""What may be skipped, and which failures are excused: each with its reason.

A skip has one of three reasons: a clause of a standard, a defect of the suite, or what the disk
honestly is not. A failure is excused only as a defect of a single test, shown in its source, and
only if the test complains of exactly what is listed. What stands here must still happen: an entry
that no longer applies fails the run.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.conformance.configurations import BY_NAME, CONFIGURATIONS, Configuration
from tests.conformance.suite import SILENT, Result


class Kind(enum.Enum):
    """What a reason rests on."""

    CLAUSE = "standard"
    SUITE = "suite"
    DISK = "disk"


ALL = frozenset(configuration.name for configuration in CONFIGURATIONS)


@dataclass(frozen=True, slots=True)
class Expected:
    """An outcome other than pass.

    `tests` are patterns of SUITE.TEST; `where` names configurations; `says` is a regular expression
    that the suite's reasons (for a failure: its complaints), a line each, must match in full. In a
    `race` of the suite with the disk's answer either may win: the test may pass as well.
    """

    outcome: str
    tests: tuple[str, ...]
    where: frozenset[str]
    says: str
    kind: Kind
    why: str
    race: bool = False

    def covers(self, configuration: Configuration, name: str) -> bool:
        """Whether it is about this test in this configuration."""
        return configuration.name in self.where and any(
            fnmatchcase(name, pattern) for pattern in self.tests
        )


def skip(tests: str, where: Iterable[str], says: str, kind: Kind, why: str) -> Expected:
    """An entry for skipped tests; `tests` are patterns with spaces between them."""
    return Expected("skip", tuple(tests.split()), frozenset(where), says, kind, why)


def defect(tests: str, where: Iterable[str], complaints: Iterable[str], why: str) -> Expected:
    """An entry for tests that fail with any disk of this kind, by a mistake of their own.

    `complaints` are all that such a test must complain of, word by word.
    """
    says = re.escape("\n".join(complaints))
    return Expected("fail", tuple(tests.split()), frozenset(where), says, Kind.SUITE, why)


_THIN_BLOCKS = ALL - {"512n", "4Kn", "thick"}  # more than one block in a block of the medium


def _access(tests: str, where: str, sense: str, lines: tuple[int, ...], why: str) -> Expected:
    """ProutReserve.Access* where the holder's write, or another registrant's, is refused."""
    asserts = (f"test_prout_reserve_access.c:{line}  - CU_ASSERT_EQUAL(0,ret)" for line in lines)
    says = f"WRITE10 command: failed with sense: SENSE KEY:{sense}"
    return defect(tests, {where}, (says, *asserts), why)


_PROTECTED = "sense key DATA PROTECTION(0x07) / ASCQ WRITE_PROTECTED(0x2700)"
_HOLDER_WRITES = "ProutReserve.AccessEA ProutReserve.AccessWE"
_REGISTRANTS_WRITE = "ProutReserve.Access??RO ProutReserve.Access??AR"
_SHORT_DATA = (
    "writes a block with 512 bytes of data whatever the block length:"
    " test_prout_reserve_access.c:77 and :91, by verify_write_works of iscsi-support.c"
)
_UNASKED_ACCESS = (
    "writes, and asks neither whether it may (CHECK_FOR_DATALOSS) nor whether the disk is write"
    " protected: test_prout_reserve_access.c:77 and :91, by verify_write_works of iscsi-support.c"
)
_NOT_ZERO = (
    "Blocks did not read back as zero",
    "test_writesame10_unmap_until_end.c:71  - "
    'CU_FAIL("[FAILED] Blocks did not read back " "as zero")',
)
_RESET_UNANSWERED = "test_async_lu_reset_simple.c:157  - CU_ASSERT_EQUAL(reconnect_succeeded,1)"

EXPECTED: tuple[Expected, ...] = (
    # what the disk is not
    skip(
        "NoMedia.* PreventAllow.* StartStopUnit.*",
        ALL - {"removable"},
        r"(LUN|Logical unit) is not removable\. Skipping test\.|Media is not removable\.",
        Kind.DISK,
        "the medium is not removable",
    ),
    skip(
        "ReadOnly.ReadOnlySBC",
        ALL - {"protected"},
        r"Logical unit is not write-protected\. Skipping test\.",
        Kind.DISK,
        "the disk is not write protected",
    ),
    skip(
        " ".join(BY_NAME["protected"].kept_from_writing),
        {"protected"},
        r"--dataloss flag is not set\. Skipping test\.",
        Kind.DISK,
        "the disk is write protected; the suite is not allowed to write",
    ),
    skip(
        "Sanitize.*",
        ALL - {"complete"},
        r"--allow-sanitize flag is not set\. Skipping test\.",
        Kind.DISK,
        "the disk is not given up to be sanitized, for which the suite wants -S",
    ),
    skip(
        "MultipathIO.*",
        ALL - {"two paths", "two groups"},
        r"Multipath unavailable\. Skipping test",
        Kind.DISK,
        "there is one path to the disk",
    ),
    skip(
        "CompareAndWrite.InvalidDataOutSize WriteSame1?.UnmapUnaligned"
        " WriteSame1?.InvalidDataOutSize",
        {"512n", "4Kn"},
        r"LBPPB < 2\. Skipping test",
        Kind.DISK,
        "a block of the medium is one logical block",
    ),
    skip(
        "CompareAndWrite.InvalidDataOutSize GetLBAStatus.UnmapSingle Inquiry.BlockLimits"
        " Unmap.Simple Unmap.ZeroBlocks WriteSame1?.Unmap WriteSame1?.UnmapUnaligned"
        " WriteSame1?.UnmapUntilEnd WriteSame1?.InvalidDataOutSize",
        {"thick"},
        r"Logical unit is fully provisioned\. Skipping test",
        Kind.DISK,
        "the disk is not thin",
    ),
    skip(
        "WriteAtomic16.*",
        ALL - {"complete"},
        r"WRITEATOMIC16 is not implemented\.",
        Kind.DISK,
        "the unit does not promise that a write is stored wholly or not at all",
    ),
    skip(
        "WriteAtomic16.VPD",
        {"complete"},
        r"No alignment restrictions on this LUN\nNo granularity restrictions on this LUN",
        Kind.DISK,
        "atomic writes have no alignment and no granularity that could be violated",
    ),
    skip(
        "Unmap.VPD",
        {"thick"},
        r"UNMAP is not implemented\.",
        Kind.DISK,
        "the disk is not thin; the rest of the test runs: that VPD page B2 says so, too",
    ),
    # where the suite leaves itself out
    skip(
        "Prefetch10.BeyondEol Read6.BeyondEol Read10.BeyondEol Read12.BeyondEol"
        " Verify10.BeyondEol Verify12.BeyondEol Write10.BeyondEol Write12.BeyondEol"
        " Write12.ZeroBlocks WriteSame10.BeyondEol WriteSame10.ZeroBlocks"
        " WriteVerify10.BeyondEol WriteVerify10.ZeroBlocks WriteVerify12.BeyondEol"
        " WriteVerify12.ZeroBlocks",
        {"3 TiB"},
        re.escape(SILENT),
        Kind.CLAUSE,
        "every LBA that the CDB can hold is on the disk (SBC-4: 21 or 32 bits)",
    ),
    # mistakes of the suite
    _access(_HOLDER_WRITES, "4Kn", "ILLEGAL_REQUEST(5) ASCQ:(null)(0x0e03)", (77,), _SHORT_DATA),
    _access(
        _REGISTRANTS_WRITE, "4Kn", "ILLEGAL_REQUEST(5) ASCQ:(null)(0x0e03)", (77, 91), _SHORT_DATA
    ),
    _access(
        _HOLDER_WRITES,
        "protected",
        "DATA PROTECTION(7) ASCQ:WRITE_PROTECTED(0x2700)",
        (77,),
        _UNASKED_ACCESS,
    ),
    _access(
        _REGISTRANTS_WRITE,
        "protected",
        "DATA PROTECTION(7) ASCQ:WRITE_PROTECTED(0x2700)",
        (77, 91),
        _UNASKED_ACCESS,
    ),
    *(
        defect(
            f"WriteVerify{length}.Dpo",
            {"protected"},
            (
                f"WRITEVERIFY{length} command failed with status 2 / {_PROTECTED}",
                f"test_writeverify{length}_dpo.c:{line}  - CU_ASSERT_EQUAL(_r,0)",
            ),
            "writes, and asks neither whether it may (CHECK_FOR_DATALOSS) nor whether the disk is"
            " write protected: test_writeverify10_dpo.c:65, test_writeverify12_dpo.c:65,"
            " test_writeverify16_dpo.c:66",
        )
        for length, line in ((10, 65), (12, 65), (16, 66))
    ),
    defect(
        "GetLBAStatus.UnmapSingle",
        _THIN_BLOCKS - {"protected"},
        (
            "test_get_lba_status_unmap_single.c:135  - "
            'CU_FAIL("[FAILED] GETLBASTATUS command: " "lba offset in first descriptor does not "'
            ' "match request.")',
        ),
        "asks for LBA i + 1 and wants the answer to begin at i + (blocks in a block of the medium):"
        " test_get_lba_status_unmap_single.c:135",
    ),
    defect(
        "WriteSame10.UnmapUntilEnd",
        ALL - {"thick", "protected", "3 TiB"},
        _NOT_ZERO,
        "gives a block of FFh with the UNMAP bit and wants zeros; by SBC-4 4.7.3.4.4 data that is"
        " not what unmapped blocks read as is written: test_writesame10_unmap_until_end.c:71",
    ),
    defect(
        "WriteSame10.UnmapUntilEnd",
        {"3 TiB"},
        (
            "WRITESAME10 command failed with status 2 / sense key ILLEGAL_REQUEST(0x05)"
            " / ASCQ INVALID_FIELD_IN_CDB(0x2400)",
            _NOT_ZERO[0],
            "test_writesame10_unmap_until_end.c:57  - CU_ASSERT_EQUAL(_r,0)",
            _NOT_ZERO[1],
        ),
        "puts the last LBA of 3 TiB into the 32 bits of WRITE(10) and WRITE SAME(10):"
        " test_writesame10_unmap_until_end.c:57",
    ),
    *(
        defect(
            f"Verify{length}.ZeroBlocks",
            {"3 TiB"},
            (
                f"VERIFY{length} successful but should have failed with"
                " ILLEGAL_REQUEST(0x05)/LBA_OUT_OF_RANGE(0x2100)",
                f"test_verify{length}_0blocks.c:33  - CU_ASSERT_EQUAL(_r,0)",
                f"test_verify{length}_0blocks.c:43  - CU_ASSERT_EQUAL(_r,0)",
            ),
            "wants LBA 2^31 and 2^32 - 1 to be past the end of 3 TiB, where others look at the"
            " size: test_verify10_0blocks.c:33 and :43, test_verify12_0blocks.c:33 and :43",
        )
        for length in (10, 12)
    ),
    # What it frees too early it may still use: it may then end in any way.
    Expected(
        "fail",
        ("iSCSITMF.LUNResetSimpleAsync",),
        ALL - {"protected"},
        rf"{re.escape(_RESET_UNANSWERED)}(\nended with -\d+ before its summary)?"
        r"|ended with -\d+ before its summary",
        Kind.SUITE,
        "asks right after it has queued the reset whether the answer has come, then frees what it"
        " still uses: test_async_lu_reset_simple.c:157",
        race=True,
    ),
)


def short(test: str) -> str:
    """SUITE.TEST of FAMILY.SUITE.TEST: no two families have a suite of the same name."""
    return test.partition(".")[2]


def expected(configuration: Configuration, test: str) -> Expected | None:
    """The entry about a test in a configuration; a table with two is an error."""
    found = [entry for entry in EXPECTED if entry.covers(configuration, short(test))]
    assert len(found) < 2, f"{configuration}, {test}: {len(found)} entries"
    return found[0] if found else None


def objection(configuration: Configuration, test: str, result: Result) -> str | None:
    """What is wrong with a result; None if it is a pass, or as expected."""
    entry = expected(configuration, test)
    if entry is None:
        return None if result.outcome == "pass" else f"{result.outcome}: {result.reason}"
    if entry.race and result.outcome == "pass":
        return None
    if result.outcome != entry.outcome:
        return f"{result.outcome} instead of the listed {entry.outcome}: {result.reason or 'stale'}"
    if re.fullmatch(entry.says, "\n".join(result.reasons)):
        return None
    return f"{result.outcome} for another reason: {result.reason}"
