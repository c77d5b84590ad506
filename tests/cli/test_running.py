"""Signals: the first stops in order, the second says what is waited for, the third gives up."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
    signals.wait_and_stop(stop, lambda: "the flush of disk.img")
print("stopped", flush=True)
"""


@contextmanager
def serving(stop: str, start: str = "", line: str = "serving") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(stop=stop, start=start)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
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
