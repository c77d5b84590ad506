"""Answers that are lists of many alike: commands, LBA status, target port groups, keys in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from userdisk.scsi import cdb, fields, lba_status, port_groups, reservation, supported
from userdisk.scsi.fields import Field
from userdisk.scsi.port_groups import AccessState
from userdisk.scsitool.items import Section
from userdisk.scsitool.layout import Listing

_MOST = 65536  # rows of one answer
_PROVISIONING = {0: "mapped", 1: "deallocated", 2: "anchored", 3: "mapped", 4: "unknown"}


def _records(data: bytes, table: Sequence[Field], length: int) -> Iterator[dict[str, int]]:
    """Records of one length after another; an incomplete one is left out."""
    for at in range(0, min(len(data), _MOST * length) - length + 1, length):
        found = fields.decode(data[at : at + length], table)
        yield {name: value for name, value in found.items() if isinstance(value, int)}


def _cut(announced: int, came: int) -> list[str]:
    if announced == came:
        return []
    return [f"{announced} bytes were announced, {came} came"]


class Supported(NamedTuple):
    """One command of a device; timeouts in seconds, None where none is said."""

    opcode: int
    service_action: int | None
    cdb_length: int
    nominal: int | None = None
    recommended: int | None = None


def commands(data: bytes) -> tuple[list[Supported], list[str]]:
    """The all_commands data of REPORT SUPPORTED OPERATION CODES, and what is wrong with it."""
    found: list[Supported] = []
    if len(data) < supported.ALL_HEADER_LENGTH:
        return found, ["cut off"]
    announced = int.from_bytes(data[: supported.ALL_HEADER_LENGTH], "big")
    body = data[supported.ALL_HEADER_LENGTH :]
    wrong = _cut(announced, len(body))
    body = body[:announced]
    at = 0
    while at + supported.COMMAND_LENGTH <= len(body) and len(found) < _MOST:
        (one,) = _records(
            body[at : at + supported.COMMAND_LENGTH], supported.COMMAND, supported.COMMAND_LENGTH
        )
        at += supported.COMMAND_LENGTH
        action = one["SERVICE ACTION"] if one["SERVACTV"] else None
        nominal = recommended = None
        if one["CTDP"]:
            times = fields.decode(body[at : at + supported.TIMEOUTS_LENGTH], supported.TIMEOUTS)
            length = 2 + int.from_bytes(body[at : at + 2], "big")
            nominal = _time(times.get("NOMINAL COMMAND PROCESSING TIMEOUT"))
            recommended = _time(times.get("RECOMMENDED COMMAND TIMEOUT"))
            if at + length > len(body):
                wrong.append("the last timeouts descriptor is cut off")
            at += length
        found.append(
            Supported(one["OPERATION CODE"], action, one["CDB LENGTH"], nominal, recommended)
        )
    if at < len(body):
        wrong.append("the last command is cut off")
    return found, wrong


def _time(value: fields.Value | None) -> int | None:
    return value if isinstance(value, int) and value else None


def command_list(data: bytes) -> Listing:
    """The commands of a device as a list."""
    found, wrong = commands(data)
    rows = [
        (
            f"{each.opcode:02X}h",
            "" if each.service_action is None else f"{each.service_action:02X}h",
            each.cdb_length,
            "" if each.nominal is None else f"{each.nominal} s",
            "" if each.recommended is None else f"{each.recommended} s",
            cdb.name_of(each.opcode, each.service_action),
        )
        for each in found
    ]
    heading = ("OPCODE", "ACTION", "CDB LENGTH", "NOMINAL", "RECOMMENDED", "COMMAND")
    return Listing("Supported commands", heading, rows, wrong)


class Run(NamedTuple):
    """Blocks in one state of provisioning."""

    lba: int
    blocks: int
    state: int


def runs(data: bytes) -> list[Run]:
    """The descriptors of GET LBA STATUS data."""
    end = 4 + int.from_bytes(data[:4], "big")
    body = data[lba_status.HEADER_LENGTH : end]
    return [
        Run(
            each["LOGICAL BLOCK ADDRESS"],
            each["NUMBER OF LOGICAL BLOCKS"],
            each["PROVISIONING STATUS"],
        )
        for each in _records(body, lba_status.DESCRIPTOR, lba_status.DESCRIPTOR_LENGTH)
    ]


def run_list(found: Sequence[Run], warnings: Sequence[str] = ()) -> Listing:
    """Runs of blocks as a list."""
    rows = [
        (run.lba, run.blocks, _PROVISIONING.get(run.state, f"state {run.state}")) for run in found
    ]
    heading = ("LOGICAL BLOCK ADDRESS", "NUMBER OF LOGICAL BLOCKS", "PROVISIONING STATUS")
    return Listing("LBA status", heading, rows, warnings)


class Group(NamedTuple):
    """A target port group: its tag, the state of its ports, and their identifiers."""

    tag: int
    state: int
    ports: Sequence[int]


def groups(data: bytes) -> list[Group]:
    """REPORT TARGET PORT GROUPS data."""
    body = data[port_groups.LIST_LENGTH : port_groups.LIST_LENGTH + int.from_bytes(data[:4], "big")]
    found = []
    while len(body) >= port_groups.GROUP_LENGTH:
        (one,) = _records(
            body[: port_groups.GROUP_LENGTH], port_groups.GROUP, port_groups.GROUP_LENGTH
        )
        body = body[port_groups.GROUP_LENGTH :]
        length = one["TARGET PORT COUNT"] * port_groups.PORT_LENGTH
        ports = [
            port["RELATIVE TARGET PORT IDENTIFIER"]
            for port in _records(body[:length], port_groups.PORT, port_groups.PORT_LENGTH)
        ]
        found.append(Group(one["TARGET PORT GROUP"], one["ASYMMETRIC ACCESS STATE"], ports))
        body = body[length:]
    return found


def group_list(data: bytes) -> Listing:
    """The groups as a list."""
    rows = [
        (group.tag, _state(group.state), " ".join(str(port) for port in group.ports))
        for group in groups(data)
    ]
    return Listing("Target port groups", ("GROUP", "STATE", "PORTS"), rows)


def _state(state: int) -> str:
    try:
        return AccessState(state).name.replace("_", " ").lower()
    except ValueError:
        return f"state {state:X}h"


def reservation_words(keys: Section, held: Section) -> Listing:
    """Who is registered and what is reserved, as people say it."""
    rows: list[Sequence[int | str]] = [
        ("key", f"{key:#x}") for key in keys.numbers("RESERVATION KEY")
    ]
    for key, kind in zip(held.numbers("RESERVATION KEY"), held.numbers("TYPE"), strict=False):
        rows.append(("reservation", f"{_type(kind)}, held with key {key:#x}"))
    return Listing("Summary", ("WHAT", "VALUE"), rows, empty="nobody is registered, no reservation")


def _type(kind: int) -> str:
    try:
        return reservation.Type(kind).name.replace("_", " ").lower()
    except ValueError:
        return f"type {kind:X}h"
