"""What was installed, as the tools of desktops see it: xdg-utils, GLib, desktop-file-utils."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.desktop.session import Session
from tests.kit.requires import requires
from userdisk.desktop.mime_types import OWN_TYPE
from userdisk.desktop.pieces import OPENER

pytestmark = [
    pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="not root"),
    requires(
        "desktop-file-validate", "gio", "update-desktop-database", "update-mime-database",
        "mimetype", "xdg-mime", "xmllint",
    ),
]  # fmt: skip

_RAW = "application/x-raw-disk-image"


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with Session() as found:
        yield found


@pytest.fixture
def installed(session: Session) -> Iterator[Session]:
    session.userdisk("desktop", "install")
    yield session
    session.userdisk("desktop", "uninstall")
    assert list(session.home.iterdir()) == []


def test_the_opener_is_valid(installed: Session) -> None:
    applications = installed.home / ".local/share/applications"
    said = installed.run("desktop-file-validate", applications / OPENER)
    assert said.stdout + said.stderr == ""


def test_the_xml_is_well_formed(installed: Session) -> None:
    installed.run("xmllint", "--noout", installed.home / ".local/share/mime/packages/userdisk.xml")
    installed.run("xmllint", "--noout", installed.home / ".config/Thunar/uca.xml")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.rawdisk", OWN_TYPE), ("B.RAWDISK", OWN_TYPE), ("c.img", _RAW), ("d.iso", "iso"),
     ("e.zip", "application/zip")],
)  # fmt: skip
def test_types(installed: Session, tmp_path: Path, name: str, kind: str) -> None:
    image = installed.give(_write(installed.home / name, b"\0" * 4096))
    try:
        by_xdg = installed.run("xdg-mime", "query", "filetype", image).stdout.strip()
        by_gio = installed.run("gio", "info", "-a", "standard::content-type", image).stdout
        if kind == "iso":
            assert OWN_TYPE not in (by_xdg, by_gio.split()[-1])
        else:
            assert by_xdg == kind
            assert by_gio.split()[-1] == kind
    finally:
        image.unlink()


def test_the_opener_opens_them(installed: Session) -> None:
    for kind in (OWN_TYPE, _RAW):
        assert installed.run("xdg-mime", "query", "default", kind).stdout.strip() == OPENER
        assert OPENER in installed.run("gio", "mime", kind).stdout


def test_another_application_stays_unless_asked(session: Session) -> None:
    applications = session.home / ".local/share/applications"
    session.run("mkdir", "-p", applications, session.home / ".config")
    other = _write(
        applications / "other.desktop",
        f"[Desktop Entry]\nType=Application\nName=Other\nExec=true %f\nMimeType={_RAW};\n".encode(),
    )
    mimeapps = session.home / ".config/mimeapps.list"
    session.run("xdg-mime", "default", "other.desktop", _RAW)
    before = mimeapps.read_bytes()

    def default() -> str:
        return session.run("xdg-mime", "query", "default", _RAW).stdout.strip()

    try:
        session.userdisk("desktop", "install")
        assert default() == "other.desktop"
        assert mimeapps.read_bytes() == before
        session.userdisk("desktop", "install", "--default")
        assert default() == OPENER
        assert "other.desktop" in session.run("gio", "mime", _RAW).stdout
        session.userdisk("desktop", "uninstall")
        assert default() == "other.desktop"
        assert mimeapps.read_bytes() == before
    finally:
        other.unlink()
        session.run("rm", "-r", session.home / ".local", session.home / ".config")


def test_status(installed: Session) -> None:
    assert "missing     the default application" in installed.userdisk("desktop", "status")
    (installed.home / ".local/share/applications" / OPENER).unlink()
    done = installed.run(
        installed.python, "-P", "-m", "userdisk", "desktop", "status", "--json", check=False
    )
    assert done.returncode == 1
    assert '"state": "missing"' in done.stdout


def test_for_all_users_it_must_be_within_reach(session: Session) -> None:
    done = session.run(
        session.python, "-P", "-m", "userdisk", "desktop", "install", "--system", check=False
    )
    assert done.returncode == 1
    assert "needs root" in done.stderr


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_for_all_users(session: Session) -> None:
    """Root installs; somebody else's desktop opens images without having installed anything."""
    share = session.folder / "share"
    variables = {
        "XDG_DATA_DIRS": f"{share}:/usr/share",
        "XDG_CONFIG_DIRS": str(session.folder / "xdg"),
    }
    image = session.give(_write(session.home / "a.rawdisk", b"\0" * 4096))

    def as_root(*arguments: str) -> None:
        subprocess.run(
            [session.python, "-P", "-m", "userdisk", "desktop", *arguments, "--system"],
            env=session.environment
            | variables
            | {
                "USERDISK_STATE": str(session.folder / "state"),
                "USERDISK_CLASSES": str(session.folder / "classes.d"),
            },
            check=True,
            capture_output=True,
        )

    try:
        as_root("install")
        as_root("status")
        done = session.run("xdg-mime", "query", "default", OWN_TYPE, environment=variables)
        assert done.stdout.strip() == OPENER
        done = session.run(
            "gio", "info", "-a", "standard::content-type", image, environment=variables
        )
        assert done.stdout.split()[-1] == OWN_TYPE
        assert (session.folder / "classes.d" / "image.toml").stat().st_mode & 0o777 == 0o644
        as_root("uninstall")
        left = ("share", "xdg", "state", "classes.d")
        assert not [name for name in left if (session.folder / name).exists()]
    finally:
        image.unlink()
