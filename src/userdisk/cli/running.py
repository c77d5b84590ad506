"""Serving until a signal asks to stop, and saying what a slow stop waits for.

Theory of operation. The main thread only waits in `recv` on one end of a socket pair. The other end
is Python's wake-up descriptor: each signal's number is written there at once, on whatever thread it
arrives (a handler alone could run too late to end a wait that had just begun). The stop runs on a
thread of its own and ends with a byte there too, so that signals are heard while it flushes.

    starting --signal--> KeyboardInterrupt, so that what is open is closed
    serving --signal--> stopping --signal--> stopping, told what it waits for --signal--> given up
    serving --SIGHUP--> serving, and sizes are read again

SIGHUP also comes when the terminal is closed: then there is none any more where there was one at
the start, and it is a signal like the others.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import click

from userdisk.cli.logs import tell

#: Ctrl-C, a service manager or `kill`, and a terminal that is closed.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_ENDED = 0  # no signal has this number


class Signals:
    """Takes the signals that ask to stop, for the time of a `with` block; on the main thread.

    Those that are ignored from the start (nohup, `&` in a script) stay ignored.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._serving = False
        self._before: dict[int, Any] = {}
        self._before_wakeup = -1
        self._had_terminal = _has_terminal()
        self._error: BaseException | None = None

    def __enter__(self) -> Signals:
        self._before_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._signalled)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        signal.set_wakeup_fd(self._before_wakeup)
        self._reader.close()
        self._writer.close()

    def _signalled(self, number: int, frame: object) -> None:
        if not self._serving:
            raise KeyboardInterrupt

    def started(self) -> None:
        """From now on signals do not interrupt, but are kept for `wait_and_stop`."""
        self._serving = True

    def wait_and_stop(
        self,
        stop: Callable[[], None],
        waits_for: Callable[[], str],
        hangup: Callable[[], None] | None = None,
    ) -> None:
        """Wait for a signal, then run `stop` and wait for that. Blocks.

        Args:
            stop: ends the service; runs on another thread.
            waits_for: what `stop` waits for now, in words; called on this thread.
            hangup: what SIGHUP asks for while the terminal is there; runs on another thread, once
                for each signal. None: SIGHUP stops.

        Raises what `stop` raised. A third signal ends the process with status 1.
        """
        self._serving = True
        one_at_a_time = threading.Lock()

        def run_hangup() -> None:
            assert hangup is not None
            with one_at_a_time:
                hangup()

        while self._is_hangup(self._next()) and hangup is not None:
            threading.Thread(target=run_hangup, name="hangup", daemon=True).start()
        _say(click.echo, "stopping: flushing and closing")
        began = time.monotonic()

        def run() -> None:
            try:
                stop()
            except BaseException as error:  # raised below, on the main thread
                self._error = error
            finally:
                self._writer.send(bytes([_ENDED]))

        threading.Thread(target=run, name="stop", daemon=True).start()
        told = False
        while (number := self._next()) != _ENDED:
            if hangup is not None and self._is_hangup(number):
                continue
            waited = f"waiting for {waits_for()}, {time.monotonic() - began:.0f} s up to now"
            if told:
                _say(tell, f"given up while {waited}; what was not flushed is lost")
                os._exit(1)
            told = True
            _say(tell, f"{waited}; once more gives up, and loses what is not flushed")
        if self._error is not None:
            raise self._error

    def _is_hangup(self, number: int) -> bool:
        """Whether it is a SIGHUP that somebody sent, not that of a closed terminal."""
        closed = self._had_terminal and not _has_terminal()
        return number == getattr(signal, "SIGHUP", _ENDED) and not closed

    def _next(self) -> int:
        while True:
            (number,) = self._reader.recv(1)
            if number == _ENDED or number in self._before:
                return number


def _say(how: Callable[[str], None], text: str) -> None:
    """The stop goes on when nobody reads it: the terminal is closed, a pipe's reader has gone."""
    with contextlib.suppress(OSError):
        how(text)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | getattr(os, "O_NOCTTY", 0)))
    except OSError:
        return False
    return True
