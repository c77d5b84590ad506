"""Serving until a signal asks to stop, and saying what a slow stop waits for.

Theory of operation. The main thread only waits in a queue. Signal handlers put into it (which
`SimpleQueue` allows a handler to do); the stop itself runs on a thread of its own and puts its
outcome there too, so that further signals are heard while it flushes.

    serving --signal--> stopping --signal--> stopping, told what it waits for --signal--> given up
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import click

#: Ctrl-C, a service manager or `kill`, and a terminal that is closed.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_POLL = 0.5 if sys.platform == "win32" else None  # there a waiting thread hears no signal


class _Ended(NamedTuple):
    error: BaseException | None


def serve_until_signal(stop: Callable[[], None], waits_for: Callable[[], str]) -> None:
    """Wait for a signal, then run `stop`. Blocks; only on the main thread.

    Args:
        stop: ends the service; runs on another thread.
        waits_for: what `stop` waits for now, in words; called on this thread.

    Raises what `stop` raised. A third signal ends the process with status 1.
    """
    events: queue.SimpleQueue[int | _Ended] = queue.SimpleQueue()
    with _signals_to(events):
        _next(events)
        began = time.monotonic()

        def run() -> None:
            try:
                stop()
            except BaseException as error:
                events.put(_Ended(error))
            else:
                events.put(_Ended(None))

        click.echo("stopping: flushing and closing")
        threading.Thread(target=run, name="stop", daemon=True).start()
        told = False
        while not isinstance(event := _next(events), _Ended):
            waited = f"waiting for {waits_for()} since {time.monotonic() - began:.0f} s"
            if told:
                click.echo(f"userdisk: given up while {waited}; unflushed data is lost", err=True)
                sys.stdout.flush()
                os._exit(1)
            told = True
            click.echo(f"{waited}; once more gives up, and loses what is not flushed", err=True)
    if event.error is not None:
        raise event.error


def _next(events: queue.SimpleQueue[int | _Ended]) -> int | _Ended:
    while True:
        try:
            return events.get(timeout=_POLL)
        except queue.Empty:
            continue


@contextmanager
def _signals_to(events: queue.SimpleQueue[int | _Ended]) -> Iterator[None]:
    """Put signals into the queue; those ignored from the start (nohup, `&`) stay ignored."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in taken:
        signal.signal(number, lambda number, frame: events.put(number))
    try:
        yield
    finally:
        for number, old in taken.items():
            signal.signal(number, old)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """While starting: SIGTERM and SIGHUP interrupt like Ctrl-C, so that what is open is closed."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = {number: old for number, old in before.items() if old is signal.SIG_DFL}
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, old in taken.items():
            signal.signal(number, old)
