"""Opening and ejecting through launchers: which is asked, in which order, and what is said."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.desktop.fake_launcher import FakeLauncher, serve
from userdisk.desktop.launchers import RealLauncher, extensions
from userdisk.desktop.opening import Unknown, eject, extension, open_image
from userdisk.errors import UsageError, UserdiskError

_IMAGES = {"name": "image", "opens": [".img", ".rawdisk"]}


class Two:
    """The system's launcher and the user's own, both faked; each may be stopped."""

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / "system", folder / "own"]
        self.system = FakeLauncher([dict(_IMAGES)], mount_in="/run/media/me/disk")
        self.own = FakeLauncher([dict(_IMAGES)], mount_in="/home/me/disk")
        self._stacks = [ExitStack(), ExitStack()]
        for stack, fake, path in zip(
            self._stacks, (self.system, self.own), self.paths, strict=True
        ):
            stack.enter_context(serve(fake, path))

    def stop(self, which: int) -> None:
        self._stacks[which].close()
        self.paths[which].unlink(missing_ok=True)

    @property
    def launchers(self) -> list[RealLauncher]:
        titles = ("the system's launcher", "your launcher")
        return [RealLauncher(*each) for each in zip(self.paths, titles, strict=True)]


@pytest.fixture
def two() -> Iterator[Two]:
    folder = Path(tempfile.mkdtemp())  # sockets have short paths
    found = Two(folder)
    yield found
    found.stop(0)
    found.stop(1)
    shutil.rmtree(folder)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / 'a "b" \\ ü.IMG'
    path.touch()
    return path


def test_the_systems_is_first(two: Two, image: Path) -> None:
    assert open_image(str(image), two.launchers) == "/run/media/me/disk"
    assert two.own.requests == []
    [start] = [body for method, path, body in two.system.requests if path == "/v1/instances"]
    assert start == {"class": "image", "name": str(image), "arguments": [str(image)], "wait": True}


def test_a_link_is_the_image_it_leads_to(two: Two, image: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(image.name)
    open_image(str(link), two.launchers)
    assert two.system.instances[0]["name"] == str(image)
    assert eject(str(link), two.launchers, force=False) == str(image)


def test_what_runs_is_shown(two: Two, image: Path) -> None:
    first = open_image(str(image), two.launchers)
    assert open_image(str(image), two.launchers) == first
    assert len(two.system.instances) == 1


def test_what_somebody_else_has_open(two: Two, image: Path) -> None:
    two.stop(1)
    open_image(str(image), two.launchers)
    two.system.hidden = True
    with pytest.raises(UserdiskError, match="in use already, by somebody else"):
        open_image(str(image), two.launchers)


def test_what_runs_without_a_mount(two: Two, image: Path) -> None:
    open_image(str(image), two.launchers)
    two.system.instances[0]["mountpoints"] = []
    with pytest.raises(UserdiskError, match=r"in use already, as image\.0, but nobody"):
        open_image(str(image), two.launchers)
    assert len(two.system.instances) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda two: two.stop(0),
        lambda two: two.system.classes.clear(),
        lambda two: two.system.classes[0].update(opens=[]),
        lambda two: two.system.classes[0].update(may_start=False),
        lambda two: two.system.classes[0].update(error="image.toml: it is damaged"),
        lambda two: two.system.refuse.update(instances=(403, "me may not start image")),
    ],
    ids=["absent", "no class", "another class", "no right", "damaged", "refused"],
)
def test_the_users_own_is_second(two: Two, image: Path, change: object) -> None:
    change(two)  # type: ignore[operator]
    assert open_image(str(image), two.launchers) == "/home/me/disk"


def test_what_is_said_when_nobody_can(two: Two, image: Path, tmp_path: Path) -> None:
    other = tmp_path / "disk.other"
    other.touch()
    with pytest.raises(Unknown, match=r"disk\.other: no class of disks opens \.other; `sudo"):
        open_image(str(other), two.launchers)
    two.system.refuse["POSTinstances"] = (403, "you may not start image")
    two.stop(1)
    with pytest.raises(UserdiskError, match=r"you may not start image$"):
        open_image(str(image), two.launchers)
    two.system.classes[0]["may_start"] = False
    with pytest.raises(UserdiskError, match=r"you may not start disks of class image$"):
        open_image(str(image), two.launchers)
    two.stop(0)
    with pytest.raises(Unknown, match="sudo userdisk launcher install"):
        open_image(str(image), two.launchers)


def test_a_disk_that_cannot_be_mounted(two: Two, image: Path) -> None:
    """It does not stay."""
    two.system.mount_in = ""
    with pytest.raises(UserdiskError, match="class image does not mount its disks"):
        open_image(str(image), two.launchers)
    two.system.last_error = "attaching: the disk is blank"
    with pytest.raises(UserdiskError, match="the disk is blank"):
        open_image(str(image), two.launchers)
    assert two.system.instances == []


def test_a_failure_is_not_tried_elsewhere(two: Two, image: Path) -> None:
    """The image is somebody's, or damaged: another launcher would make it no better."""
    two.system.refuse["POSTinstances"] = (500, "the image is in use")
    with pytest.raises(UserdiskError, match="the image is in use") as caught:
        open_image(str(image), two.launchers)
    assert str(caught.value).startswith(f"{image}: ")
    assert two.own.requests == []


