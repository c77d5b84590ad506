"""Persistent reservations of a served image: over a killed server, and from a bad state file."""

from __future__ import annotations

import json
import signal
import struct
from pathlib import Path

import pytest

from tests.cli.serving import run, serving
from tests.kit import reservations as pr
from userdisk.initiator_client import Initiator, ScsiError, parse_url
from userdisk.iscsi.initiator_login import Settings


def session(url: str, name: str) -> Initiator:
    address = parse_url(url)
    return Initiator((address.host, address.port), Settings(f"iqn.x:{name}", address.target))


def out(initiator: Initiator, action: int, key: int, service_key: int, flags: int = 0) -> None:
    cdb = struct.pack(">BBBxxIx", 0x5F, action, pr.EA_RO, 24)
    initiator.execute(cdb, data_out=pr.basic(key, service_key, flags))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


def test_over_a_server_that_is_killed(image: Path) -> None:
    with serving(image) as served, session(served.urls[0], "a") as a:
        out(a, pr.REGISTER, 0, 0xABCDEF, pr.APTPL)
        out(a, pr.RESERVE, 0xABCDEF, 0)
        served.stop(signal.SIGKILL)
        a.socket.close()
        a.session.logged_in = False  # there is nobody to log out from
    with (
        serving(image) as served,
        session(served.urls[0], "a") as a,
        session(served.urls[0], "b") as b,
    ):
        a.write(0, b"a" * 512)
        for command in (lambda: b.read(0, 1), lambda: b.write(0, bytes(512))):
            with pytest.raises(ScsiError) as caught:
                command()
            assert caught.value.status == pr.CONFLICT
        data = b.execute(struct.pack(">BB5xHx", 0x5E, pr.READ_RESERVATION, 24), read_length=24)
        assert struct.unpack(">IIQ5xB2x", data) == (0, 16, 0xABCDEF, pr.EA_RO)


def test_a_state_file_with_reservations_that_make_no_sense(image: Path) -> None:
    with serving(image):
        pass
    state = image.with_name("disk.img.userdisk")
    state.write_text(json.dumps(json.loads(state.read_text()) | {"reservations": {"type": 5}}))
    done = run(image, "--listen", "127.0.0.1:0")
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert f"{state}: its reservations are not valid" in line and "restore the file" in line
