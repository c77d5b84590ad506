"""What Linux, Windows and VMware will miss on a disk, and why: a table of rules.

A rule looks at what was gathered and says what it found, or nothing. ERROR: something that people
rely on fails, or data is in danger. WARNING: a feature is lost. NOTE: good to know.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from userdisk.scsi import inquiry, third_party_copy
from userdisk.scsitool.items import NOT_ZERO
from userdisk.scsitool.layout import Listing, warnings_of
from userdisk.scsitool.snapshot import Snapshot, gather

__all__ = ["RULES", "Finding", "Rule", "Severity", "findings", "gather", "listing"]


class Severity(enum.IntEnum):
    """How much it matters; the worst first."""

    ERROR = 0
    WARNING = 1
    NOTE = 2


class Rule(NamedTuple):
    """One rule: who misses something, why, and what is looked for."""

    name: str
    severity: Severity
    who: str
    why: str
    check: Callable[[Snapshot], str | None]


class Finding(NamedTuple):
    """What a rule has found."""

    rule: Rule
    found: str


_B0, _B1, _B2 = inquiry.BLOCK_LIMITS_PAGE, inquiry.CHARACTERISTICS_PAGE, inquiry.PROVISIONING_PAGE
_T10, _EUI64, _NAA, _PORT, _GROUP, _NAME = 1, 2, 3, 4, 5, 8  # designator types
_FULL_B0, _FULL_B1, _FULL_B2 = 0x3C, 0x3C, 0x04  # PAGE LENGTH
_ESXI_GRANULARITY = 1 << 20  # bytes
_PAGE = 4096  # bytes of memory
_FEWEST_BITS = 8  # of a NAA name, without its first digit


def _no(condition: object, text: str) -> str | None:
    return text if condition else None


def _lacks(name: str) -> Callable[[Snapshot], str | None]:
    """The device tells its commands, and this is none of them."""
    return lambda disk: _no(disk.has(name) is False, f"there is no {name}")


def _lacks_page(code: int) -> Callable[[Snapshot], str | None]:
    return lambda disk: _no(code not in disk.vpd, f"there is no VPD page {code:02X}h")


def _kinds(disk: Snapshot) -> set[int]:
    """Types of the logical unit's own designators."""
    return {each.kind for each in disk.designators if each.association == 0 and any(each.value)}


def _short_page(code: int, length: int) -> Callable[[Snapshot], str | None]:
    def check(disk: Snapshot) -> str | None:
        has = disk.number(code, "PAGE LENGTH (n-3)")
        return _no(code in disk.vpd and has < length, f"page {code:02X}h has {4 + has} bytes")

    return check


def _order(disk: Snapshot) -> str | None:
    codes = list(disk.listed or ())
    wrong = codes[:1] != [0] or any(a >= b for a, b in itertools.pairwise(codes))
    text = " ".join(f"{code:02X}" for code in codes) or "nothing"
    return _no(disk.listed is not None and wrong, f"page 00h lists {text}")


def _unmap_limits(disk: Snapshot) -> str | None:
    if not disk.thin or not disk.number(_B2, "LBPU") or _B0 not in disk.vpd:
        return None
    names = ("MAXIMUM UNMAP LBA COUNT", "MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT")
    zero = [name for name in names if not disk.number(_B0, name)]
    return _no(zero, f"{' and '.join(zero)} is 0, though the disk is thin and LBPU is 1")


def _granularity(disk: Snapshot) -> str | None:
    value = disk.number(_B0, "OPTIMAL UNMAP GRANULARITY")
    if not disk.thin or _B0 not in disk.vpd:
        return None
    if not value:
        return "OPTIMAL UNMAP GRANULARITY is 0"
    size = value * disk.block_length
    return _no(size > _ESXI_GRANULARITY, f"OPTIMAL UNMAP GRANULARITY is {size >> 10} KiB")


