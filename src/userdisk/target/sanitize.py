"""SANITIZE: all data of a unit made irrecoverable (SBC-4 4.11, 5.30).

Theory of operation. An operation is saved as begun before the first block changes, and goes on in
the background of the unit, whatever becomes of the command, its nexus, or the process: a server
that finds one begun does it again from the start. Until it has ended the unit runs no command but
those that tell who and how it is, and what was on its way to the unit fails.

    idle -> in progress: SANITIZE
    in progress -> idle: every block is done and flushed
    in progress -> failed: the unit has failed; 3/31/03 is the answer to nearly everything
    failed -> in progress: SANITIZE again
    failed -> idle: EXIT FAILURE MODE, if the SANITIZE that failed had allowed it (AUSE)

OVERWRITE writes every block. BLOCK ERASE and CRYPTOGRAPHIC ERASE are offered by units that do it
themselves; a thin unit's blocks are unmapped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from userdisk.errors import (
    HardwareError,
    SanitizeInProgress,
    StorageError,
    UsageError,
    UserdiskError,
)
from userdisk.operation import Exclusive, Kind, Operation, Sequel
from userdisk.scsi import sense
from userdisk.scsi.opcodes import Opcode
from userdisk.scsi.sense import Sense
from userdisk.target import provisioning
from userdisk.target.aspect import Aspect
from userdisk.target.command import CheckCondition, Command, Completion, Steps, Wait
from userdisk.target.data_out import receive_all
from userdisk.target.row import Flags, Row
from userdisk.unit import overrides

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.nexus import Path

_SAVED_AS = "sanitize"
_STEP = 1 << 20  # bytes written at a time, at most
_IMMED, _AUSE = 0x80, 0x20
_HEADER = 4  # of the overwrite parameter list


class Plan(NamedTuple):
    """A sanitize operation: what is saved of it."""

    kind: Kind  #: WRITE, ERASE or CRYPTO_ERASE
    unrestricted: bool  #: AUSE: a failure may be left behind
    pattern: str = ""  #: of each block, in hexadecimal
    passes: int = 1
    invert: bool = False  #: between passes, so that the last one writes the pattern itself
    failed: bool = False


class Sanitize(Aspect):
    """The sanitize operation of a unit. All methods may be called from any thread.

    Raises `UsageError` where what was saved of one cannot be understood.
    """

    def __init__(self, lu: LogicalUnit) -> None:
        self._lu = lu
        self._progress = 0
        self._plan = _saved(lu)
        if self._plan is not None:
            lu.gate.bar(self, SanitizeInProgress)

    def resume(self) -> None:
        """Go on with what an earlier process has begun; the unit is open."""
        plan = self._plan
        if plan is not None and not plan.failed and not self._lu.parameters.write_protected:
            self._lu.background.start(self._run(plan))

    @property
    def note(self) -> str:
        """What the person who serves the disk should know, or empty."""
        plan = self._plan
        if plan is None:
            return ""
        return "its SANITIZE has failed" if plan.failed else "being sanitized"

    def check_idle(self) -> None:
        """Raise CheckCondition while an operation is in progress or has failed."""
        why = self.pollable()
        if why is not None:
            raise CheckCondition(why)

    def restrains(self, path: Path) -> bool:
        """See `Aspect.restrains`."""
        return self._plan is not None

    def check(self, row: Row, command: Command) -> Completion | None:
        """See `Aspect.check`."""
        plan = self._plan
        if plan is None or Flags.WHILE_SANITIZING in row.flags:
            return None
        if not (plan.failed and row.opcode == Opcode.SANITIZE):
            self.check_idle()
        return None

    def pollable(self) -> Sense | None:
        """See `Aspect.pollable`."""
        plan = self._plan
        if plan is None:
            return None
        if plan.failed:
            return sense.sanitize_failed()
        return sense.sanitize_in_progress(self._progress)

    # -- steps, alone in the unit --------------------------------------------------------------

    def begin(self, plan: Plan) -> Exclusive:
        """Begin an operation; raises CheckCondition if that must not be, HardwareError if it cannot
        be saved."""

        def steps() -> Sequel:
            if self._plan is not None and not self._plan.failed:
                self.check_idle()
            if self._plan is not None and plan.unrestricted > self._plan.unrestricted:
                raise CheckCondition(sense.invalid_field_in_cdb(1, 5))
            if not self._lu.medium.loaded:
                raise CheckCondition(sense.medium_not_present())
            self._become(plan)
            self._lu.end_era(SanitizeInProgress)
            self._lu.rods.cancel_all()
            self._lu.background.start(self._run(plan))
            yield from ()

        return Exclusive(steps)

    def exit_failure(self) -> Exclusive:
        """Leave a failure behind; raises CheckCondition if that must not be."""

        def steps() -> Sequel:
            if self._plan is not None:
                if not self._plan.failed:
                    self.check_idle()
                if not self._plan.unrestricted:
                    raise CheckCondition(sense.invalid_field_in_cdb(1, 4))
                self._become(None)
            yield from ()

        return Exclusive(steps)

    def _become(self, plan: Plan | None) -> None:
        """Save and take on a new state; raises HardwareError if it cannot be saved."""
        try:
            self._lu.saved.save(_SAVED_AS, None if plan is None else _encode(plan))
        except UserdiskError as error:
            if plan is None or not plan.failed:  # a failure is one all the same
                raise HardwareError(str(error)) from error
        self._progress = 0
        self._plan = plan
        self._lu.gate.bar(self, None if plan is None else SanitizeInProgress)
        self._lu.refresh()

    # -- the operation, in the background ------------------------------------------------------

    def _run(self, plan: Plan) -> Sequel:
        try:
            yield from self._overwrite(plan) if plan.kind is Kind.WRITE else self._erase(plan.kind)
            yield self._ending(None)
        except StorageError:
            yield self._ending(plan._replace(failed=True))

    def _overwrite(self, plan: Plan) -> Sequel:
        lu = self._lu
        step = max(min(lu.step, _STEP // lu.block_length), 1)
        pattern = bytes.fromhex(plan.pattern)
        block = (pattern * -(-lu.block_length // len(pattern)))[: lu.block_length]
        plain = memoryview(block * step)
        inverted = memoryview(bytes(byte ^ 0xFF for byte in block) * step)
        for number in range(plan.passes):
            last = plan.passes - 1 - number
            data = inverted if plan.invert and last % 2 else plain
            for lba, blocks in self._pieces(step):
                part = data[: blocks * lu.block_length]
                yield self._alone(Operation(Kind.WRITE, lba, blocks, data=part))
                self._tell(number * lu.block_count + lba + blocks, plan.passes)
            yield self._alone(Operation(Kind.FLUSH))

    def _erase(self, kind: Kind) -> Sequel:
        yield self._alone(Operation(kind, 0, self._lu.block_count))
        if provisioning.offered(self._lu):
            for lba, blocks in self._pieces(provisioning.MAX_BLOCKS):
                yield self._alone(Operation(Kind.UNMAP, lba, blocks, extents=[(lba, blocks)]))
                self._tell(lba + blocks, 1)
        yield self._alone(Operation(Kind.FLUSH))

    def _pieces(self, step: int) -> Iterator[tuple[int, int]]:
        """All blocks of the unit, which may grow meanwhile, as (lba, blocks)."""
        lba = 0
        while (left := self._lu.block_count - lba) > 0:
            blocks = min(left, step)
            yield lba, blocks
            lba += blocks

    def _alone(self, operation: Operation) -> Exclusive:
        """The operation, with nobody else in the unit, and though the unit is barred."""
        return Exclusive(lambda: _only(operation), operation.lba, operation.blocks, despite=self)

    def _tell(self, done: int, passes: int) -> None:
        self._progress = min((done << 16) // (passes * self._lu.block_count), 0xFFFF)

    def _ending(self, plan: Plan | None) -> Exclusive:
        def steps() -> Sequel:
            self._become(plan)
            yield from ()

        return Exclusive(steps)


def _only(operation: Operation) -> Sequel:
    yield operation


# -- what is saved -----------------------------------------------------------------------------


def _encode(plan: Plan) -> dict[str, Any]:
    return {**plan._asdict(), "kind": plan.kind.name}


def _saved(lu: LogicalUnit) -> Plan | None:
    """What an earlier process has begun."""
    values = lu.saved.get(_SAVED_AS)
    if values is None:
        return None
    try:
        plan = Plan(**{**values, "kind": Kind[values["kind"]]})
        if [type(each) for each in plan[1:]] != [bool, str, int, bool, bool]:
            raise TypeError(plan)
        length = len(bytes.fromhex(plan.pattern))
        if plan.kind not in _KINDS or (plan.kind is Kind.WRITE) != (length > 0):
            raise ValueError(plan)
        if length > lu.block_length or not 1 <= plan.passes <= 31:
            raise ValueError(plan)
    except (TypeError, ValueError, KeyError):
        raise UsageError(
            f"{lu.saved.path}: its sanitize operation is not valid ({values!r}): restore the file,"
            f' or remove "{_SAVED_AS}" from it, and sanitize the disk again'
        ) from None
    return plan


_KINDS = frozenset({Kind.WRITE, Kind.ERASE, Kind.CRYPTO_ERASE})


# -- commands ----------------------------------------------------------------------------------


def erases(lu: LogicalUnit) -> bool:
    """Whether the unit has BLOCK ERASE."""
    return overrides(lu.gate.unit, "erase")


def crypto_erases(lu: LogicalUnit) -> bool:
    """Whether the unit has CRYPTOGRAPHIC ERASE."""
    return overrides(lu.gate.unit, "crypto_erase")


def overwrite(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """OVERWRITE, with a pattern of up to a block."""
    length = int.from_bytes(command.cdb[7:9], "big")
    if not _HEADER < length <= _HEADER + lu.block_length:
        raise CheckCondition(sense.invalid_field_in_cdb(7))
    return _overwrite(lu, command, length)


def _overwrite(lu: LogicalUnit, command: Command, length: int) -> Steps:
    data = yield from receive_all(command, length)
    yield from _sanitize(lu, command, _decode(lu, data, _unrestricted(command)))
    return Completion(wanted=length)


def _decode(lu: LogicalUnit, data: bytes, unrestricted: bool) -> Plan:
    """The plan in an overwrite parameter list; what follows the pattern is of no meaning."""
    length = int.from_bytes(data[2:4], "big")
    wrong = (
        (data[0] & 0x60, 0, 6),  # TEST: vendor specific, and there is none
        (not data[0] & 0x1F, 0, 4),
        (data[1], 1, None),
        (not 1 <= length <= lu.block_length, 2, None),
    )
    for is_wrong, byte, bit in wrong:
        if is_wrong:
            raise CheckCondition(sense.invalid_field_in_parameter_list(byte, bit))
    pattern = data[_HEADER : _HEADER + length]
    if len(pattern) < length:
        raise CheckCondition(sense.parameter_list_length_error())
    return Plan(Kind.WRITE, unrestricted, pattern.hex(), data[0] & 0x1F, bool(data[0] & 0x80))


def _erasing(kind: Kind) -> Callable[[LogicalUnit, Command], Steps]:
    def handler(lu: LogicalUnit, command: Command) -> Steps:
        yield from _sanitize(lu, command, Plan(kind, _unrestricted(command)))
        return Completion()

    return handler


block_erase = _erasing(Kind.ERASE)
cryptographic_erase = _erasing(Kind.CRYPTO_ERASE)


def exit_failure_mode(lu: LogicalUnit, command: Command) -> Steps:
    """EXIT FAILURE MODE; where nothing has failed it does nothing."""
    yield lu.sanitize.exit_failure()
    return Completion()


def _unrestricted(command: Command) -> bool:
    return bool(command.cdb[1] & _AUSE)


def _sanitize(
    lu: LogicalUnit, command: Command, plan: Plan
) -> Generator[Operation | Wait, Any, None]:
    yield lu.sanitize.begin(plan)
    if not command.cdb[1] & _IMMED:
        yield Wait(lu.background.when_idle)
        lu.sanitize.check_idle()  # it has failed, or was interrupted
