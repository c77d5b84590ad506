"""Serving until a signal asks to stop, and saying what a slow stop waits for.

Theory of operation. The main thread only waits in a queue. Signal handlers put into it (which
`SimpleQueue` allows a handler to do); the stop itself runs on a thread of its own and puts its
outcome there too, so that further signals are heard while it flushes.

    starting --signal--> KeyboardInterrupt, so that what is open is closed
    serving --signal--> stopping --signal--> stopping, told what it waits for --signal--> given up
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import click

#: Ctrl-C, a service manager or `kill`, and a terminal that is closed.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_POLL = 0.5 if sys.platform == "win32" else None  # there a waiting thread hears no signal


class _Ended(NamedTuple):
    error: BaseException | None


class Signals:
    """Takes the signals that ask to stop, for the time of a `with` block; on the main thread.

    Those that are ignored from the start (nohup, `&` in a script) stay ignored.
    """

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[int | _Ended] = queue.SimpleQueue()
        self._serving = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._signalled)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _signalled(self, number: int, frame: object) -> None:
        if not self._serving:
            raise KeyboardInterrupt
        self._events.put(number)

    def started(self) -> None:
        """From now on signals do not interrupt, but are kept for `wait_and_stop`."""
        self._serving = True

    def wait_and_stop(self, stop: Callable[[], None], waits_for: Callable[[], str]) -> None:
        """Wait for a signal, then run `stop` and wait for that. Blocks.

        Args:
            stop: ends the service; runs on another thread.
            waits_for: what `stop` waits for now, in words; called on this thread.

        Raises what `stop` raised. A third signal ends the process with status 1.
        """
        self._serving = True
        self._next()
        click.echo("stopping: flushing and closing")
        began = time.monotonic()

        def run() -> None:
            try:
                stop()
            except BaseException as error:
                self._events.put(_Ended(error))
            else:
                self._events.put(_Ended(None))

        threading.Thread(target=run, name="stop", daemon=True).start()
        told = False
        while not isinstance(event := self._next(), _Ended):
            waited = f"waiting for {waits_for()}, {time.monotonic() - began:.0f} s up to now"
            if told:
                click.echo(f"given up while {waited}; what was not flushed is lost", err=True)
                sys.stdout.flush()
                os._exit(1)
            told = True
            click.echo(f"{waited}; once more gives up, and loses what is not flushed", err=True)
        if event.error is not None:
            raise event.error

    def _next(self) -> int | _Ended:
        while True:
            try:
                return self._events.get(timeout=_POLL)
            except queue.Empty:
                continue