def _transfer(disk: Snapshot) -> str | None:
    optimal = disk.number(_B0, "OPTIMAL TRANSFER LENGTH")
    most = disk.number(_B0, "MAXIMUM TRANSFER LENGTH")
    name = "LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT"
    physical = 1 << ((disk.capacity.number(name) or 0) if disk.capacity else 0)
    if not optimal:
        return None
    if optimal % physical:
        return f"OPTIMAL TRANSFER LENGTH {optimal} is no multiple of the physical block"
    if optimal * disk.block_length < _PAGE or optimal > 0xFFFF:
        return f"OPTIMAL TRANSFER LENGTH {optimal} is below 4 KiB, or above 65535 blocks"
    return _no(most and optimal > most, "OPTIMAL TRANSFER LENGTH is above the MAXIMUM")


def _lock(disk: Snapshot) -> str | None:
    """No atomic test and set."""
    if disk.has("COMPARE AND WRITE") is False:
        return "there is no COMPARE AND WRITE"
    missing = _B0 in disk.vpd and not disk.number(_B0, "MAXIMUM COMPARE AND WRITE LENGTH")
    return _no(missing, "MAXIMUM COMPARE AND WRITE LENGTH is 0")


def _no_lock_at_all(disk: Snapshot) -> str | None:
    none = _lock(disk) and disk.has("RESERVE(6)") is False
    return _no(none, "there is neither COMPARE AND WRITE nor RESERVE(6)")


def _flush(disk: Snapshot) -> str | None:
    cached = disk.caching is not None and disk.caching.number("WCE")
    none = disk.has("SYNCHRONIZE CACHE(10)") is False
    return _no(cached and none, "WCE is 1, and there is no SYNCHRONIZE CACHE(10)")


def _fua(disk: Snapshot) -> str | None:
    cached = disk.caching is not None and disk.caching.number("WCE")
    without = disk.mode_header is not None and not disk.mode_header.number("DPOFUA")
    return _no(cached and without, "WCE is 1 and DPOFUA is 0")


def _cache_switch(disk: Snapshot) -> str | None:
    cached = disk.caching is not None and disk.caching.number("WCE")
    changeable = disk.changeable_caching
    fixed = changeable is not None and not changeable.number("WCE")
    return _no(cached and fixed, "WCE is 1 and not changeable")


def _alua(disk: Snapshot) -> str | None:
    if not disk.inquiry.number("TPGS"):
        return None
    if disk.groups is None:
        return "TPGS says that there are target port groups, and they are not reported"
    ports = {each.kind for each in disk.designators if each.association == 1}
    missing = not {_PORT, _GROUP} <= ports
    return _no(missing, "page 83h has no relative target port or target port group")


def _zeroes(disk: Snapshot) -> str | None:
    if not disk.thin or _B2 not in disk.vpd or disk.capacity is None:
        return None
    there, here = disk.capacity.number("LBPRZ"), disk.number(_B2, "LBPRZ")
    return _no(bool(there) != (here == 1), f"LBPRZ is {there} in READ CAPACITY(16), {here} in B2h")


def _mapping(disk: Snapshot) -> str | None:
    says = disk.number(_B2, "LBPU") or disk.number(_B2, "LBPWS")
    return _no(says and not disk.thin, "page B2h offers to unmap, READ CAPACITY(16) has LBPME 0")


def _block_length(disk: Snapshot) -> str | None:
    length = disk.block_length
    return _no(length not in (512, 1024, 2048, 4096), f"a logical block has {length} bytes")


def _odx_order(disk: Snapshot) -> str | None:
    page = disk.vpd.get(third_party_copy.PAGE)
    kinds = [] if page is None else page.numbers("THIRD-PARTY COPY DESCRIPTOR TYPE")
    return _no(kinds and kinds[0], f"the first descriptor of page 8Fh has type {kinds[:1]}")


def _lying(disk: Snapshot) -> str | None:
    sections = [disk.inquiry, *disk.vpd.values()]
    sections += [each for each in (disk.capacity, disk.caching, disk.mode_header) if each]
    wrong = [
        f"{each.title}: {text}"
        for each in sections
        for text in warnings_of(each)
        if NOT_ZERO not in text  # what is reserved here may be used in a later standard
    ]
    return _no(wrong, "; ".join(wrong[:4]) + ("; ..." if len(wrong) > 4 else ""))


