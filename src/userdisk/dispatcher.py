"""Threads and event loops of units whose operations are not inline.

A dispatcher has a queue. Plain methods are run by worker threads (one, or the unit's `workers` if
it is concurrent), `async def` methods by an event loop on a thread of its own. All of them start
with the first operation that needs them, take the gate's lock around an operation of a serial
unit, and call `operation.done` when it has ended.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from userdisk.errors import Aborted
from userdisk.unit import StorageUnit, overrides

if TYPE_CHECKING:
    from userdisk.operation import Operation

_BATCH = 64  # operations handed to one call of StorageUnit.batch
