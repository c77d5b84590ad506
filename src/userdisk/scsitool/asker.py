"""Asks a device: commands by name, answers whole, unit attentions read past, failures in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from userdisk.errors import UserdiskError
from userdisk.scsi import cdb, mode, sense
from userdisk.scsi.sense import SenseKey
from userdisk.scsitool.device import CHECK_CONDITION, MAX_DATA, Device, Result
from userdisk.scsitool.words import status_words

_MOST_ATTENTIONS = 16  # told before a command; more than one is rare
_FIRST = 255  #: bytes that are asked for first; there are devices that take no more
_LONG = 16384  #: the same where the length has 32 bits

T = TypeVar("T")


class CommandFailed(UserdiskError):
    """A command ended with another status than GOOD."""

    def __init__(self, what: str, result: Result) -> None:
        super().__init__(f"{what}: {status_words(result.status, result.sense)}")
        self.result = result

    @property
    def refused(self) -> bool:
        """The device has no such command, page or field."""
        return key_of(self.result) == SenseKey.ILLEGAL_REQUEST


def key_of(result: Result) -> int | None:
    """The sense key of a CHECK CONDITION; None: there is none."""
    if result.status != CHECK_CONDITION:
        return None
    try:
        return sense.decode(result.sense).key
    except ValueError:
        return None


class Asker:
    """Commands to one device, one after the other. Everything blocks, as the device does.

    Every method raises `CommandFailed` unless the status is GOOD, and `DeviceError`.
    """

    def __init__(self, device: Device) -> None:
        self.device = device

    def run(self, command: bytes, read_length: int = 0, data_out: bytes = b"") -> bytes:
        """Run a CDB and return what was read.

        A unit attention says that the command was not run, so it is sent again.
        """
        for _ in range(_MOST_ATTENTIONS):
            result = self.device.execute(command, read_length, data_out)
            if key_of(result) != SenseKey.UNIT_ATTENTION:
                break
        if result.status:
            what = cdb.find(command.ljust(2, b"\0"))
            raise CommandFailed(cdb.name_of(command[0]) if what is None else what.name, result)
        return result.data

    def ask(
        self, name: str, values: Mapping[str, int] | None = None, length: int = _FIRST
    ) -> bytes:
        """Run the command of that name with ALLOCATION LENGTH `length`, unless it has none."""
        command = cdb.of(name)
        given = dict(values or {})
        if any(field.name == "ALLOCATION LENGTH" for field in command.fields):
            given["ALLOCATION LENGTH"] = length
        return self.run(command.encode(given), length)

    def whole(
        self,
        name: str,
        values: Mapping[str, int],
        total: Callable[[bytes], int],
        first: int = _FIRST,
        most: int = MAX_DATA,
    ) -> bytes:
        """Like `ask`, and again with room for all of it if the answer says that there is more.

        Args:
            total: bytes that an answer says there are.
        """
        data = self.ask(name, values, first)
        if len(data) >= min(first, 4) and first < (wanted := min(total(data), most)):
            data = self.ask(name, values, wanted)
        return data

    def inquiry(self) -> bytes:
        """Standard INQUIRY data."""
        return self.ask("INQUIRY")

    def vpd(self, code: int) -> bytes:
        """A VPD page."""
        values = {"EVPD": 1, "PAGE CODE": code}
        return self.whole("INQUIRY", values, _total(2, 2), most=0xFFFF)

    def mode_6(self, page: int, control: int = mode.CURRENT) -> bytes:
        """MODE SENSE(6) of a page."""
        return self.ask("MODE SENSE(6)", {"PAGE CODE": page, "PC": control})

    def mode_10(self, page: int, subpage: int = 0, control: int = mode.CURRENT) -> bytes:
        """MODE SENSE(10) of a page, with all of its answer."""
        values = {"PAGE CODE": page, "SUBPAGE CODE": subpage, "PC": control}
        return self.whole("MODE SENSE(10)", values, _total(0, 2), most=0xFFFF)

    def log(self, page: int, subpage: int = 0) -> bytes:
        """A log page; counters as they are now."""
        values = {"PAGE CODE": page, "SUBPAGE CODE": subpage, "PC": 1}
        return self.whole("LOG SENSE", values, _total(2, 2), most=0xFFFF)

    def capacity_10(self) -> bytes:
        """READ CAPACITY(10) data."""
        return self.ask("READ CAPACITY(10)", length=8)

    def capacity_16(self) -> bytes:
        """READ CAPACITY(16) data."""
        return self.ask("READ CAPACITY(16)", length=32)

    def luns(self) -> bytes:
        """REPORT LUNS data."""
        return self.whole("REPORT LUNS", {}, lambda data: _total(0, 4)(data) + 4, _LONG)

    def opcodes(self, *, timeouts: bool) -> bytes:
        """The all_commands data of REPORT SUPPORTED OPERATION CODES."""
        values = {"RCTD": int(timeouts)}
        return self.whole("REPORT SUPPORTED OPERATION CODES", values, _total(0, 4), _LONG)

    def opcode(self, opcode: int, action: int | None = None) -> bytes:
        """The one_command data of REPORT SUPPORTED OPERATION CODES."""
        values = {"REPORTING OPTIONS": 1, "REQUESTED OPERATION CODE": opcode}
        if action is not None:
            values |= {"REPORTING OPTIONS": 2, "REQUESTED SERVICE ACTION": action}
        return self.ask("REPORT SUPPORTED OPERATION CODES", values)

    def reserve_in(self, action: str) -> bytes:
        """PERSISTENT RESERVE IN data; `action` is READ KEYS or the like."""
        values: dict[str, int] = {}
        name = f"PERSISTENT RESERVE IN ({action})"
        if action == "REPORT CAPABILITIES":
            return self.ask(name, values)
        return self.whole(name, values, lambda data: _total(4, 4)(data), _LONG, 0xFFFF)

    def port_groups(self) -> bytes:
        """REPORT TARGET PORT GROUPS data."""
        return self.whole("REPORT TARGET PORT GROUPS", {}, _total(0, 4), _LONG)

    def lba_status(self, lba: int, length: int = _LONG) -> bytes:
        """GET LBA STATUS data from a block on."""
        return self.ask("GET LBA STATUS", {"STARTING LOGICAL BLOCK ADDRESS": lba}, length)

    def request_sense(self, *, descriptor: bool = False) -> bytes:
        """Sense data that waits to be asked for."""
        return self.ask("REQUEST SENSE", {"DESC": int(descriptor)}, 252)

    def optional(self, ask: Callable[[], T]) -> T | None:
        """What `ask` returns; None if the device refuses the command (ILLEGAL REQUEST)."""
        try:
            return ask()
        except CommandFailed as error:
            if error.refused:
                return None
            raise


def _total(at: int, size: int) -> Callable[[bytes], int]:
    """All bytes of an answer whose length field (of what follows it) is there."""

    def total(data: bytes) -> int:
        return at + size + int.from_bytes(data[at : at + size], "big")

    return total
