"""CHAP secrets: from a private file or the environment, and never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from userdisk.cli.secrets import find_credentials
from userdisk.errors import UsageError

SECRET = "correct-horse-12"
FILE = f"# who may log in\nuser alice {SECRET}\nmutual disk battery-staple-1\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chap"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


def test_none() -> None:
    assert find_credentials(None, {}) is None


def test_a_private_file(file: Path) -> None:
    credentials = find_credentials(str(file), {})
    assert credentials is not None and SECRET not in repr(credentials)
    assert credentials.secret("alice") == SECRET.encode()
    assert credentials.mutual is not None and credentials.mutual.name == "disk"


def test_the_environment_is_emptied() -> None:
    environment = {"USERDISK_CHAP_USER": "alice", "USERDISK_CHAP_SECRET": SECRET, "HOME": "/"}
    assert find_credentials(None, environment) is not None
    assert environment == {"HOME": "/"}


@pytest.mark.skipif(os.name != "posix", reason="file modes")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_open_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(UsageError, match=f"mode {mode:03o}.*chmod 600"):
        find_credentials(str(file), {})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"x" * 70_000, "larger than 65536"),
        (b"user alice \xff\xfe", "not a text file"),
        (b"user alice short\n", "--chap-file"),
        (b"nonsense\n", "--chap-file"),
        (b"", "--chap-file"),
    ],
)
def test_bad_files_are_refused_without_showing_them(file: Path, content: bytes, says: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        find_credentials(str(file), {})
    assert "short" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        find_credentials(str(tmp_path / "none"), {})
    with pytest.raises(UsageError, match="Is a directory"):
        find_credentials(str(tmp_path), {})


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        ({"USERDISK_CHAP_SECRET": SECRET}, "USERDISK_CHAP_USER"),
        ({"USERDISK_CHAP_USER": "alice"}, "USERDISK_CHAP_SECRET"),
        (
            {
                "USERDISK_CHAP_USER": "alice",
                "USERDISK_CHAP_SECRET": SECRET,
                "USERDISK_CHAP_MUTUAL_SECRET": SECRET,
            },
            "USERDISK_CHAP_MUTUAL_USER",
        ),
    ],
)
def test_half_an_environment_names_the_missing_variable(
    environment: dict[str, str], missing: str
) -> None:
    with pytest.raises(UsageError, match=f"{missing} is not set") as caught:
        find_credentials(None, environment)
    assert SECRET not in str(caught.value)


def test_both_sources_are_one_too_many(file: Path) -> None:
    with pytest.raises(UsageError, match="use one of them"):
        find_credentials(str(file), {"USERDISK_CHAP_USER": "a", "USERDISK_CHAP_SECRET": SECRET})
