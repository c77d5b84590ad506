"""The table of commands: what each asks a device, and how the answer is laid out."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from userdisk.errors import UsageError, UserdiskError
from userdisk.scsi import cdb, inquiry, log, mode
from userdisk.scsi.fields import Form
from userdisk.scsitool import lint, lists, pages, parameters, raw
from userdisk.scsitool.asker import Asker
from userdisk.scsitool.items import Item, Section
from userdisk.scsitool.layout import Listing, Part
from userdisk.scsitool.lists import Run
from userdisk.scsitool.words import sense_words

_MOST_RUNS = 100_000  # of a disk's LBA status
_MAX_U32 = (1 << 32) - 1
_MAX_LOG_PAGES = 64
_MOST_UNMAPS = 100_000  # commands


@dataclass(frozen=True, slots=True)
class Options:
    """What a person has said besides command and device; each command uses some."""

    page: str = ""
    control: int = mode.CURRENT
    lba: int = 0
    blocks: int | None = None
    what: str = ""
    write: bool = False
    command: bytes = b""
    read_length: int = 0
    data_out: bytes = b""


Asking = Callable[[Asker, Options], Sequence[Part]]


class Command(NamedTuple):
    """One command.

    `takes` names its options; `check` raises `UsageError` for what they must not be, before a
    device is opened; `status` is the exit status.
    """

    name: str
    help: str
    run: Asking
    takes: Sequence[str] = ()
    check: Callable[[Options], None] = lambda options: None
    status: Callable[[Sequence[Part]], int] = lambda parts: 0


# -- who the device is -------------------------------------------------------------------------


def _luns(asker: Asker, options: Options) -> Sequence[Part]:
    return pages.lun_list(asker.luns())


def _inquiry(asker: Asker, options: Options) -> Sequence[Part]:
    return pages.standard_inquiry(asker.inquiry())


def _page(code: int) -> Asking:
    return lambda asker, options: pages.vpd(code, asker.vpd(code))


def _vpd(asker: Asker, options: Options) -> Sequence[Part]:
    code = pages.page_code(options.page)
    return pages.vpd(code, asker.vpd(code))


def _capacity(asker: Asker, options: Options) -> Sequence[Part]:
    return pages.short_capacity(asker.capacity_10())


def _capacity_16(asker: Asker, options: Options) -> Sequence[Part]:
    return pages.long_capacity(asker.capacity_16())


# -- modes, logs, commands ---------------------------------------------------------------------


def _mode_sense(page: int) -> Asking:
    def run(asker: Asker, options: Options) -> Sequence[Part]:
        return parameters.mode_data(asker.mode_6(page, options.control), short=True)

    return run


def _modes(asker: Asker, options: Options) -> Sequence[Part]:
    """All pages with their subpages; a device without subpages is asked for its pages."""
    data = asker.optional(lambda: asker.mode_10(mode.ALL_PAGES, mode.ALL_SUBPAGES, options.control))
    if data is None:
        data = asker.mode_10(mode.ALL_PAGES, 0, options.control)
    return parameters.mode_data(data, short=False)


def _logs(asker: Asker, options: Options) -> Sequence[Part]:
    """One page, or those that the device lists."""
    if options.page:
        asked = raw.parse_hex(options.page.removesuffix("h"))
        if len(asked) != 1 or asked[0] > 0x3F:
            raise UsageError(f"{options.page}: a log page is a hexadecimal number up to 3f")
        return parameters.log_page(asker.log(asked[0]))
    listed = asker.log(log.SUPPORTED_PAGES)
    found: list[Part] = [*parameters.log_page(listed)]
    codes = [code & 0x3F for code in listed[4 : 4 + int.from_bytes(listed[2:4], "big")]]
    for code in dict.fromkeys(codes[:_MAX_LOG_PAGES]):
        if code != log.SUPPORTED_PAGES:
            data = asker.optional(lambda code=code: asker.log(code))  # type: ignore[misc]
            found += parameters.log_page(data) if data is not None else []
    return found


def _opcodes(asker: Asker, options: Options) -> Sequence[Part]:
    data = asker.optional(lambda: asker.opcodes(timeouts=True))
    return [lists.command_list(asker.opcodes(timeouts=False) if data is None else data)]


def _port_groups(asker: Asker, options: Options) -> Sequence[Part]:
    return [lists.group_list(asker.port_groups())]


def _sense(asker: Asker, options: Options) -> Sequence[Part]:
    data = asker.request_sense()
    words = Listing("In words", ("SENSE",), [(sense_words(data),)], sentence="{SENSE}")
    return [words, *parameters.sense_data(data)]


# -- persistent reservations -------------------------------------------------------------------

_RESERVE_IN: dict[str, tuple[str, Callable[[bytes], list[Section]]]] = {
    "keys": ("READ KEYS", parameters.reservation_keys),
    "reservation": ("READ RESERVATION", parameters.current_reservation),
    "full-status": ("READ FULL STATUS", parameters.full_status),
    "capabilities": ("REPORT CAPABILITIES", parameters.capabilities),
}
RESERVE_IN = tuple(_RESERVE_IN)


def _pr(asker: Asker, options: Options) -> Sequence[Part]:
    """One of the four, or all with a summary first."""
    if options.what:
        action, read = _RESERVE_IN[options.what]
        return read(asker.reserve_in(action))
    found: dict[str, list[Section]] = {}
    for name, (action, read) in _RESERVE_IN.items():
        if name in ("keys", "reservation"):
            found[name] = read(asker.reserve_in(action))
        else:
            data = asker.optional(lambda action=action: asker.reserve_in(action))  # type: ignore[misc]
            found[name] = [] if data is None else read(data)
    summary = lists.reservation_words(found["keys"][0], found["reservation"][0])
    return [summary, *(section for sections in found.values() for section in sections)]


# -- blocks ------------------------------------------------------------------------------------


def _size(asker: Asker) -> int:
    """Blocks of the device."""
    data = asker.optional(asker.capacity_16)
    if data is not None and len(data) >= 12:
        return int.from_bytes(data[:8], "big") + 1
    return int.from_bytes(asker.capacity_10()[:4], "big") + 1


def _range(asker: Asker, options: Options) -> tuple[int, int]:
    """First block, and the one behind the last; by default to the end of the disk."""
    size = _size(asker)
    end = size if options.blocks is None else options.lba + options.blocks
    if not 0 <= options.lba < size or end > size:
        raise UsageError(f"blocks {options.lba} to {end - 1}: the disk has {size}")
    return options.lba, end


def _lba_status(asker: Asker, options: Options) -> Sequence[Part]:
    lba, end = _range(asker, options)
    found: list[Run] = []
    warnings: list[str] = []
    while lba < end:
        before = lba
        for run in lists.runs(asker.lba_status(lba)):
            if run.lba > lba or run.lba + run.blocks <= lba or lba >= end:
                continue
            blocks = min(run.lba + run.blocks, end) - lba
            _append(found, Run(lba, blocks, run.state))
            lba += blocks
        if lba == before:
            warnings.append(f"the device says nothing of block {lba} and what follows")
            break
        if len(found) >= _MOST_RUNS:
            warnings.append(f"stopped at block {lba}: {_MOST_RUNS} runs are enough")
            break
    return [lists.run_list(found, warnings)]


def _append(found: list[Run], run: Run) -> None:
    if found and found[-1].state == run.state:
        run = Run(found[-1].lba, found.pop().blocks + run.blocks, run.state)
    found.append(run)


def _check_unmap(options: Options) -> None:
    if not options.write:
        raise UsageError("unmap discards data; add --write if that is what you want")
    if not options.blocks:
        raise UsageError("--blocks: unmap needs a number of blocks, 1 or more")


def _unmap(asker: Asker, options: Options) -> Sequence[Part]:
    """UNMAP in commands that are as long as the block limits page allows."""
    lba, end = _range(asker, options)
    (limits,) = pages.vpd(inquiry.BLOCK_LIMITS_PAGE, asker.vpd(inquiry.BLOCK_LIMITS_PAGE))
    most = limits.number("MAXIMUM UNMAP LBA COUNT") or 0
    if not most:
        raise UserdiskError("the device does not unmap: its block limits page allows no blocks")
    if end - lba > most * _MOST_UNMAPS:
        raise UsageError(
            f"--blocks: the device takes {most} in a command; do at most {most * _MOST_UNMAPS}"
        )
    commands = 0
    for at in range(lba, end, min(most, _MAX_U32)):
        blocks = min(most, end - at)
        data = struct.pack(">HH4xQI4x", 22, 16, at, blocks)
        command = cdb.of("UNMAP").encode({"PARAMETER LIST LENGTH": len(data)})
        asker.run(command, data_out=data)
        commands += 1
    row = (options.lba, end - options.lba, commands)
    return [Listing("Unmapped", ("LOGICAL BLOCK ADDRESS", "BLOCKS", "COMMANDS"), [row])]


def _check_raw(options: Options) -> None:
    raw.check(options.command, options.read_length, options.data_out, write=options.write)


def _raw(asker: Asker, options: Options) -> Sequence[Part]:
    data = asker.run(options.command, options.read_length, options.data_out)
    return [Section("Data", (Item("DATA", 8 * len(data), data, Form.BYTES),) if data else ())]


def _lint(asker: Asker, options: Options) -> Sequence[Part]:
    return [lint.listing(lint.findings(lint.gather(asker)))]


def _lint_status(parts: Sequence[Part]) -> int:
    """1 if there is an error among the findings."""
    rows = [row for part in parts if isinstance(part, Listing) for row in part.rows]
    return int(any(row[0] == "error" for row in rows))


def _commands() -> Iterator[Command]:
    """See `COMMANDS`."""
    yield Command("luns", "The logical units of a target: REPORT LUNS.", _luns)
    yield Command("inquiry", "Standard INQUIRY data.", _inquiry)
    for code in (0x00, 0x80, 0x83, 0xB0, 0xB2):
        title = pages.vpd_title(code)
        yield Command(f"vpd{code:x}", f"VPD page {code:02X}h: {title}.", _page(code))
    yield Command("vpd", "Any VPD page, by its name or hexadecimal number.", _vpd, ("page",))
    yield Command("mode-sense", "All mode pages, by MODE SENSE(6).", _mode_sense(mode.ALL_PAGES),
                  ("control",))  # fmt: skip
    yield Command("mode-caching", "The caching mode page.", _mode_sense(mode.CACHING.code),
                  ("control",))  # fmt: skip
    yield Command("modes", "All mode pages and subpages, by MODE SENSE(10).", _modes, ("control",))
    yield Command("logs", "All log pages, or one.", _logs, ("log_page",))
    yield Command("capacity", "READ CAPACITY(10).", _capacity)
    yield Command("capacity16", "READ CAPACITY(16).", _capacity_16)
    yield Command("opcodes", "Supported commands, and how long they may take.", _opcodes)
    yield Command("sense", "Sense data that waits to be asked for.", _sense)
    yield Command("port-groups", "Target port groups and their states (ALUA).", _port_groups)
    yield Command("pr", "Persistent reservations, all of them or one part.",
                  _pr, ("reserve_in",))  # fmt: skip
    yield Command("lba-status", "Which blocks are mapped.", _lba_status, ("lba", "blocks"))
    yield Command(
        "unmap", "Unmap (discard) blocks.", _unmap, ("lba", "some_blocks", "write"), _check_unmap
    )
    yield Command("raw", "Send a CDB, given in hexadecimal.", _raw,
                  ("cdb", "read", "data_out", "output", "write"), _check_raw)  # fmt: skip
    yield Command(
        "lint", "What Linux, Windows and VMware will miss on this disk.", _lint, status=_lint_status
    )


#: Every command that asks a device, in the order of the help page.
COMMANDS: Sequence[Command] = tuple(_commands())
