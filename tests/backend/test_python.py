"""Classes of the user's own: found, created, and refused with one line that says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from userdisk import StorageUnit, UsageError
from userdisk.backend import open_unit
from userdisk.identity import identity_of

_DISK = """
from userdisk import StorageUnit

class Disk(StorageUnit):
    block_count = 2048

    def read(self, lba, blocks, fua):
        return bytes(blocks * self.block_length)

    def write(self, lba, data, fua):
        pass
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])


def written(tmp_path: Path, text: str, name: str = "disk.py") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def refused(spec: str, *parts: str, **arguments: object) -> None:
    with pytest.raises(UsageError) as caught:
        open_unit(spec, **arguments)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, _DISK)
    unit = open_unit(f"{path}:Disk")
    assert unit.block_count == 2048
    assert open_unit("./disk.py:Disk").parameters.guid == unit.parameters.guid
    assert type(open_unit("disk.py:Disk")) is type(unit)
    assert open_unit("disk.py:Disk", size=1 << 30, block_length=4096).block_count == 1 << 18


def test_a_module_of_this_folder(tmp_path: Path) -> None:
    written(tmp_path, _DISK, "my_disk_module.py")
    assert open_unit("my_disk_module:Disk").block_count == 2048


def test_identity_follows_the_options(tmp_path: Path) -> None:
    path = written(tmp_path, _DISK + "    def __init__(self, where):\n        super().__init__()\n")
    first = open_unit(f"{path}:Disk", options={"where": "a"}).parameters.guid
    assert open_unit(f"{path}:Disk", options={"where": "b"}).parameters.guid != first
    assert open_unit(f"{path}:Disk", options={"where": "a"}).parameters.guid == first
    new = open_unit(f"{path}:Disk", options={"where": "a"}, new_guid=True).parameters.guid
    assert new != first
    assert open_unit(f"{path}:Disk", options={"where": "a"}).parameters.guid == new


def test_a_guid_that_the_class_sets(tmp_path: Path) -> None:
    guid = "4112a9a1-f079-4f3d-ba53-2d5df27d28b5"
    path = written(tmp_path, _DISK + f"    guid = {guid!r}\n")
    unit = open_unit(f"{path}:Disk")
    assert str(identity_of(unit).guid) == guid
    assert not (tmp_path / "state").exists()
    refused(f"{path}:Disk", "sets its guid itself", new_guid=True)


def test_options_are_converted(tmp_path: Path) -> None:
    text = _DISK + (
        "    def __init__(self, *, path: str, cache: int, slow: bool = False,\n"
        "                 rate: 'float | None' = None, name='x'):\n"
        "        super().__init__()\n"
        "        self.got = (path, cache, slow, rate, name)\n"
    )
    spec = f"{written(tmp_path, text)}:Disk"
    options = {"path": "7", "cache": "64K", "slow": "yes", "rate": "0.5", "name": "n"}
    assert open_unit(spec, options=options).got == ("7", 65536, True, 0.5, "n")  # type: ignore[attr-defined]
    refused(spec, "needs cache", "--option cache=", options={"path": "x"})
    refused(spec, "option cache", "whole number", options={**options, "cache": "many"})
    refused(spec, "option slow", "yes or no", options={**options, "slow": "maybe"})
    refused(spec, "option rate", "number", options={**options, "rate": "fast"})
    refused(spec, "no option colour", options={**options, "colour": "red"})
    refused(spec, "--size", "neither block_count nor size", size=4096, options=options)
    refused(spec, "--block-length", block_length=4096, options=options)


def test_what_init_does_not_take_is_set_afterwards(tmp_path: Path) -> None:
    text = (
        _DISK
        + "    def __init__(self, size: int):\n        super().__init__(block_count=size // 512)\n"
    )
    spec = f"{written(tmp_path, text)}:Disk"
    unit = open_unit(
        spec, size=1 << 20, read_only=True, product_id="mine", removable=True, thick=True
    )
    assert unit.parameters.write_protected and unit.parameters.removable
    assert not unit.parameters.unmap_supported
    assert unit.parameters.product_id == "mine"
    assert unit.block_count == 2048
    refused(spec, "needs size", "--size")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("import no_such_thing\n", ("line 1", "ModuleNotFoundError", "no_such_thing")),
        ("x = 1\n\ny = 1 / 0\n", ("line 3", "ZeroDivisionError")),
        ("x = 1\ndef f(:\n", ("line 2", "SyntaxError")),
        ("def f():\n    raise OSError('a\\nb')\nf()\n", ("line 2", "OSError: a b")),
        ("raise SystemExit(3)\n", ("line 1", "SystemExit")),
        ("", ("has no class Disk",)),
        (_DISK.replace("Disk(", "Drive("), ("has no class Disk", "it has Drive")),
        ("Disk = 1\n", ("Disk is not a class",)),
        ("class Disk: pass\n", ("not a subclass of userdisk.StorageUnit",)),
        (_DISK.replace("def read", "def peek"), ("Disk", "has no read(lba, blocks, fua)")),
        (_DISK.replace("lba, blocks, fua", "lba"), ("Disk.read",)),
        (_DISK.replace("2048", "0"), ("block_count",)),
        (_DISK.replace("2048", "'many'"), ("block_count", "whole number")),
        (
            _DISK + "    def __init__(self):\n        self.file = open('/no/such')\n",
            ("disk.py line 13", "FileNotFoundError"),
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, text: str, parts: tuple[str, ...]
) -> None:
    refused(f"{written(tmp_path, text)}:Disk", *parts)


def test_specs_that_name_nothing(tmp_path: Path) -> None:
    written(tmp_path, _DISK)
    refused("disk.py", "disk.py:Class")
    refused("none.py:Disk", "no such file")
    refused("no_such_module:Disk", "no such module")
    refused("", "ram:SIZE")
    refused("ram:", "needs a size")
    refused("ram:lots", "ram:lots", "not a size")
    refused("ram:1M", "another size", size=4096)
    refused("ram:1M", "no option colour", options={"colour": "red"})
    refused(str(tmp_path), "not a file")
    refused("/dev/null", "not a file")
    refused("x\0y", "not a path")


@pytest.mark.parametrize("kind", ["ram", "image", "class"])
def test_removable_and_thick(tmp_path: Path, kind: str) -> None:
    text = _DISK + "\n    def unmap(self, extents):\n        pass\n"
    spec = {
        "ram": "ram:1M",
        "image": str(tmp_path / "disk.img"),
        "class": f"{written(tmp_path, text)}:Disk",
    }[kind]
    for removable, thick in ((False, False), (True, False), (False, True)):
        unit = open_unit(spec, size=1 << 20, removable=removable, thick=thick)
        assert unit.parameters.removable is removable
        assert unit.parameters.unmap_supported is not thick
        unit.close()


def test_ram_is_a_new_disk_each_time_unless_it_is_given_a_guid() -> None:
    guid = "4112a9a1-f079-4f3d-ba53-2d5df27d28b5"
    units = [open_unit("ram:1M"), open_unit("ram:", size=1 << 20)]
    units.append(open_unit("ram:1M", options={"guid": guid}, read_only=True))
    assert len({unit.parameters.guid for unit in units}) == 3
    assert str(units[2].parameters.guid) == guid
    assert units[2].parameters.write_protected
    assert all(isinstance(unit, StorageUnit) and unit.parameters.size == 1 << 20 for unit in units)