def _reserve_types(disk: Snapshot) -> str | None:
    abilities = disk.reserve_capabilities
    if abilities is None or not abilities.number("TMV"):
        return None
    missing = [name for name in ("WR_EX_RO", "EX_AC_RO") if not abilities.number(name)]
    return _no(missing, f"there are no reservations of type {', '.join(missing)}")


def _reserve(disk: Snapshot) -> str | None:
    none = disk.has("PERSISTENT RESERVE OUT (REGISTER)") is False or not disk.reserve_keys
    return _no(none, "there are no persistent reservations")


def _weak_identity(disk: Snapshot) -> str | None:
    """A name with nearly no digits but zero was not made for this disk alone."""
    for each in disk.designators:
        digits = int.from_bytes(each.value, "big") & (1 << 8 * len(each.value) - 4) - 1
        if each.association == 0 and each.kind == _NAA and digits.bit_count() < _FEWEST_BITS:
            return f"the NAA name is {each.value.hex()}"
    return None


def _ports(disk: Snapshot) -> str | None:
    ports = {each.kind for each in disk.designators if each.association == 1}
    missing = disk.designators and _PORT not in ports
    return _no(missing, "page 83h does not name the target port")


def _claimed_lock(disk: Snapshot) -> str | None:
    most = disk.number(_B0, "MAXIMUM COMPARE AND WRITE LENGTH")
    wrong = most and disk.has("COMPARE AND WRITE") is False
    return _no(wrong, f"page B0h offers COMPARE AND WRITE of {most} blocks, and there is none")


def _with_reservations(name: str) -> Callable[[Snapshot], str | None]:
    lacks = _lacks(f"PERSISTENT RESERVE {name}")
    return lambda disk: lacks(disk) if disk.reserve_keys else None


def _version(low: int, high: int) -> Callable[[Snapshot], str | None]:
    def check(disk: Snapshot) -> str | None:
        version = disk.inquiry.number("VERSION") or 0
        return _no(low <= version <= high, f"VERSION is {version}")

    return check


def _thin_without(check: Callable[[Snapshot], str | None]) -> Callable[[Snapshot], str | None]:
    return lambda disk: check(disk) if disk.thin else None


def _only_rotating(disk: Snapshot) -> str | None:
    rate = disk.number(_B1, "MEDIUM ROTATION RATE")
    return _no(_B1 in disk.vpd and not rate, "MEDIUM ROTATION RATE is not reported")


_ERROR, _WARNING, _NOTE = Severity
_L, _W, _V = "Linux", "Windows", "VMware"
_ALL = "Linux, Windows, VMware"

