"""Disks with load, as a console shows them: initiators that read and write in a rhythm."""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from userdisk.errors import UserdiskError
from userdisk.initiator_client import Initiator, ScsiError, parse_url, settings_for


@dataclass(frozen=True)
class Load:
    """What an initiator asks for: so many operations per second on average, of `blocks` each.

    `writes` is the part of them that write; `swing` by how much it goes up and down, in `period`
    seconds.
    """

    initiator: str
    rate: float = 100.0
    blocks: int = 8
    writes: float = 0.3
    swing: float = 0.5
    period: float = 30.0
    first: int = 0  #: block from which on it uses `extent` blocks
    extent: int = 1 << 13


def url_of(instance: Mapping[str, Any]) -> str:
    """Where a disk of the launcher is served."""
    return f"iscsi://{instance['portal']}/{instance['target']}/0"


@contextlib.contextmanager
def under_load(instance: Mapping[str, Any], *loads: Load) -> Iterator[None]:
    """While the block runs; a disk that goes away ends it, too."""
    ended = threading.Event()
    threads = [
        threading.Thread(target=_run, args=(url_of(instance), load, ended), daemon=True)
        for load in loads
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(60)


def _run(url: str, load: Load, ended: threading.Event) -> None:
    parsed = parse_url(url)
    settings = settings_for(parsed, name=load.initiator)
    chance = random.Random(load.initiator)
    data = bytes(load.blocks * 512)
    with (
        contextlib.suppress(UserdiskError, OSError),
        Initiator(parsed.address, settings) as initiator,
    ):
        due = began = time.monotonic()
        while not ended.is_set():
            swing = load.swing * math.sin((time.monotonic() - began) / load.period * 2 * math.pi)
            due = max(due + 1 / (load.rate * (1 + swing)), time.monotonic() - 1)
            ended.wait(max(due - time.monotonic(), 0))
            lba = load.first + chance.randrange(max(load.extent - load.blocks, 1))
            draw = chance.random()
            with contextlib.suppress(ScsiError):
                if draw < load.writes:
                    initiator.write(lba, data)
                elif draw > 0.995:
                    initiator.flush()
                else:
                    initiator.read(lba, load.blocks)
