"""The console as a child of the service: started again when it ends, and ends with the service.

Its standard input is a pipe that nobody writes to; so it also sees the end of a service that was
killed. The launcher cannot import it: it is above, and asks like anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from typing import Final

log = logging.getLogger("userdisk")

_FIRST_DELAY: Final = 1.0  # seconds until it is started again; doubles
_LONGEST_DELAY: Final = 60.0
_GOOD: Final = 60.0  # seconds after which it starts from the first delay
_LINE_SECONDS: Final = 60.0
_END_SECONDS: Final = 10.0


async def keep(command: Sequence[str], at: Callable[[str], None]) -> None:
    """Have it run until this is cancelled; `at` gets its address, and "" when it has ended."""
    loop = asyncio.get_running_loop()
    delay = _FIRST_DELAY
    while True:
        began = loop.time()
        try:
            process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        except OSError as error:
            log.error("the console cannot be started: %s", error.strerror)
        else:
            try:
                at(await _address(process))
                await process.wait()
            finally:
                at("")
                await _end(process)
            if process.returncode:
                log.error("the console has ended with status %d", process.returncode)
        if loop.time() - began >= _GOOD:
            delay = _FIRST_DELAY
        await asyncio.sleep(delay)
        delay = min(delay * 2, _LONGEST_DELAY)


async def _address(process: Process) -> str:
    """What it says, without the part that logs in."""
    assert process.stdout is not None
    with contextlib.suppress(ValueError, KeyError, TypeError, TimeoutError):
        line = await asyncio.wait_for(process.stdout.readline(), _LINE_SECONDS)
        return str(json.loads(line)["url"]).partition("#")[0]
    return ""


async def _end(process: Process) -> None:
    """End it if it runs: in order, or else at once."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _END_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
