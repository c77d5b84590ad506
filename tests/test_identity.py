"""Identity: the same disk next time, wherever its state is, and never a new one unasked."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path

import pytest

from userdisk import UsageError, UserdiskError, identity
from userdisk.backend.file import FileUnit
from userdisk.backend.ram import RamUnit

_MIB = 1 << 20


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder / "userdisk"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "disk.img").write_bytes(bytes(_MIB))
    return folder / "disk.img"


def guid_of(path: Path, **arguments: bool) -> uuid.UUID:
    unit = FileUnit(path, **arguments)  # type: ignore[arg-type]
    unit.close()
    return unit.parameters.guid


def beside(path: Path) -> Path:
    return path.with_name(path.name + ".userdisk")


def test_beside_the_image_and_moved_with_it(image: Path, tmp_path: Path, state: Path) -> None:
    guid = guid_of(image)
    assert json.loads(beside(image).read_text()) == {"version": 1, "guid": str(guid)}
    assert guid_of(image) == guid
    assert guid_of(image, read_only=True) == guid
    os.symlink(image, tmp_path / "link")
    assert guid_of(tmp_path / "link") == guid
    moved = tmp_path / "moved.img"
    shutil.move(image, moved)
    shutil.move(beside(image), beside(moved))
    assert guid_of(moved) == guid
    assert not state.exists()


def test_a_read_only_disk_keeps_its_state_elsewhere_until_it_is_written(
    image: Path, state: Path
) -> None:
    guid = guid_of(image, read_only=True)
    assert not beside(image).exists()
    assert len(list(state.iterdir())) == 1
    assert guid_of(image, read_only=True) == guid
    assert guid_of(image) == guid
    assert beside(image).exists()
    assert list(state.iterdir()) == []


def test_nowhere_to_write(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(identity, "_write", no)
    unit = FileUnit(image)
    found = identity.identity_of(unit)
    assert "derives from its path" in found.note
    assert found.guid == unit.parameters.guid
    assert found.guid.version == 5
    unit.close()
    assert guid_of(image) == found.guid
    assert guid_of(image, new_guid=True) != found.guid
    assert found.save("reservations", [1]) is False
    assert found.get("reservations") == [1]


def test_a_new_disk_at_an_old_path_is_another_disk(image: Path) -> None:
    guid = guid_of(image)
    image.unlink()
    unit = FileUnit(image, size=_MIB)
    unit.close()
    assert unit.parameters.guid != guid
    assert guid_of(image) == unit.parameters.guid


def test_new_guid(image: Path, state: Path) -> None:
    guid = guid_of(image, read_only=True)
    new = guid_of(image, new_guid=True)
    assert new != guid
    assert guid_of(image) == guid_of(image, read_only=True) == new
    beside(image).unlink()
    assert guid_of(image) != guid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        '{"version": 1}',
        '{"version": 2, "guid": "4112a9a1-f079-4f3d-ba53-2d5df27d28b5"}',
        '{"version": 1, "guid": "many"}',
        '{"version": 1, "guid": 7}',
        '{"version": 1, "guid": "00000000-0000-0000-0000-000000000000"}',
        "\udcff",
        " " * (5 << 20),
    ],
)
def test_a_state_file_that_cannot_be_understood(image: Path, text: str) -> None:
    beside(image).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"disk\.img\.userdisk: not a state file") as caught:
        FileUnit(image)
    assert "\n" not in str(caught.value)
    assert beside(image).read_bytes() == text.encode(errors="surrogateescape")
    assert guid_of(image, new_guid=True) == guid_of(image)


def test_saved_state_lasts(image: Path) -> None:
    unit = FileUnit(image)
    found = identity.identity_of(unit)
    assert found.save("mode_pages", {"08": "0012"}) is True
    unit.close()
    again = FileUnit(image)
    assert identity.identity_of(again).get("mode_pages") == {"08": "0012"}
    identity.identity_of(again).save("mode_pages", None)
    again.close()
    assert json.loads(beside(image).read_text()) == {"version": 1, "guid": str(found.guid)}
    assert sorted(os.listdir(image.parent)) == ["disk.img", "disk.img.userdisk"]


def test_a_failed_save_keeps_the_old_state(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = FileUnit(image)
    found = identity.identity_of(unit)
    found.save("a", 1)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(UserdiskError, match="No space left"):
            found.save("a", 2)
    assert found.get("a") == 1
    unit.close()
    again = FileUnit(image)
    assert identity.identity_of(again).get("a") == 1
    again.close()
    assert sorted(os.listdir(image.parent)) == ["disk.img", "disk.img.userdisk"]


def test_two_disks_with_one_identity(image: Path) -> None:
    copy = image.with_name("copy.img")
    guid_of(image)
    shutil.copy(image, copy)
    shutil.copy(beside(image), beside(copy))
    units = [FileUnit(image), RamUnit(size=_MIB), FileUnit(copy)]
    with pytest.raises(UsageError, match=r"disk\.img and .*copy\.img .*--new-guid"):
        identity.check_unique(units)
    units[2].close()
    units[2] = FileUnit(copy, new_guid=True)
    identity.check_unique(units)
    for unit in units:
        unit.close()


def test_different_things_have_different_places() -> None:
    places = [identity.named("a.py:Disk"), identity.named("b.py:Disk"), identity.device("/dev/x")]
    assert len({place.write for place in places}) == 3


def test_names_that_are_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a state of its own; that of a plain name is where it has always been."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    namespace = uuid.UUID("6b7a4b0e-6a0c-4f55-9b0e-5d1f6c9e2a11")
    files = set()
    for name in (
        "/a/disk.py:Disk",
        "/a/d\udce4sk.py:Disk",
        "/a/d\N{LATIN SMALL LETTER I WITH DIAERESIS}sk",
    ):
        place = identity.named(name)
        files.update(place.write)
        if name.isascii():
            assert uuid.uuid5(namespace, name).hex in place.write[0]
        unit = RamUnit(size=_MIB)
        assert identity.identify(unit, place).path == place.write[0]
        monkeypatch.setattr(identity, "_put", lambda *_: False)
        assert identity.identify(RamUnit(size=_MIB), place).guid == unit.guid, "it is kept"
        monkeypatch.undo()
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert len(files) == 3
    # As another locale reads the same bytes.
    text = "d\N{LATIN SMALL LETTER I WITH DIAERESIS}sk"
    bytes_ = text.encode().decode("ascii", "surrogateescape")
    assert identity.named(text).write[0][-37:] == identity.named(bytes_).write[0][-37:]
