"""WinSpd's scenarios for rawdisk, in Python and in C#: pipe, raw disk, format, compliance.

Each operation count is that of WinSpd's largest: 10,000 of stgtest.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.attach.conftest import Desk
from tests.conformance import suite
from tests.kit.requires import requires
from tests.kit.server import serve
from tests.scenarios.disks import KINDS, LANGUAGES, rawdisk, run

pytestmark = [
    requires("mcs", "mono", "make", "iscsi-test-cu", "mkfs.ext4", "e2fsck"),
    pytest.mark.timeout(300),
]

OPERATIONS = "10000"
MIB = 1 << 20
BLOCKS = 128 * MIB // 512

_languages = pytest.mark.parametrize("language", LANGUAGES)
_kinds = pytest.mark.parametrize("kind", KINDS)

#: The suites whose tests are about what the kinds differ in, and what every system asks a disk.
COMPLIANCE = (
    "Inquiry",
    "ModeSense6",
    "Read10",
    "Read16",
    "ReadCapacity10",
    "ReadCapacity16",
    "ReadOnly",
    "ReportSupportedOpcodes",
    "TestUnitReady",
    "Unmap",
    "Verify16",
    "Write10",
    "Write16",
    "WriteSame16",
    "GetLBAStatus",
)


def _mix(kind: str) -> str:
    return "WR" if kind == "nu" else "WRUR"


@_languages
@_kinds
def test_pipe(language: str, kind: str, built: Path, folder: Path) -> None:
    with rawdisk(language, kind, built, folder, blocks=BLOCKS) as unit:
        shown = run("stgtest", "-s", "1", unit, OPERATIONS, _mix(kind), "*", "*")
        assert shown.splitlines()[-1] == "OK"


@_languages
@_kinds
def test_raw(language: str, kind: str, built: Path, folder: Path, desk: Desk) -> None:
    """As a block device of this machine."""
    with rawdisk(language, kind, built, folder, blocks=BLOCKS) as unit:
        device = desk.attach(unit)
        for count, blocks in ((OPERATIONS, "16"), ("200", "*")):
            shown = run("stgtest", "-s", "1", device, count, "WR", "*", blocks, "--destroy")
            assert shown.splitlines()[-1] == "OK"
        desk.userdisk("eject", device)


@_languages
@_kinds
def test_format(language: str, kind: str, built: Path, folder: Path, desk: Desk) -> None:
    """A file system: write, look, read; and again after another mount."""
    data = os.urandom(9 * MIB)
    with rawdisk(language, kind, built, folder, blocks=BLOCKS) as unit:
        desk.userdisk("mount", unit, desk.mountpoint, "--format", "ext4")
        (desk.mountpoint / "file").write_bytes(data)
        assert {path.name for path in desk.mountpoint.iterdir()} >= {"file"}
        desk.userdisk("eject", desk.mountpoint)
        desk.userdisk("mount", unit, desk.mountpoint)
        assert hashlib.sha256((desk.mountpoint / "file").read_bytes()).digest() == (
            hashlib.sha256(data).digest()
        )
        desk.userdisk("eject", desk.mountpoint)
    command = ["e2fsck", "-fn", f"{folder / 'disk.img'}?offset=4096"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stdout


@_languages
@_kinds
def test_compliance(language: str, kind: str, built: Path, folder: Path) -> None:
    """libiscsi's tests of these suites, with the disk served over iSCSI."""
    tests = [name for name in suite.list_tests() if name.split(".")[1] in COMPLIANCE]
    assert len(tests) > 60
    ran = 0
    with (
        rawdisk(language, kind, built, folder, blocks=BLOCKS) as unit,
        serve(unit) as served,
    ):
        failures = {}
        for name in tests:
            result = suite.run([served.url], name, ["-d"])
            ran += result.outcome == "pass"
            if result.outcome == "fail":
                failures[name] = result.reason
        assert not failures
    assert ran > 30, "the others ask for what the disk has not"
