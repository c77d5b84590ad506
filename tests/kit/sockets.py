"""A server in this process, on free ports of the loopback interface, and sessions with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.kit.link import INITIATOR, TARGET
from userdisk.gate import Gate
from userdisk.initiator_client import Initiator
from userdisk.iscsi.initiator_login import Settings
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target
from userdisk.unit import StorageUnit


def server_of(*units: StorageUnit, host: str = "127.0.0.1", **arguments: Any) -> Server:
    """A server that is not started, with one target."""
    target = Target(TARGET, [LogicalUnit(Gate(unit)) for unit in units])
    arguments.setdefault("listen", [(host, 0)])
    return Server([target], **arguments)


@contextmanager
def serving(*units: StorageUnit, **arguments: Any) -> Iterator[tuple[Server, tuple[str, int]]]:
    """A started server and its first address; stopped at the end, with no thread left."""
    before = set(threading.enumerate())
    server = server_of(*units, **arguments)
    (address, *_) = server.start()
    try:
        yield server, address
    finally:
        server.stop()
    eventually(lambda: set(threading.enumerate()) <= before)


def connect(
    address: tuple[str, int], *, lun: int = 0, timeout: float = 10, **settings: Any
) -> Initiator:
    """A session; another `isid` makes it another one."""
    values = {"initiator": INITIATOR, "target": TARGET, **settings}
    initiator = Initiator(address, Settings(**values), lun=lun, timeout=timeout)
    if values["target"] is not None:
        initiator.execute(bytes(6))  # past the unit attention
    return initiator


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until the condition holds; fails when it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.002)
