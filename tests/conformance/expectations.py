"""What may be skipped, and which failures are excused: each with its reason.

A skip has one of three reasons: a clause of a standard, a defect of the suite, or what the disk
honestly is not. A failure is excused only as a defect of the suite, shown in its source. What
stands here must still happen: an entry that no longer applies fails the run.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tests.conformance.configurations import CONFIGURATIONS, Configuration
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
    that each of the suite's reasons (for a failure: each complaint) must match in full.
    """

    outcome: str
    tests: tuple[str, ...]
    where: frozenset[str]
    says: str
    kind: Kind
    why: str

    def covers(self, configuration: Configuration, name: str) -> bool:
        """Whether it is about this test in this configuration."""
        return configuration.name in self.where and any(
            fnmatchcase(name, pattern) for pattern in self.tests
        )


def skip(tests: str, where: Iterable[str], says: str, kind: Kind, why: str) -> Expected:
    """An entry for skipped tests; `tests` are patterns with spaces between them."""
    return Expected("skip", tuple(tests.split()), frozenset(where), says, kind, why)


def defect(tests: str, where: Iterable[str], says: str, why: str) -> Expected:
    """An entry for tests that fail with any disk of this kind, by a mistake of their own."""
    return Expected("fail", tuple(tests.split()), frozenset(where), says, Kind.SUITE, why)


_THIN_BLOCKS = ALL - {"512n", "4Kn", "thick"}  # more than one block in a block of the medium

#: DATA PROTECT, and what follows from a write that did not take place.
_PROTECTED = (
    r".*WRITE_PROTECTED\(0x2700\).*|.*Should have failed with .*\(0x07\)/\(0x2700\)"
    r"|EXTENDEDCOPY command failed with .*COPY ABORTED\(0x0a\) / ASCQ \(null\)\(0x0d01\)"
    r"|test_\w+\.c:\d+  - .*|\w+( UNMAP)? is not implemented but \w+ is set"
    r"|Data did not read back as .*|Data changed even though there was a miscompare"
    r"|Target did not set .*|Blocks did not read back as zero"
)

EXPECTED: tuple[Expected, ...] = (
    # what the disk is not
    skip(
        "NoMedia.* PreventAllow.* StartStopUnit.*",
        ALL - {"removable"},
        r"LUN is not removable\..*|Logical unit is not removable\..*|Media is not removable\.",
        Kind.DISK,
        "the medium is not removable",
    ),
    skip(
        "ReadOnly.ReadOnlySBC",
        ALL - {"protected"},
        r"Logical unit is not write-protected\..*",
        Kind.DISK,
        "the disk is not write protected",
    ),
    skip(
        "Sanitize.*",
        ALL - {"complete"},
        r"--allow-sanitize flag is not set\..*",
        Kind.DISK,
        "the disk is not given up to be sanitized, for which the suite wants -S",
    ),
    skip(
        "MultipathIO.*",
        ALL - {"two paths", "two groups"},
        r"Multipath unavailable\..*",
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
        r"Logical unit is fully provisioned\..*",
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
        r"No (alignment|granularity) restrictions on this LUN",
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
    defect(
        "CompareAndWrite.* ExtendedCopy.Simple ExtendedCopy.ValidTgtDescr"
        " GetLBAStatus.UnmapSingle OrWrite.[!P]* ProutReserve.Access* ReceiveCopyResults.CopyStatus"
        " Unmap.* Write1?.[!W]* WriteSame1?.[!W]* WriteVerify1?.[!W]* iSCSIResiduals.Write*"
        " iSCSITMF.AbortTaskSimpleAsync",
        {"protected"},
        _PROTECTED,
        "writes and does not ask first whether the disk is write protected, which the suite knows:"
        " only ReadOnly asks (CHECK_FOR_READONLY in iscsi-support.h)",
    ),
    defect(
        "GetLBAStatus.UnmapSingle",
        _THIN_BLOCKS - {"protected"},
        r"test_get_lba_status_unmap_single\.c:135 .*",
        "asks for LBA i + 1 and wants the answer to begin at i + (blocks in a block of the medium):"
        " test_get_lba_status_unmap_single.c:135",
    ),
    defect(
        "WriteSame10.UnmapUntilEnd",
        ALL - {"thick", "protected", "3 TiB"},
        r"Blocks did not read back as zero|test_writesame10_unmap_until_end\.c:71 .*",
        "gives a block of FFh with the UNMAP bit and wants zeros; by SBC-4 4.7.3.4.4 data that is"
        " not what unmapped blocks read as is written: test_writesame10_unmap_until_end.c:71",
    ),
    defect(
        "WriteSame10.UnmapUntilEnd",
        {"3 TiB"},
        r".*INVALID_FIELD_IN_CDB.*|Blocks did not .*|test_writesame10_unmap_until_end\.c:\d+ .*",
        "puts the last LBA of 3 TiB into the 32 bits of WRITE(10) and WRITE SAME(10):"
        " test_writesame10_unmap_until_end.c:57",
    ),
    defect(
        "ProutReserve.Access*",
        {"4Kn"},
        r"WRITE10 command: failed with sense: .*0x0e03.*|test_prout_reserve_access\.c:\d+ .*",
        "writes a block with 512 bytes of data whatever the block length:"
        " test_prout_reserve_access.c:77, by verify_write_works of iscsi-support.c",
    ),
    defect(
        "Verify1[02].ZeroBlocks",
        {"3 TiB"},
        r"VERIFY1[02] successful but should have failed .*|test_verify1[02]_0blocks\.c:\d+ .*",
        "wants LBA 2^31 and 2^32 - 1 to be past the end of 3 TiB, where others look at the size:"
        " test_verify10_0blocks.c:33 and :43, test_verify12_0blocks.c:33 and :43",
    ),
    defect(
        "iSCSITMF.LUNResetSimpleAsync",
        ALL,
        r"test_async_lu_reset_simple\.c:\d+ .*|ended with -6 before its summary",
        "asks right after it has queued the reset whether the answer has come, then frees what it"
        " still uses: test_async_lu_reset_simple.c:157",
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
    if result.outcome != entry.outcome:
        return f"{result.outcome} instead of the listed {entry.outcome}: {result.reason or 'stale'}"
    strange = [each for each in result.reasons if not re.fullmatch(entry.says, each)]
    return f"{result.outcome} for another reason: {'; '.join(strange)}" if strange else None
