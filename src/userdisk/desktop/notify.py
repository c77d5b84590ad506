"""Telling a person who has no terminal: a notification, else a window."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from html import escape
from typing import Final

_SECONDS: Final = 10.0
_TITLE: Final = "userdisk"
_LONGEST: Final = 1000  # characters; servers cut far earlier

#: Programs that show a message, in order of preference, and whether they stay until it is read.
_PROGRAMS: Final[tuple[tuple[str, bool, Callable[[str, str], list[str]]], ...]] = (
    (
        "notify-send",
        False,
        lambda icon, text: [f"--app-name={_TITLE}", f"--icon={icon}", "--", _TITLE, escape(text)],
    ),
    ("zenity", True, lambda icon, text: ["--error", "--no-markup", f"--text={text}"]),
    ("kdialog", True, lambda icon, text: ["--error", escape(text)]),
    ("xmessage", True, lambda icon, text: ["-center", "-default", "okay", text]),
)


def has_desktop(environment: Mapping[str, str]) -> bool:
    """Whether these variables lead to somebody's screen."""
    return any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def wanted() -> bool:
    """Whether standard error is read by nobody, and there is a desktop to tell."""
    try:
        terminal = os.isatty(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        terminal = False
    return not terminal and has_desktop(os.environ)


def tell(text: str, icon: str = "dialog-error") -> bool:
    """Show one message; whether some program took it.

    Blocks for seconds at most. A window stays until somebody closes it; this does not wait for it.
    """
    text = " ".join(text.split())[:_LONGEST]
    for name, stays, arguments in _PROGRAMS:
        program = shutil.which(name)
        if program is not None and _run([program, *arguments(icon, text)], stays):
            return True
    return False


def _run(command: list[str], stays: bool) -> bool:
    with contextlib.suppress(OSError):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(1.0 if stays else _SECONDS) == 0
        except subprocess.TimeoutExpired:
            if stays:
                process.returncode = 0  # it is left to its reader; Popen need not wait for it
                return True
            process.kill()
            process.wait()
    return False