# fmt: off
RULES: tuple[Rule, ...] = (
    Rule("block-length", _ERROR, _ALL, "Linux makes a disk of size 0 of it, the others none",
         _block_length),
    Rule("flush", _ERROR, _ALL, "what was written cannot be made durable", _flush),
    Rule("page-order", _ERROR, _W,
         "a list that does not begin with 00 and ascend is not used: no TRIM, no SSD", _order),
    Rule("no-identity", _ERROR, _ALL,
         "several paths, or two disks, cannot be told apart",
         lambda disk: _no(not _kinds(disk), "page 83h has no designator of the logical unit")),
    Rule("unmap-limits", _ERROR, _W, "TRIM fails, formatting may hang; Linux does not use UNMAP",
         _unmap_limits),
    Rule("unmap-missing", _ERROR, _ALL, "LBPU is 1, so UNMAP is sent, and fails",
         lambda disk: _lacks("UNMAP")(disk) if disk.number(_B2, "LBPU") else None),
    Rule("no-lock", _ERROR, _V, "VMFS cannot be made", _no_lock_at_all),
    Rule("lock-claimed", _ERROR, _V, "locks are tried with it, and fail", _claimed_lock),
    Rule("alua", _ERROR, _L, "the ALUA handler gives the path up", _alua),
    Rule("lun-0", _WARNING, _L, "a scan begins there",
         lambda disk: _no(disk.luns is not None and 0 not in disk.luns, "there is no LUN 0")),
    Rule("lengths", _WARNING, _ALL, "initiators that trust the length read too little, or nothing",
         _lying),
    Rule("old-version", _WARNING, _L,
         "before SPC-3 Linux asks neither for supported commands nor first for READ CAPACITY(16)",
         _version(0, 4)),
    Rule("queueing", _WARNING, _L, "one command at a time",
         lambda disk: _no(not disk.inquiry.number("CMDQUE"), "CMDQUE is 0")),
    Rule("pages", _WARNING, _ALL, "no other page is asked for",
         lambda disk: _no(disk.listed is None, "there is no VPD page 00h")),
    Rule("naa", _WARNING, _ALL,
         "Linux has no wwn- link, VMware no naa. name, Windows fails cluster validation",
         lambda disk: _no(_kinds(disk) and not _kinds(disk) & {_NAA, _EUI64, _NAME},
                          "page 83h has no NAA, EUI-64 or SCSI name")),
    Rule("weak-identity", _WARNING, _ALL,
         "another server's disk may have the same name, and be taken for a path to this one",
         _weak_identity),
    Rule("request-sense", _WARNING, _ALL, "what state it is in cannot be asked for",
         lambda disk: _no(disk.sense_status, "REQUEST SENSE ends with CHECK CONDITION")),
    Rule("serial", _WARNING, _W, "the disk has no serial number", _lacks_page(0x80)),
    Rule("limits", _WARNING, _ALL, "no limits of transfers and no UNMAP are known",
         _lacks_page(_B0)),
    Rule("limits-short", _WARNING, "Linux, Windows", "UNMAP needs the page with 64 bytes",
         _short_page(_B0, _FULL_B0)),
    Rule("characteristics", _WARNING, "Linux, Windows",
         "Linux takes it for a rotating disk, Windows does not know it as an SSD",
         _lacks_page(_B1)),
    Rule("characteristics-length", _WARNING, _W, "a page of another length than 64 is ignored",
         _short_page(_B1, _FULL_B1)),
    Rule("rotation", _WARNING, "Linux, Windows",
         "without a rate it counts as rotating", _only_rotating),
    Rule("no-unmap", _WARNING, _ALL, "deleted space is never given back: no discard, no TRIM",
         lambda disk: _no(not disk.thin and not disk.number(_B2, "LBPU"), "the disk is not thin")),
    Rule("provisioning", _WARNING, _W, "TRIM needs page B2h", _thin_without(_lacks_page(_B2))),
    Rule("provisioning-short", _WARNING, "Linux, Windows", "a shorter page is not used",
         _short_page(_B2, _FULL_B2)),
    Rule("unmap-bit", _WARNING, _W, "TRIM is on only with LBPU",
         lambda disk: _no(disk.thin and _B2 in disk.vpd and not disk.number(_B2, "LBPU"),
                          "the disk is thin, and LBPU is 0")),
    Rule("mapping", _WARNING, _L, "without LBPME nothing is discarded", _mapping),
    Rule("zeroes", _WARNING, _L, "what unmapped blocks read as is not trusted", _zeroes),
    Rule("granularity", _WARNING, "VMware, Windows",
         "VMFS reclaims only up to 1 MiB; Windows consolidates no slabs without it",
         _granularity),
    Rule("capacity-16", _WARNING, _ALL, "above 2 TiB, thin or with 4 KiB physical blocks: unknown",
         lambda disk: _no(disk.capacity is None, "there is no READ CAPACITY(16)")),
    Rule("caching", _WARNING, _ALL,
         "it is assumed to write through: nothing is flushed",
         lambda disk: _no(disk.caching is None, "there is no caching mode page")),
    Rule("fua", _WARNING, _L, "each write with FUA becomes a write and a flush", _fua),
    Rule("compare-and-write", _WARNING, _V, "locks reserve the whole disk instead of a block",
         _lock),
    Rule("write-same", _WARNING, "Linux, VMware", "zeroes are sent as data",
         _lacks("WRITE SAME(16)")),
    Rule("verify", _WARNING, _W, "a full format and chkdsk /r fail", _lacks("VERIFY(10)")),
    Rule("reservations", _WARNING, _ALL, "no clusters: neither fencing nor failover", _reserve),
    Rule("reservation-types", _WARNING, _ALL, "clusters use reservations for registrants only",
         _reserve_types),
    Rule("preempt-and-abort", _WARNING, _L, "a fenced node's commands under way are not stopped",
         _with_reservations("OUT (PREEMPT AND ABORT)")),
    Rule("full-status", _NOTE, _L, "who holds which key cannot be shown",
         _with_reservations("IN (READ FULL STATUS)")),
    Rule("ports", _NOTE, "Linux, Windows", "paths through several ports cannot be told apart",
         _ports),
    Rule("log-sense", _NOTE, _W, "how full a thin disk is cannot be asked for",
         _thin_without(_lacks("LOG SENSE"))),
    Rule("lba-status", _WARNING, _W, "no slab consolidation, and QEMU does not see holes",
         _thin_without(_lacks("GET LBA STATUS"))),
    Rule("copy", _NOTE, _V, "clones are read and written by the host",
         _lacks("EXTENDED COPY(LID1)")),
    Rule("odx", _NOTE, _W, "copies go through the host (no ODX)",
         _lacks_page(third_party_copy.PAGE)),
    Rule("odx-order", _WARNING, _W, "ODX needs the token limits (type 0) first", _odx_order),
    Rule("optimal-transfer", _NOTE, _L, "the value is not used", _transfer),
    Rule("commands", _NOTE, _L, "WRITE SAME is tried, and switched off when it fails",
         lambda disk: _no(disk.commands is None, "there is no REPORT SUPPORTED OPERATION CODES")),
    Rule("one-command", _NOTE, _L, "whether there is WRITE SAME is asked for command by command",
         lambda disk: _no(disk.commands is not None and not disk.one_command,
                          "single commands cannot be asked for")),
    Rule("new-version", _NOTE, _L, "from SPC-5 on Linux asks for command duration limits too",
         _version(7, 255)),
    Rule("reservations-kept", _NOTE, "Windows, Linux", "reservations end with the target",
         lambda disk: _no(disk.reserve_capabilities is not None
                          and not disk.reserve_capabilities.number("PTPL_C"), "PTPL_C is 0")),
    Rule("cache-switch", _NOTE, _W, "the policy of the write cache cannot be changed",
         _cache_switch),
    Rule("4k", _NOTE, _V, "support for disks with blocks of 4096 bytes is limited",
         lambda disk: _no(disk.block_length == 4096, "a logical block has 4096 bytes")),
    Rule("read-only", _NOTE, _ALL, "the disk can only be read",
         lambda disk: _no(disk.mode_header is not None and disk.mode_header.number("WP"),
                          "WP is 1")),
)
# fmt: on


def findings(disk: Snapshot) -> list[Finding]:
    """What all rules have found, the worst first."""
    return sorted(_found(disk), key=lambda finding: finding.rule.severity)


def _found(disk: Snapshot) -> Iterator[Finding]:
    for rule in RULES:
        found = rule.check(disk)
        if found is not None:
            yield Finding(rule, found)


def listing(found: Sequence[Finding]) -> Listing:
    """Findings as a list."""
    rows = [
        (each.rule.severity.name.lower(), each.rule.name, each.rule.who, each.found, each.rule.why)
        for each in found
    ]
    heading = ("SEVERITY", "RULE", "WHO", "FOUND", "WHY")
    return Listing(
        "Lint",
        heading,
        rows,
        empty="nothing: this disk has all that they look for",
        sentence="{SEVERITY}: {FOUND} [{RULE}]\n    {WHO}: {WHY}",
    )
