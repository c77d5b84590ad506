"""Journaled runs of stgtest, with a mark in the log of the medium after every flush.

Run in the guest: `python -m tests.guest.stgtest_workload FLUSHES FOLDER {TARGET DM_DEVICE}...`.
Mark 0 is made before the run, mark N when the N-th flush has been acknowledged and before the run
goes on. The journal is FOLDER/DM_DEVICE.journal.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle

from userdisk.stgtest.engine import Engine, Limits
from userdisk.stgtest.generator import RANDOM, Plan
from userdisk.stgtest.journal import Head, Writer
from userdisk.stgtest.pattern import Pattern
from userdisk.stgtest.port import Op, Port
from userdisk.stgtest.targets import Wishes, open_port

DEPTH = 8
ROUND = "WWUWRF"  # each has blocks of its own: so flushes come one by one, beside writes
_MOST = 16  # blocks of an operation
_NONCE = 0x5EED
_SECONDS = 60.0


class Marked:
    """A port that marks the log after every flush, in the order in which the journal has them."""

    def __init__(self, port: Port, dm_device: str) -> None:
        self._port = port
        self._device = dm_device
        self._flushes = 0
        self.geometry, self.kind, self.plain = port.geometry, port.kind, False
        self.close = port.close
        self._mark()

    def submit(self, operations: Sequence[Op]) -> None:
        """See `Port.submit`."""
        self._port.submit(operations)

    def collect(self) -> list[Op]:
        """See `Port.collect`."""
        ended = self._port.collect()
        for op in ended:
            if op.letter == "F" and op.error is None:
                self._flushes += 1
                self._mark()
        return ended

    def _mark(self) -> None:
        message = ["dmsetup", "message", self._device, "0", "mark", str(self._flushes)]
        subprocess.run(message, check=True)


def _operations(block_count: int) -> Iterator[tuple[str, int, int]]:
    ranges = Plan(1, "W", RANDOM, RANDOM, block_count, _MOST).operations()
    for letter, (_, lba, blocks) in zip(cycle(ROUND), ranges, strict=False):
        yield letter, lba, blocks


def run(target: str, dm_device: str, flushes: int, path: str) -> None:
    """One run; the first thing that is wrong ends this program."""
    port = Marked(open_port(target, Wishes(_SECONDS, DEPTH)), dm_device)
    geometry = port.geometry
    head = Head(_NONCE, geometry.block_count, geometry.block_length, geometry.zeroes)
    writer = Writer(path, head)
    engine = Engine(
        port, _operations(geometry.block_count), Limits(flushes * len(ROUND), DEPTH),
        Pattern(geometry.block_length, _NONCE), stamped=True, fua=False, record=writer,
    )  # fmt: skip
    problem = engine.run()
    port.close()
    writer.close()
    if problem is not None:
        sys.exit(f"{target}: {problem}")


if __name__ == "__main__":
    flushes_text, folder, *pairs = sys.argv[1:]
    for name, device in zip(pairs[::2], pairs[1::2], strict=True):
        run(name, device, int(flushes_text), f"{folder}/{device}.journal")
