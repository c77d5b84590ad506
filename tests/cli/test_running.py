"""Signals: the first stops in order, the second says what is waited for, the third gives up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SCRIPT = """
import sys, time
from userdisk.cli.running import Signals
from userdisk.errors import UserdiskError

def stop():
    {stop}

with Signals() as signals:
    print("starting", flush=True)
    {start}
    signals.started()
    print("serving", flush=True)
    signals.wait_and_stop(stop, lambda: "the flush of disk.img"{hangup})
print("stopped", flush=True)
"""


@contextmanager
def serving(
    stop: str,
    start: str = "",
    line: str = "serving",
    hangup: str = "",
    more: tuple[str, ...] = (),
    **options: Any,
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(stop=stop, start=start, hangup=hangup), *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    try:
        while process.stdout.readline().strip() != line:
            assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_stops_in_order(number: signal.Signals) -> None:
    with serving("print('flushed', flush=True)") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out.splitlines()[-2:], err) == (0, ["flushed", "stopped"], "")


def test_a_second_signal_says_what_it_waits_for_and_a_third_gives_up() -> None:
    with serving("time.sleep(60)") as process:
        assert process.stdout is not None and process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().startswith("stopping")
        process.send_signal(signal.SIGINT)
        line = process.stderr.readline()
        assert line.startswith("waiting for the flush of disk.img, ") and "loses" in line
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 1
        assert "given up while waiting for the flush of disk.img" in process.stderr.read()


def test_the_error_of_the_stop_comes_out() -> None:
    with serving("raise UserdiskError('disk.img: flush failed')") as process:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "stopped" not in out and err.splitlines()[-1].endswith("disk.img: flush failed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_starting_interrupts(number: signal.Signals) -> None:
    with serving("pass", start="time.sleep(60)", line="starting") as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
    assert process.returncode != 0 and err.splitlines()[-1] == "KeyboardInterrupt"


@pytest.mark.parametrize("signals", [1, 2])
def test_it_stops_in_order_when_nobody_reads_what_it_says(signals: int) -> None:
    """`userdisk serve ... | tee log`: Ctrl-C ends both; a closed terminal cannot be written to."""
    stop = "time.sleep(1); os.write(int(sys.argv[1]), b'flushed')"
    read, write = os.pipe()
    with (
        open(read, "rb") as told,
        open(write, "wb") as tell,
        serving(f"import os; {stop}", more=(str(write),), pass_fds=(write,)) as process,
    ):
        tell.close()
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        process.stderr.close()
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
        assert told.read() == b"flushed"
        process.wait(30)


AGAIN = ", lambda: print('again', flush=True)"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
def test_a_hangup_that_somebody_sends() -> None:
    """Without a terminal; while it stops it asks for nothing, and does not give up either."""
    with serving("time.sleep(1)", hangup=AGAIN, start_new_session=True) as process:
        assert process.stdout is not None
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == "again\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline().startswith("stopping")
        for _ in range(3):
            process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "stopped\n", "")


def _take_terminal(descriptor: int) -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="the system has no pseudo-terminals")
def test_the_hangup_of_a_closed_terminal() -> None:
    ours, theirs = os.openpty()
    with serving(
        "print('flushed', flush=True)", hangup=AGAIN,
        preexec_fn=lambda: _take_terminal(theirs), pass_fds=(theirs,),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        os.close(theirs)
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "again\n", "the terminal is still there"
        os.close(ours)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out.splitlines()[-2:], err) == (0, ["flushed", "stopped"], "")
