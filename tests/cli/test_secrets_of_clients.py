"""Secrets of disks that tools ask for: in no output, no log, no file and no command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.serving import LIMIT, serving
from tests.kit.certificates import make_certificates
from userdisk.log_format import masked

SECRET, MUTUAL, WRONG = "dont-tell-anyone1", "nor-this-secret22", "a-wrong-secret-33"
_ALL = (SECRET, MUTUAL, WRONG)
_TARGET = "127.0.0.1:1/iqn.2026-11.example:a/0"


def userdisk(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """The status and all that was printed."""
    done = subprocess.run(
        [sys.executable, "-m", "userdisk", *arguments],
        cwd=folder, env=os.environ | {"USERDISK_RUN": str(folder / "run")} | (environment or {}),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", f"iscsi://ada%{SECRET}@{_TARGET}"),
        ("stgtest", f"iscsi://ada:{SECRET}@{_TARGET}", "4"),
        ("scsitool", "inquiry", f"iscsi://ada:{SECRET}@127.0.0.1:99999/iqn.2026-11.example:a/0"),
        ("scsitool", "inquiry", f"iscsi:iscsi://ada%{SECRET}@[/x"),
        ("stgtest", f"nbd://ada:{SECRET}@127.0.0.1:x/y", "4"),
        ("serve", f"nbd:nbds://ada:{SECRET}@127.0.0.1:1/y"),
        ("serve", f"http://ada:{SECRET}@127.0.0.1:1/y"),
        ("resize", f"iscsi://ada%{SECRET}@{_TARGET}", "4M"),
        ("trace", f"iscsi://ada%{SECRET}@{_TARGET}"),
        ("--log-format", "json", "-vv", "serve", f"ISCSI://ada%{SECRET}@{_TARGET}"),
    ],
)
def test_a_password_in_a_url_is_not_said_again(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, text = userdisk(tmp_path, *arguments)
    assert status in (1, 2) and text.count("\n") == 1, text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("iscsi://ada%pass@host/x: no", "iscsi://ada:...@host/x: no"),
        ("nbd://ada:p:a%ss@[::1]:1/x", "nbd://ada:...@[::1]:1/x"),
        ("a://x:1@h b://:2@h", "a://x:...@h b://:...@h"),
        ("iscsi://ada@host:3260/iqn.a:b@c/0", None),
        ("nbd://[::1]:10809/a@b", None),
        ("http://host:80 is of ada@host", None),
        ("plain: words%", None),
    ],
)
def test_what_is_masked(text: str, shown: str | None) -> None:
    assert masked(text) == (shown or text)


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a disk that asks for ada's secret, without a user."""
    folder = tmp_path_factory.mktemp("server")
    secrets = folder / "chap"
    secrets.write_text(f"user ada {SECRET}\nmutual eve {MUTUAL}\n")
    secrets.chmod(0o600)
    environment = {"XDG_STATE_HOME": str(folder)}
    with serving("ram:1M", "--chap-file", secrets, environment=environment) as server:
        yield server.urls[0].removeprefix("iscsi://")


@pytest.mark.parametrize("how", ["file", "environment", "wrong", "wrong-mutual"])
@pytest.mark.parametrize(
    "words",
    ["stgtest URL 20 WR --journal journal", "scsitool inquiry URL", "stgtest iscsi:URL 20"],
)
def test_of_chap(protected: str, tmp_path: Path, words: str, how: str) -> None:
    environment = {}
    if how == "file":
        hidden = tmp_path / "hidden"
        hidden.mkdir()
        (hidden / "chap").write_text(f"user ada {SECRET}\nmutual eve {MUTUAL}\n")
        (hidden / "chap").chmod(0o600)
        url = f"iscsi://{protected}?chap-file={hidden}/chap"
    else:
        url = f"iscsi://ada@{protected}"
        environment = {
            "USERDISK_ISCSI_SECRET": WRONG if how == "wrong" else SECRET,
            "USERDISK_ISCSI_MUTUAL_USER": "eve",
            "USERDISK_ISCSI_MUTUAL_SECRET": WRONG if how == "wrong-mutual" else MUTUAL,
        }
    arguments = [word.replace("URL", url) for word in words.split()]
    status, text = userdisk(
        tmp_path, "-vv", "--log-format", "json", *arguments, environment=environment
    )
    assert (status == 0) is (not how.startswith("wrong")), text
    said = [text.encode()]
    for folder, _, names in os.walk(tmp_path):
        if Path(folder).name != "hidden":
            said += [(Path(folder) / name).read_bytes() for name in names]
    for each in said:
        for secret in _ALL:
            assert secret.encode() not in each


def test_of_keys(tmp_path: Path) -> None:
    """Neither the key of a server nor a damaged one is shown."""
    (tmp_path / "tls").mkdir()
    key = make_certificates(tmp_path / "tls") / "server-key.pem"
    lines = key.read_text().splitlines()
    assert len(lines) > 2
    with serving("ram:1M", "-vv", "--nbd", "127.0.0.1:0", "--tls", key.parent) as server:
        text = server.text
        command = Path(f"/proc/{server.process.pid}/cmdline").read_text()
        _, out, err = server.stop()
    assert not any(line in text + out + err + command for line in lines[1:-1])
    key.write_text("\n".join([lines[0], lines[1], SECRET, *lines[2:]]))
    status, text = userdisk(tmp_path, "serve", "ram:1M", "--nbd", "--tls", str(key.parent))
    assert status == 2 and SECRET not in text and lines[1] not in text
