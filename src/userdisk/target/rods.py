"""Representations of data (RODs) and their tokens: made, found, ended (SPC-5 5.18.6, SBC-4 4.28).

A ROD of type change vulnerable: its data is that of its blocks at the time it was made, and any
write to one of them, by whatever session or port, cancels it. For that every operation that changes
blocks has to pass the gate's watch: while there are RODs, no path takes the fast path. A token that
nobody uses for its inactivity timeout has expired, which the next command finds.

Why a token is not valid any more is remembered for a while, to tell who still uses it.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from userdisk.operation import Kind, Operation
from userdisk.scsi import rod_token
from userdisk.scsi.sense import Asc, Sense, SenseKey
from userdisk.target.aspect import Aspect
from userdisk.target.command import CheckCondition, Command, Completion
from userdisk.unit import Extents

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.nexus import Path
    from userdisk.target.row import Row
    from userdisk.target.target import Target

MAX_RODS = 128  #: of one logical unit
_MAX_ENDED = 256  # that are remembered

#: These change blocks without naming them.
_EVERYTHING = frozenset({Kind.ERASE, Kind.CRYPTO_ERASE})


class Rod:
    """Blocks of a unit in the order of their ranges, as they were when it was made."""

    __slots__ = ("alive", "end", "expires", "lu", "ranges", "size", "start", "timeout", "token",
                 "users")  # fmt: skip

    def __init__(self, lu: LogicalUnit, token: bytes, ranges: Extents, timeout: float) -> None:
        self.lu = lu
        self.token = token
        self.ranges = tuple(ranges)
        self.size = sum(blocks for _, blocks in ranges) * lu.block_length  # bytes
        self.start = min((lba for lba, _ in ranges), default=0)
        self.end = max((lba + blocks for lba, blocks in ranges), default=0)
        self.timeout = timeout
        self.expires = 0.0
        self.users = 0  #: commands that use it now
        self.alive = True

    def touches(self, extents: Extents) -> bool:
        """Whether any of these blocks are its."""
        return any(
            first < lba + blocks and lba < first + count
            for lba, blocks in extents
            if lba < self.end and self.start < lba + blocks
            for first, count in self.ranges
        )


class Rods(Aspect):
    """The RODs of one logical unit. Thread-safe."""

    def __init__(self, lu: LogicalUnit) -> None:
        self._lu = lu
        self._live: dict[bytes, Rod] = {}  # by identifier; replaced, never changed
        self._ended: dict[bytes, Asc] = {}  # by token, the oldest first

    def add(self, token: bytes, ranges: Extents, timeout: float) -> None:
        """A new ROD; only in an `Exclusive` operation. Raises CheckCondition if there are many."""
        lu = self._lu
        self._sweep()
        rod = Rod(lu, token, ranges, timeout)
        rod.expires = lu.clock() + timeout
        with lu.lock:
            if len(self._live) >= MAX_RODS:
                raise _invalid(Asc.INSUFFICIENT_RESOURCES_FOR_ROD_TOKEN)
            self._live = {**self._live, rod_token.identifier(token): rod}
            lu.gate.watch = self._watch
        lu.refresh()

    def find(self, token: bytes) -> Rod | Asc:
        """The ROD of a token, or why there is none."""
        self._sweep()
        rod = self._live.get(rod_token.identifier(token))
        if rod is not None and hmac.compare_digest(rod.token, token):
            return rod
        return self._ended.get(token, Asc.TOKEN_UNKNOWN)

    def use(self, rod: Rod) -> None:
        """A command begins to use a ROD: it does not expire meanwhile."""
        with self._lu.lock:
            rod.users += 1

    def used(self, rod: Rod) -> None:
        """A command does not use the ROD any more: its inactivity begins."""
        with self._lu.lock:
            rod.users -= 1
            rod.expires = self._lu.clock() + rod.timeout

    def remove(self, rods: list[Rod], why: Asc) -> None:
        """These tokens are not valid any more."""
        lu = self._lu
        with lu.lock:
            live = dict(self._live)
            for rod in rods:
                if rod.alive:
                    rod.alive = False
                    del live[rod_token.identifier(rod.token)]
                    self._ended[rod.token] = why
            while len(self._ended) > _MAX_ENDED:
                del self._ended[next(iter(self._ended))]
            self._live = live
            if not live:
                lu.gate.watch = None
        lu.refresh()

    def cancel_all(self) -> None:
        """The data is not there any more: another medium."""
        self.remove(list(self._live.values()), Asc.TOKEN_CANCELLED)

    def resized(self) -> None:
        """The unit has another size: blocks that were cut off come back as others, if at all."""
        cut = [rod for rod in self._live.values() if rod.end > self._lu.block_count]
        if cut:
            self.remove(cut, Asc.TOKEN_CANCELLED)

    def _sweep(self) -> None:
        """End what has expired."""
        now = self._lu.clock()
        expired = [rod for rod in self._live.values() if not rod.users and rod.expires <= now]
        if expired:
            self.remove(expired, Asc.TOKEN_EXPIRED)

    def _watch(self, operation: Operation) -> None:
        """The gate is about to run an operation that changes blocks, or to queue it."""
        touched = operation.extents
        if operation.kind is not Kind.UNMAP:
            touched = ((operation.lba, operation.blocks),)
        everything = operation.kind in _EVERYTHING
        hit = [rod for rod in self._live.values() if everything or rod.touches(touched)]
        if hit:
            self.remove(hit, Asc.TOKEN_CANCELLED)

    # -- as an aspect --------------------------------------------------------------------------

    def restrains(self, path: Path) -> bool:
        """No path takes the fast path, which goes past the gate's watch."""
        return bool(self._live)

    def check(self, row: Row, command: Command) -> Completion | None:
        """Every command may run; the first after the last token has expired frees the paths."""
        self._sweep()
        return None


def _invalid(code: Asc) -> CheckCondition:
    return CheckCondition(Sense(SenseKey.ILLEGAL_REQUEST, code))


def find(target: Target, token: bytes) -> Rod:
    """The ROD of a token, of whatever unit of the target; raises CheckCondition if it has none."""
    why = Asc.TOKEN_UNKNOWN
    for lu in target.units:
        found = lu.rods.find(token)
        if isinstance(found, Rod):
            return found
        if found is not Asc.TOKEN_UNKNOWN:
            why = found
    raise _invalid(why)
