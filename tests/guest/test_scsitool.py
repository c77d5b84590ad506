"""scsitool on the device nodes of a real kernel: SG_IO of /dev/sdX and /dev/sgN."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.initiator import LinuxInitiator
from tests.guest.server import ServeProcess
from tests.guest.session import HOST
from tests.kit.requires import requires

pytestmark = [pytest.mark.timeout(300), requires("iscsid", "iscsiadm", "modprobe")]

NAME = "iqn.2026-11.test:scsitool"
SIZE = 8 << 20

#: Python is slow in the guest: one process for all commands. It writes what each has said.
_SCRIPT = """
import contextlib, io, json, os, sys
from userdisk.cli.main import main
results = []
for arguments in json.load(open(sys.argv[1])):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["scsitool", *arguments])
    results.append((status, out.getvalue(), err.getvalue()))
json.dump(results, open(sys.argv[2], "w"))
"""


@pytest.fixture
def disk(initiator: LinuxInitiator, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The disk in the guest, and its image."""
    image = tmp_path / "disk.img"
    arguments: list[str | Path] = [image, "--size", str(SIZE), "--name", NAME]
    with ServeProcess(arguments, tmp_path / "serve.log", advertise=HOST) as server:
        portal = f"{HOST}:{server.port}"
        initiator.add(NAME, portal)
        try:
            (device,) = initiator.login(NAME, portal)
            yield device, image
        finally:
            initiator.drop(NAME, portal)


def test_device_nodes(initiator: LinuxInitiator, disk: tuple[str, Path], guest_share: Path) -> None:
    device, image = disk
    guest = initiator.guest
    guest.check("modprobe sg")
    name = device.removeprefix("/dev/")
    sg = "/dev/" + guest.wait_until(f"ls /sys/block/{name}/device/scsi_generic")
    block = guest_share / "block"
    block.write_bytes(b"by SG_IO" * 64)
    commands = [
        ["-c", "capacity16", device],
        ["-c", "vpdb2", sg],
        ["lint", device],
        ["vpd", sg, "c5"],
        ["raw", sg, "2a 08 00000007 00 0001 00", "--data-out", str(block)],
        ["raw", sg, "2a 08 00000007 00 0001 00", "--data-out", str(block), "--write"],
        ["-c", "raw", device, "28 08 00000007 00 0001 00", "--read", "600"],
        ["-c", "lba-status", sg, "--blocks", "16"],
        ["inquiry", "/dev/ram0"],
        ["inquiry", "/dev/tty"],
    ]
    (guest_share / "script.py").write_text(_SCRIPT)
    (guest_share / "commands.json").write_text(json.dumps(commands))
    guest.check(f"cd {guest_share} && {sys.executable} script.py commands.json results.json", 200)
    results = json.loads((guest_share / "results.json").read_text())
    capacity, provisioning, lint, refused, kept, written, read, status, *others = results
    assert capacity[0] == 0
    assert f"RETURNED LOGICAL BLOCK ADDRESS={SIZE // 512 - 1} (0x3fff)" in capacity[1]
    assert provisioning[0] == 0 and "LBPWS10=1" in provisioning[1]
    assert lint[0] == 0 and "error" not in lint[1] and "warning" not in lint[1], lint
    assert refused[0] == 1 and refused[2].endswith(
        "illegal request, invalid field in CDB (5/24/00), wrong is byte 2 of the CDB\n"
    )
    assert kept[0] == 2 and "add --write" in kept[2]
    assert written[0] == 0, written
    assert image.read_bytes()[7 * 512 : 8 * 512] == block.read_bytes()
    assert read[1] == f"DATA={block.read_bytes().hex(' ')}\n", read
    assert "PROVISIONING STATUS=mapped" in status[1]
    for result in others:
        assert result[0] == 2 and result[2].count("\n") == 1, result
        assert "not a SCSI device" in result[2] or "no such device" in result[2], result
