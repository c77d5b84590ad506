"""What a device says of itself, gathered once: the pages that rules look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from userdisk.scsi import cdb, inquiry, mode, third_party_copy
from userdisk.scsi.inquiry import Designator
from userdisk.scsi.opcodes import Opcode
from userdisk.scsitool import lists, pages, parameters
from userdisk.scsitool.asker import Asker
from userdisk.scsitool.items import Section
from userdisk.scsitool.lists import Group

_WANTED = (
    inquiry.SERIAL_NUMBER,
    inquiry.IDENTIFICATION,
    inquiry.EXTENDED_PAGE,
    third_party_copy.PAGE,
    inquiry.BLOCK_LIMITS_PAGE,
    inquiry.CHARACTERISTICS_PAGE,
    inquiry.PROVISIONING_PAGE,
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Answers as sections; None or missing: the device has refused to answer."""

    inquiry: Section
    listed: Sequence[int] | None  #: page codes, in the order of VPD page 00h
    vpd: Mapping[int, Section]
    designators: Sequence[Designator]
    short_capacity: Section
    capacity: Section | None
    mode_header: Section | None
    caching: Section | None
    changeable_caching: Section | None
    #: operation code and service action of all commands; None: that is not told
    commands: frozenset[tuple[int, int | None]] | None
    groups: Sequence[Group] | None
    reserve_capabilities: Section | None
    reserve_keys: bool  #: READ KEYS is answered
    luns: Sequence[int] | None
    one_command: bool  #: REPORT SUPPORTED OPERATION CODES is answered for a single command
    sense_status: int  #: of REQUEST SENSE, as the first command

    def has(self, name: str) -> bool | None:
        """Whether there is the command of that name; None: nobody knows."""
        if self.commands is None:
            return None
        known = cdb.of(name)
        return (known.opcode, known.service_action) in self.commands

    def number(self, page: int, name: str) -> int:
        """A field of a VPD page; 0 if it is not there."""
        section = self.vpd.get(page)
        return 0 if section is None else section.number(name) or 0

    @property
    def block_length(self) -> int:
        """Bytes of a logical block."""
        return self.short_capacity.number("LOGICAL BLOCK LENGTH IN BYTES") or 0

    @property
    def thin(self) -> bool:
        """READ CAPACITY(16) says so (LBPME)."""
        return self.capacity is not None and bool(self.capacity.number("LBPME"))


def gather(asker: Asker) -> Snapshot:
    """Ask for all of it. Blocks. Raises as `Asker` does."""
    optional = asker.optional
    first = asker.device.execute(cdb.of("REQUEST SENSE").encode({"ALLOCATION LENGTH": 18}), 18)
    listed_data = optional(lambda: asker.vpd(inquiry.SUPPORTED_PAGES))
    listed = None
    if listed_data is not None:
        listed = list(listed_data[4 : 4 + int.from_bytes(listed_data[2:4], "big")])
    vpd: dict[int, Section] = {}
    designators: list[Designator] = []
    for code in _WANTED:
        if listed is not None and code not in listed:
            continue
        data = optional(lambda code=code: asker.vpd(code))  # type: ignore[misc]
        if data is not None:
            (vpd[code],) = pages.vpd(code, data)
            if code == inquiry.IDENTIFICATION:
                designators = Designator.decode_all(data[4:])
    capacity = optional(asker.capacity_16)
    modes = optional(lambda: asker.mode_6(mode.ALL_PAGES))
    supported = optional(lambda: asker.opcodes(timeouts=False))
    groups = optional(asker.port_groups)
    abilities = optional(lambda: asker.reserve_in("REPORT CAPABILITIES"))
    keys = optional(lambda: asker.reserve_in("READ KEYS"))
    luns = optional(asker.luns)
    return Snapshot(
        inquiry=pages.standard_inquiry(asker.inquiry())[0],
        listed=listed,
        vpd=vpd,
        designators=designators,
        short_capacity=pages.short_capacity(asker.capacity_10())[0],
        capacity=None if capacity is None else pages.long_capacity(capacity)[0],
        mode_header=None if modes is None else parameters.mode_data(modes, short=True)[0],
        caching=_caching(asker, mode.CURRENT),
        changeable_caching=_caching(asker, mode.CHANGEABLE),
        commands=None if supported is None else _commands(supported),
        groups=None if groups is None else lists.groups(groups),
        reserve_capabilities=None if abilities is None else parameters.capabilities(abilities)[0],
        reserve_keys=keys is not None,
        luns=None if luns is None else pages.lun_list(luns)[0].numbers("LUN"),
        one_command=optional(lambda: asker.opcode(Opcode.INQUIRY)) is not None,
        sense_status=first.status,
    )


def _caching(asker: Asker, control: int) -> Section | None:
    """The caching mode page."""
    data = asker.optional(lambda: asker.mode_6(mode.CACHING.code, control))
    if data is None:
        return None
    for section in parameters.mode_data(data, short=True)[1:]:
        if section.number("PAGE CODE") == mode.CACHING.code:
            return section
    return None


def _commands(data: bytes) -> frozenset[tuple[int, int | None]]:
    found, _ = lists.commands(data)
    return frozenset((each.opcode, each.service_action) for each in found)
