"""Clicks in real file managers on an X server, by somebody without rights; a faked launcher."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.desktop.fake_launcher import FakeLauncher, serve
from tests.desktop.session import PROGRAMS, Session, wait_for
from tests.kit.requires import requires

pytestmark = [
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="not root"),
    requires(*PROGRAMS, "thunar"),
]

_NAME = "50% off; $HOME 'x'.img"
#: Where the only icon of a window at the upper left corner is, in pixels.
_ICON = {"pcmanfm": ("207", "97"), "thunar": ("235", "108")}


@pytest.fixture
def session() -> Iterator[Session]:
    """Folders are shown by PCManFM, whoever opens them."""
    with Session() as found:
        found.start_screen()
        found.userdisk("desktop", "install")
        (found.home / ".config/mimeapps.list").write_text(
            "[Default Applications]\ninode/directory=pcmanfm.desktop;\n"
        )
        yield found


@pytest.fixture
def launcher(session: Session) -> Iterator[FakeLauncher]:
    """It mounts disks on a folder of the session."""
    folder = session.folder / "the disk"
    folder.mkdir()
    fake = FakeLauncher([{"name": "image", "opens": [".img"]}], mount_in=str(folder))
    with serve(fake, session.run_folder / "launcher" / "api"):
        yield fake


@pytest.fixture
def image(session: Session) -> Path:
    folder = session.home / "images"
    folder.mkdir()
    path = folder / _NAME
    path.write_bytes(b"\0" * 4096)
    return session.give(path)


def test_gio_open(session: Session, launcher: FakeLauncher, image: Path) -> None:
    session.run("gio", "open", image)
    wait_for("disk", lambda: launcher.instances)
    assert launcher.instances[0]["name"] == str(image)
    wait_for("window of the folder", lambda: session.windows("^the disk$"))


@pytest.mark.parametrize("program", ["pcmanfm", "thunar"])
def test_double_click_and_eject(
    session: Session, launcher: FakeLauncher, image: Path, program: str
) -> None:
    """A double click mounts the image and shows the folder; its menu ejects it."""
    _until(
        lambda: session.start(program, image.parent),
        lambda: bool(session.windows(r"^images\b")),
        seconds=20,
    )

    def double_click() -> None:
        session.run("xdotool", "mousemove", *_ICON[program], "click", "--repeat", "2", "1")

    def eject() -> None:
        """It is the last entry but the properties."""
        session.run("xdotool", "key", "Escape", "mousemove", *_ICON[program], "click", "3")
        time.sleep(1)  # the menu is drawn; if it is not, this is done again
        session.run("xdotool", "key", "Up", "Up", "Return")

    _until(double_click, lambda: bool(launcher.instances))
    assert [each["name"] for each in launcher.instances] == [str(image)]
    wait_for("window of the folder", lambda: session.windows("^the disk$"))
    if program == "pcmanfm":
        session.run("xdotool", "key", "ctrl+w")  # it was a tab of the same window
    else:
        for window in session.windows("^the disk$"):
            session.run("xdotool", "windowunmap", window, check=False)
    wait_for("end of it", lambda: not session.windows("^the disk$"))
    _until(eject, lambda: not launcher.instances)
    ejects = [path for method, path, _ in launcher.requests if method == "DELETE"]
    assert ejects == ["/v1/instances/image.0?force=false&timeout=120.0"]


def test_what_went_wrong_is_shown_in_a_window(
    session: Session, launcher: FakeLauncher, image: Path
) -> None:
    """Nobody takes notifications here."""
    launcher.refuse["POSTinstances"] = (403, "you may not start it")
    session.run("gio", "open", image)
    wait_for("message", lambda: session.windows("^xmessage$"))
    assert launcher.instances == []


def _until(act: Callable[[], object], done: Callable[[], bool], seconds: float = 8) -> None:
    """Do it again as long as the window did not notice."""

    def tried() -> bool:
        if not done():
            act()
            deadline = time.monotonic() + seconds
            while not done() and time.monotonic() < deadline:
                time.sleep(0.1)
        return done()

    wait_for("effect", tried)
