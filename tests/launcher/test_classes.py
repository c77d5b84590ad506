"""launcher/classes.py: class files, and what a shim is given of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("msgspec")

from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import classes
from userdisk.launcher.rights import Caller
from userdisk.launcher.spec import Limits, Policy, Restart

OWN = Caller(os.getuid(), os.getgid())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("USERDISK_CLASSES", str(tmp_path))
    yield tmp_path


def write(folder: Path, text: str, name: str = "img") -> None:
    path = folder / f"{name}.toml"
    path.write_text(text)
    path.chmod(0o644)


FULL = """
description = "Everything"
program = ["/opt/disk", "-f", "%1", "--name=%n", "%@"]
speaks = "nbd"
opens = [".img", ".raw"]
directory = "/var"
environment = { MODE = "%2", PLAIN = "x" }
user = "%u"
listen = "[::1]:3300"
target = "iqn.2026-11.io.userdisk:%n"
chap-file = "/etc/chap"
initiators = ["iqn.2026-11.x:y"]
persistent = true
may-start = ["*"]
start-timeout = 5
stop-timeout = 2.5
log-size = "64K"
[options]
size = "1G"
block-length = 4096
read-only = true
option = ["key=%1"]
[limits]
memory = "512M"
cpu = 0.5
[restart]
when = "always"
first-delay = 1
longest-delay = 2
starts = 3
period = 4
[attach]
mount = "/media/%u/%n"
mount-options = ["noatime"]
format = "ext4"
partition = 1
"""


def test_everything_that_a_class_can_say(folder: Path) -> None:
    write(folder, FULL)
    spec = classes.load("img").spec("img", "a/../b", ["one", "two", "three"], OWN)
    plain = spec.id.removeprefix("img.")
    assert spec.program == ("/opt/disk", "-f", "one", "--name=a/../b", "three")
    assert (spec.speaks, spec.unit, spec.directory) == ("nbd", "", "/var")
    assert spec.environment == {"MODE": "two", "PLAIN": "x"}
    assert spec.user == OWN.name and spec.started_by == OWN.uid
    assert (spec.host, spec.port) == ("::1", 3300)
    assert spec.target == "iqn.2026-11.io.userdisk:a/../b"
    assert spec.options == {
        "size": "1G", "block_length": "4096", "read_only": True, "option": ["key=one"],
    }  # fmt: skip
    assert (spec.limits.memory, spec.limits.cpu) == (512 << 20, 0.5)
    policy = spec.policy
    assert policy.restart is Restart.ALWAYS
    assert (policy.first_delay, policy.longest_delay, policy.starts, policy.period) == (1, 2, 3, 4)
    assert (spec.start_timeout, spec.stop_timeout, spec.log_bytes) == (5, 2.5, 64 << 10)
    attach = spec.attach
    assert attach.wanted and attach.mount == f"/media/{OWN.name}/{plain}" and "/" not in plain
    assert (attach.format, attach.partition, attach.mount_options) == ("ext4", 1, ("noatime",))
    assert spec.persistent and spec.iscsi


def test_the_least_that_a_class_can_say(folder: Path) -> None:
    write(folder, 'unit = "ram:1M"')
    spec = classes.load("img").spec("img", "x", [], OWN)
    assert spec.unit == "ram:1M" and not spec.attach.wanted and not spec.persistent
    assert spec.options == {} and spec.user == "" and spec.host == "127.0.0.1"
    assert spec.policy == Policy(Restart.ON_FAILURE, 0.2, 30.0, 100, 600.0)
    assert spec.limits == Limits(0, 0.0)
    assert (spec.start_timeout, spec.stop_timeout, spec.log_bytes) == (60.0, 10.0, 1 << 20)
    assert (spec.port, spec.speaks, spec.iscsi, spec.target) == (0, "spd", True, "")
    assert classes.load("img").may_start == classes.load("img").may_stop == []


def test_what_a_class_says_of_its_options(folder: Path) -> None:
    write(folder, 'unit = "x.img"\n[options]\nsize = "%1"\nblock-length = "%2"\nthick = true')
    spec = classes.load("img").spec("img", "x", ["1G", "4096"], OWN)
    assert spec.options == {"size": "1G", "block_length": "4096", "thick": True}


def test_a_program_takes_nine_arguments(folder: Path) -> None:
    write(folder, 'program = ["p", "%@"]\nlisten = "a:65535"')
    nine = [str(number) for number in range(9)]
    spec = classes.load("img").spec("img", "x", nine, OWN)
    assert spec.program == ("p", *nine) and (spec.host, spec.port) == ("a", 65535)


@pytest.mark.parametrize(
    ("text", "mount"),
    [("", ""), ("partition = 2", ""), ('mount = "/x"', "/x"), ('mount = "{0}/%n"', "{0}/there"),
     ('mount = "{0}/%l"', "{0}/there-2")],
)  # fmt: skip
def test_where_it_is_mounted(folder: Path, text: str, mount: str) -> None:
    """Another folder only where many images have one name."""
    (folder / "there" / "kept").mkdir(parents=True)
    write(folder, f'unit = "x"\n[attach]\n{text.format(folder)}')
    attach = classes.load("img").spec("img", "there", [], OWN).attach
    assert attach.wanted and attach.mount == mount.format(folder)


def test_other_files_are_no_classes(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"\(classes there: none\)$"):
        classes.load("nope")
    write(folder, 'unit = "ram:1M"')
    for name in ("README", ".toml", "img.toml.old"):
        (folder / name).touch()
    assert classes.names() == ["img"]
    with pytest.raises(UsageError, match=r"\(classes there: img\)$"):
        classes.load("nope")


def test_no_class_is_read_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "classes"
    inside.mkdir()
    monkeypatch.setenv("USERDISK_CLASSES", str(inside))
    write(tmp_path, 'unit = "ram:1M"', "outside")
    for name in ("../outside", str(tmp_path / "outside"), "."):
        with pytest.raises(UsageError, match="must be 1 to 63 of"):
            classes.load(name)


def test_it_is_read_afresh(folder: Path) -> None:
    write(folder, 'unit = "ram:1M"')
    assert classes.load("img").unit == "ram:1M"
    write(folder, 'unit = "ram:2M"')
    assert classes.load("img").unit == "ram:2M"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "unit or a program"),
        ('unit = "x"\nprogram = ["y"]', "unit or a program"),
        ("program = []", "unit or a program"),
        ('program = [""]', "unit or a program"),
        ("unit = 1", "`unit`"),
        ('unit = "x"\ncolour = "red"', "img.toml: there is no key colour"),
        ('unit = "x"\ncolour = "red"\n', "/img.toml: there is no key colour$"),
        ('unit = "x"\nmay_start = ["*"]', "there is no key may_start"),
        ('unit = "x"\nsize = "1M"', "no key size; it belongs to [options]"),
        (
            'unit = "x"\n[attach]\nmemory = "1M"',
            "key memory in [attach]; it belongs to [limits]",
        ),
        ('unit = "x"\n[options]\npersistent = true', "it belongs to the top of the file"),
        ('unit = "x"\nlisten = "a:b"', "listen"),
        ('unit = "x"\nlisten = "a:70000"', "listen"),
        ('unit = "x"\nopens = ["img"]', "opens"),
        ('unit = "x"\nlog-size = "1GB"', "log-size"),
        ('unit = "x"\nlog-size = -1', "log-size"),
        ('unit = "x"\nspeaks = "smb"', "speaks"),
        ('unit = "x"\nstop-timeout = -1', "stop-timeout"),
        ('unit = "x"\n[limits]\nmemory = "lots"', "limits.memory"),
        ('unit = "x"\n[restart]\nwhen = "maybe"', "restart.when"),
        ('unit = "x"\nlisten = "a:65536"', "listen"),
        ('unit = "x"\n[attach]\nmount = "/x"\nformat = "ext5"', "attach.format 'ext5': must be"),
        ('unit = "x"\n[attach]\nformat = "ext4"', "attach.mount"),
        ('unit = "x', "nterminated"),
        ("unit = [" + "[" * 5000, "img.toml"),
        ('unit = "\xff\xfe"'.encode("latin-1").decode("latin-1") + "\0", "img.toml"),
        ("# " + "x" * (64 << 10), "longer than"),
    ],
)
def test_a_wrong_file_is_said_and_disables_only_its_class(
    folder: Path, text: str, said: str
) -> None:
    write(folder, text)
    write(folder, 'unit = "ram:1M"', "good")
    with pytest.raises(UserdiskError, match="class img") as caught:
        classes.load("img")
    assert said in f"{caught.value}$" and "\n" not in str(caught.value)
    assert classes.names() == ["good", "img"]
    assert classes.load("good").unit == "ram:1M"


@pytest.mark.parametrize(
    ("mode", "uid", "believed"),
    [
        (0o600, 1234, True),
        (0o644, 1234, True),
        (0o755, 0, True),
        (0o666, 1234, False),
        (0o620, 0, False),  # the group may
        (0o602, 1234, False),
        (0o644, 1, False),
        (0o644, 4321, False),
    ],
)
def test_a_file_that_others_may_write_is_not_believed(
    folder: Path, mode: int, uid: int, believed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, 'unit = "ram:1M"')
    (folder / "img.toml").chmod(mode)
    real = os.fstat

    def owned(descriptor: int) -> os.stat_result:
        found = list(real(descriptor))
        found[4] = uid
        return os.stat_result(found)

    monkeypatch.setattr(classes.os, "fstat", owned)
    monkeypatch.setattr(classes.os, "getuid", lambda: 1234)
    if believed:
        assert classes.load("img").unit == "ram:1M"
        return
    with pytest.raises(UserdiskError, match="nobody else may write it"):
        classes.load("img")


@pytest.mark.parametrize("name", ["nope", "../img", "IMG", "", "img.toml"])
def test_a_class_that_is_not_there(folder: Path, name: str) -> None:
    write(folder, 'unit = "ram:1M"')
    with pytest.raises(UsageError, match="class"):
        classes.load(name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "argument 1 is missing"), (["a", "b"], "argument 2"), (["a"] * 10, "10 arguments"),
     (["a\0b"], "NUL")],
)  # fmt: skip
def test_arguments_that_do_not_fit(folder: Path, arguments: list[str], said: str) -> None:
    write(folder, 'unit = "%1"')
    with pytest.raises(UsageError, match=said):
        classes.load("img").spec("img", "x", arguments, OWN)


@pytest.mark.parametrize("mount", ["%1", "relative", "%x"])
def test_users_do_not_choose_where_it_is_mounted(folder: Path, mount: str) -> None:
    write(folder, f'unit = "%1"\n[attach]\nmount = "{mount}"')
    with pytest.raises(UsageError):
        classes.load("img").spec("img", "x", ["/etc"], OWN)


def test_who_is_named_by_a_list() -> None:
    nobody = Caller(2_000_000_000, 2_000_000_000)
    assert nobody.name == "2000000000" and not nobody.groups
    assert not nobody.among([]) and not nobody.among(["root", "@root"])
    assert nobody.among(["*"]) and nobody.among(["2000000000"])
    assert OWN.rules and OWN.among([])