def test_what_is_no_image(two: Two, tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path, "a folder, not a disk image"),
        (tmp_path / "none.img", "No such file"),
        (Path("/dev/null"), "not a file"),
    ):
        with pytest.raises(UsageError, match=reason):
            open_image(str(path), two.launchers)
    with pytest.raises(UsageError, match="not a path"):
        open_image("a\0b", two.launchers)
    assert two.system.requests == []


@pytest.mark.parametrize(
    ("path", "ending"),
    [
        ("/a/disk.img", ".img"),
        ("/a.img/disk", ""),
        ("/a/disk.tar.IMG", ".img"),
        ("/a/.img", ""),
        ("/a/disk.", "."),
        ("disk", ""),
    ],
)
def test_extension(path: str, ending: str) -> None:
    assert extension(path) == ending


def test_two_clicks_at_once(two: Two, image: Path) -> None:
    """The second waits for what the first has begun."""
    open_image(str(image), two.launchers)
    two.system.instances[0]["state"] = "starting"
    two.system.ready_after = len(two.system.requests) + 5
    assert open_image(str(image), two.launchers) == "/run/media/me/disk"
    assert two.system.instances[0]["state"] == "running"


def test_eject(two: Two, image: Path, tmp_path: Path) -> None:
    """By its folder, its image or its id; at whatever launcher it is."""
    two.own.mount_in = str(tmp_path)
    two.system.refuse["POSTinstances"] = (403, "no")
    for target in (str(tmp_path), str(image), "image.0"):
        open_image(str(image), two.launchers)
        assert eject(target, two.launchers, force=False) == str(image)
        assert two.own.instances == []
    with pytest.raises(Unknown, match="no disk of userdisk is mounted there"):
        eject(str(tmp_path), two.launchers, force=False)


def test_eject_of_what_is_in_use(two: Two, image: Path) -> None:
    open_image(str(image), two.launchers)
    two.system.refuse["DELETE"] = (409, "busy: held by cat (pid 7)")
    with pytest.raises(UserdiskError, match=r"busy: held by cat \(pid 7\)"):
        eject(str(image), two.launchers, force=False)
    del two.system.refuse["DELETE"]
    eject(str(image), two.launchers, force=True)
    assert two.system.requests[-1][1].endswith("?force=true&timeout=120.0")


@pytest.mark.parametrize("status", [400, 403, 404, 500, 503])
def test_refusals_in_words(two: Two, image: Path, status: int) -> None:
    two.stop(1)
    two.system.refuse["POSTinstances"] = (status, "it says why")
    with pytest.raises(UserdiskError, match="it says why"):
        open_image(str(image), two.launchers)


def test_endings_of_all_classes(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two.own.classes = [{"name": "vault", "opens": [".vault"]}]
    monkeypatch.setattr("userdisk.desktop.launchers.api_sockets", lambda: iter(two.paths))
    assert set(extensions()) == {".img", ".rawdisk", ".vault"}
    two.stop(0)
    assert extensions() == [".vault"]
