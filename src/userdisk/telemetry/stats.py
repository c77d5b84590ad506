"""The answer to `stats`: what was done for each unit, for whom, how long it took, what went wrong.

All numbers count from the start of the process and never go back. A histogram counts about as many
operations as there were; `sampled_every` says of how many one was timed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from userdisk.counters import Counters, Tally
from userdisk.errors import StorageError, UserdiskError
from userdisk.gate import Gate
from userdisk.operation import Kind, Operation
from userdisk.scsi import sense
from userdisk.scsitool.words import sense_words
from userdisk.server import Server
from userdisk.timing import BOUNDS_US, EVERY, Histogram
from userdisk.unit import overrides

#: What an answer is made of.
Json = dict[str, object]

#: Operations as they are called in answers.
OPERATIONS: Final = {
    "read": Kind.READ,
    "write": Kind.WRITE,
    "flush": Kind.FLUSH,
    "unmap": Kind.UNMAP,
    "zero": Kind.ZERO,
}
_USAGE_SECONDS = 0.3  # that an answer waits for a unit to say what it uses
_USAGE_AGE = 5.0  # seconds for which that is good


class Statistics:
    """Answers for one server. Any thread may ask.

    Args:
        units: what each unit is called; a name that comes twice gets a number.
        began: when the server did, in seconds since 1970.
    """

    def __init__(
        self, server: Server, units: Sequence[tuple[str, Gate]], began: float | None = None
    ) -> None:
        self._server = server
        #: by name
        self.units: dict[str, Gate] = {}
        for name, gate in units:
            own, number = name, 1
            while own in self.units:
                number += 1
                own = f"{name}#{number}"
            self.units[own] = gate
        self._usage = {gate: _Used(gate) for gate in self.units.values()}
        self._began = time.time() if began is None else began

    def answer(self, request: Mapping[str, object] | None = None) -> Json:
        """The answer to `stats`. Blocks for a moment if a thin unit is asked what it uses."""
        tallies = self._server.tallies()
        return {
            "started": self._began,
            "time": time.time(),
            "connections": self._server.connections,
            "units": {name: self._unit(gate, tallies) for name, gate in self.units.items()},
        }

    def _unit(self, gate: Gate, tallies: Sequence[tuple[Tally, int]]) -> Json:
        total = Counters()
        initiators = []
        for tally, connections in tallies:
            mine = tally.get(gate)
            if mine is not None:
                total.add(mine)
                initiators.append(_initiator(gate, tally, mine, connections))
        found: Json = {
            "size": gate.parameters.size,
            "block_length": gate.parameters.block_length,
            "operations": _operations(gate, total),
            "initiators": initiators,
            "last_errors": [
                {"time": at, "what": what, "sense": sense_words(_sense(failure))}
                for at, what, failure in list(gate.last_errors)
            ],
        }
        used = self._usage[gate].bytes()
        return found if used is None else found | {"used": used}


def _initiator(gate: Gate, tally: Tally, mine: Counters, connections: int) -> Json:
    return {
        "name": tally.client,
        "protocol": tally.protocol,
        "connections": connections,
        "count": sum(map(mine.count, OPERATIONS.values())),
        "bytes": sum(map(mine.bytes, OPERATIONS.values())),
        "operations": _operations(gate, mine),
    }


def _operations(gate: Gate, counters: Counters) -> Json:
    return {
        name: {
            "count": counters.count(kind),
            "bytes": counters.bytes(kind),
            "errors": counters.errors[kind],
            "time": _histogram(counters.times[kind].service, gate, kind),
            "queue": _histogram(counters.times[kind].queue, gate, kind),
        }
        for name, kind in OPERATIONS.items()
    }


def _histogram(histogram: Histogram, gate: Gate, kind: Kind) -> Json:
    return {
        "bounds_us": list(BOUNDS_US) if any(histogram.counts) else [],
        "counts": list(histogram.counts) if any(histogram.counts) else [],
        "sum_us": round(histogram.seconds * 1e6, 3),
        "sampled_every": EVERY if gate.runs_inline(Operation(kind)) else 1,
    }


def _sense(failure: StorageError) -> bytes:
    return sense.from_error(failure, failure.lba).encode()


class _Used:
    """What a thin unit uses of its storage; asked when it is wanted, now and then at most."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._knows = overrides(gate.unit, "usage")
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._asked = -_USAGE_AGE
        self._bytes: int | None = None

    def bytes(self) -> int | None:
        """The last answer; None: the unit does not know, or has not said yet."""
        if not self._knows:
            return None
        with self._lock:
            due = time.monotonic() - self._asked >= _USAGE_AGE
            if due:
                self._asked = time.monotonic()
                self._answered.clear()
        if due:
            self._gate.submit(Operation(Kind.USAGE), self._take)
            self._answered.wait(_USAGE_SECONDS)
        return self._bytes

    def _take(self, operation: Operation) -> None:
        try:
            if operation.error is None:
                usage = self._gate.checked_usage(operation.result)
                self._bytes = usage.used * self._gate.parameters.block_length
        except (StorageError, UserdiskError):
            pass  # the log has it
        finally:
            self._answered.set()
