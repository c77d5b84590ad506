"""SANITIZE over the end of a process: killed or stopped in the middle of it, served again."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.serving import run, serving
from tests.kit.link import INITIATOR
from tests.kit.sockets import eventually
from userdisk.initiator_client import Initiator, ScsiError, parse_url, sense_codes
from userdisk.iscsi.initiator_login import Settings

SIZE = 16 << 20
PATTERN = bytes(range(1, 8))
PASSES = 31  # which take long enough to be interrupted
SANITIZING = (2, 0x04, 0x1B)


def disk(path: Path) -> Path:
    path.write_bytes(b"secret.." * (SIZE // 8))
    return path


def session(url: str) -> Initiator:
    found = parse_url(url)
    return Initiator((found.host, found.port), Settings(INITIATOR, found.target))


def ready(initiator: Initiator) -> bool:
    try:
        initiator.execute(bytes(6))
    except ScsiError as error:
        assert sense_codes(error.sense) == SANITIZING
        return False
    return True


def progress(initiator: Initiator) -> int:
    data = initiator.execute(bytes([3, 0, 0, 0, 18, 0]), read_length=18)
    return int.from_bytes(data[16:18], "big") if data[2] == 2 else 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_next_process_goes_on(tmp_path: Path, number: int) -> None:
    image = disk(tmp_path / "disk.img")
    state = tmp_path / "disk.img.userdisk"
    with serving(image) as served:
        initiator = session(served.urls[0])
        parameters = bytes([PASSES, 0, 0, len(PATTERN)]) + PATTERN
        cdb = bytes([0x48, 0x81, 0, 0, 0, 0, 0, 0, len(parameters), 0])
        initiator.execute(cdb, data_out=parameters)
        eventually(lambda: progress(initiator) > 0)
        initiator.socket.close()
        if number == signal.SIGKILL:
            served.process.kill()
            served.process.wait()
        else:
            status, _, errors = served.stop(number)
            assert (status, errors) == (0, "")
    saved = json.loads(state.read_text())["sanitize"]
    assert (saved["kind"], saved["pattern"], saved["passes"]) == ("WRITE", PATTERN.hex(), PASSES)

    with serving(image) as served, session(served.urls[0]) as initiator:
        assert "16 MiB, 512-byte blocks, being sanitized\n" in served.text
        assert not ready(initiator)
        eventually(lambda: ready(initiator), 60)
    block = (PATTERN * 512)[:512]
    assert image.read_bytes() == block * (SIZE // 512)
    assert "sanitize" not in json.loads(state.read_text())


@pytest.mark.parametrize("saved", [5, {"kind": "WRITE"}, {"kind": "READ", "unrestricted": False}])
def test_a_damaged_state_file_is_one_clear_line(tmp_path: Path, saved: object) -> None:
    image = disk(tmp_path / "disk.img")
    state = tmp_path / "disk.img.userdisk"
    guid = "5f0c3a52-6d1e-4c55-8f0f-3d0f5a1c7b10"
    state.write_text(json.dumps({"version": 1, "guid": guid, "sanitize": saved}))
    done = run(image)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{state}: its sanitize operation is not valid" in line
    assert 'restore the file, or remove "sanitize" from it' in line


def test_a_failed_one_is_shown(tmp_path: Path) -> None:
    image = disk(tmp_path / "disk.img")
    saved = {"kind": "WRITE", "unrestricted": True, "pattern": "00", "failed": True}
    guid = "5f0c3a52-6d1e-4c55-8f0f-3d0f5a1c7b10"
    state = {"version": 1, "guid": guid, "sanitize": saved}
    (tmp_path / "disk.img.userdisk").write_text(json.dumps(state))
    with serving(image, "--removable") as served:
        assert "512-byte blocks, removable, its SANITIZE has failed\n" in served.text
