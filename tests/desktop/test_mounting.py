"""The whole way: a click by somebody without rights, root's launcher, a mounted file system."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.desktop.session import NOBODY, PROGRAMS, SECONDS, Session, wait_for
from tests.kit.requires import requires
from userdisk.desktop.pieces import image_class

pytestmark = [
    pytest.mark.skipif(
        os.name != "posix" or os.geteuid() != 0 or not os.path.exists("/dev/fuse"),
        reason="not root, or no /dev/fuse",
    ),
    requires(*PROGRAMS, "mkfs.ext4", "mkntfs", "ntfs-3g"),
]


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Root's launcher with the class that installing adds; its mounts are in the session."""
    with Session() as found:
        found.start_screen()
        found.userdisk("desktop", "install")
        (found.home / ".config/mimeapps.list").write_text(
            "[Default Applications]\ninode/directory=pcmanfm.desktop;\n"
        )
        classes = found.folder / "classes.d"
        classes.mkdir()
        given = image_class(classes)
        given.path.write_text(given.text.replace("/run/media", str(_media(found))))
        with (found.folder / "launcher.log").open("wb") as log:
            service = subprocess.Popen(
                [found.python, "-P", "-m", "userdisk", "launcher", "run"],
                env={
                    "PATH": found.environment["PATH"],
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "USERDISK_RUN": str(found.run_folder),
                    "USERDISK_STATE": str(found.folder / "state"),
                    "USERDISK_CLASSES": str(classes),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_for("launcher", lambda: _answers(found.run_folder / "launcher" / "api"))
            yield found
        finally:
            for folder in _mounted(found):
                found.userdisk("eject", "--force", folder, check=False)
            service.send_signal(signal.SIGTERM)
            service.wait(SECONDS)
            for folder in _mounted(found):
                subprocess.run(["umount", "-l", folder], check=False)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _media(session: Session) -> Path:
    return session.folder / "media"


def _mounted(session: Session) -> list[Path]:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    places = [line.split()[1].encode().decode("unicode_escape") for line in lines]
    return [Path(place) for place in places if place.startswith(str(_media(session)))]


def _image(session: Session, name: str, *format_: str) -> Path:
    path = session.home / name
    with path.open("wb") as file:
        file.truncate(32 << 20)
    if format_:
        subprocess.run([*format_, path], check=True, capture_output=True)
    return session.give(path)


_EXT4 = ("mkfs.ext4", "-q", "-F", "-E", f"root_owner={NOBODY}:{NOBODY}")
_NTFS = ("mkntfs", "-q", "-Q", "-F")


@pytest.mark.parametrize("format_", [_EXT4, _NTFS], ids=["ext4", "ntfs"])
def test_a_click_mounts_and_eject_writes(session: Session, format_: tuple[str, ...]) -> None:
    """gio open, as a file manager does it; the folder is shown; what is written is kept."""
    image = _image(session, "holiday pictures.img", *format_)
    folder = _media(session) / "nobody" / "holiday pictures"
    session.run("gio", "open", image)
    wait_for("mount", folder.is_mount)
    wait_for("window of the folder", lambda: session.windows("^holiday pictures$"))
    session.run("cp", "/etc/hostname", folder / "a file")
    options = next(
        line for line in Path("/proc/self/mounts").read_text().splitlines() if "holiday" in line
    )
    assert "nosuid" in options and "nodev" in options
    assert session.userdisk("open", "--no-show", image) == f"{folder}\n"  # again: the same
    said = session.userdisk("eject", folder)
    assert "is ejected" in said
    assert not folder.exists()
    again = session.userdisk("open", "--no-show", image).strip()
    assert (Path(again) / "a file").read_bytes() == Path("/etc/hostname").read_bytes()
    session.userdisk("desktop", "eject", image)
    assert _mounted(session) == []
    assert image.stat().st_uid == NOBODY


def test_two_images_of_one_name(session: Session) -> None:
    (session.home / "more").mkdir()
    images = [_image(session, name, *_EXT4) for name in ("disk.img", "more/disk.rawdisk")]
    said = session.userdisk("open", "--no-show", *images).splitlines()
    assert [Path(each).name for each in said] == ["disk", "disk-2"]
    assert all(Path(each).is_mount() for each in said)
    session.userdisk("desktop", "eject", *said)
    assert _mounted(session) == []


def test_a_disk_in_use_stays(session: Session) -> None:
    image = _image(session, "busy.img", *_EXT4)
    folder = Path(session.userdisk("open", "--no-show", image).strip())
    (folder / "file").write_text("x")
    with (folder / "file").open():
        done = session.run(session.python, "-P", "-m", "userdisk", "eject", folder, check=False)
        assert done.returncode == 1
        assert str(os.getpid()) in done.stderr, "who holds it is named"
        assert folder.is_mount()
    session.userdisk("eject", folder)
    assert _mounted(session) == []


def test_files_of_others_are_not_opened(session: Session) -> None:
    """Root's launcher reads for the user what the user may read, and nothing else."""
    image = _image(session, "secret.img", *_EXT4)
    os.chown(image, 0, 0)
    image.chmod(0o600)
    done = session.run(
        session.python, "-P", "-m", "userdisk", "open", "--no-show", image, check=False
    )
    assert done.returncode in (1, 2)
    assert "ermission denied" in done.stderr
    assert _mounted(session) == []


@pytest.mark.parametrize("name", ["blank.img", "odd.img"])
def test_what_cannot_be_mounted_does_not_stay(session: Session, name: str) -> None:
    image = _image(session, name)
    if name == "odd.img":
        image.write_bytes(b"not a disk")
        session.give(image)
    done = session.run(
        session.python, "-P", "-m", "userdisk", "open", "--no-show", image, check=False
    )
    assert done.returncode in (1, 2)
    assert done.stderr.startswith(f"userdisk: {image}: "), done.stderr
    again = session.run(
        session.python, "-P", "-m", "userdisk", "open", "--no-show", image, check=False
    )
    first, second = (each.stderr.split(";")[0].strip() for each in (done, again))
    assert first == second, "nothing of the first try is left"
