"""Our pages as sg3_utils reads them, which knows nothing of us."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kit.engine import EnginePort, ready_nexus, target_of
from tests.kit.requires import requires
from tests.kit.units import InlineRamUnit
from userdisk.scsi import sense

pytestmark = requires("sg_inq", "sg_vpd", "sg_decode_sense")

GUID = "12345678-9abc-def0-1122-334455667788"


def page(tmp_path: Path, cdb: str) -> Path:
    target = target_of(InlineRamUnit(guid=GUID, physical_block_length=4096))
    result = EnginePort().execute(ready_nexus(target), bytes.fromhex(cdb))
    assert result.status == 0
    path = tmp_path / "page.hex"
    path.write_text(result.data.hex(" "))
    return path


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


EXPECTED = {
    "80": ["Unit serial number: 12345678-9abc-def0-1122-334455667788"],
    "83": [
        "0x3316653ccfdaa978",
        "vendor id: userdisk",
        "naa.3316653CCFDAA978",
        "transport: Internet SCSI (iSCSI)",
        "Relative target port: 0x1",
        "iqn.2024-01.org.example:disk,t,0x0001",
    ],
    "b0": [
        "Optimal transfer length granularity: 8 blocks",
        "Maximum transfer length: 16384 blocks",
        "Optimal transfer length: 2048 blocks",
        "Maximum unmap LBA count: 1048576",
        "Maximum unmap block descriptor count: 256",
        "Optimal unmap granularity: 8 blocks",
        "Unmap granularity alignment valid: true",
    ],
    "b1": ["Non-rotating medium"],
    "b2": [
        "Unmap command supported (LBPU): 1",
        "Logical block provisioning read zeros (LBPRZ): 1",
        "Provisioning type: 2",
    ],
}


@pytest.mark.parametrize("code", EXPECTED)
def test_vital_product_data(tmp_path: Path, code: str) -> None:
    text = run("sg_vpd", f"--inhex={page(tmp_path, f'1201{code}ffff')}")
    for line in EXPECTED[code]:
        assert line in text


def test_standard_inquiry(tmp_path: Path) -> None:
    text = run("sg_inq", f"--inhex={page(tmp_path, '12000000ff')}")
    for line in ("PQual=0  PDT=0  RMB=0", "[SPC-4]", "CmdQue=1", "length=96", "userdisk"):
        assert line in text


def test_sense() -> None:
    text = run("sg_decode_sense", *sense.invalid_field_in_cdb(1, 4).encode().hex(" ").split())
    assert "Invalid field in cdb" in text
    assert "Error in Command: byte 1 bit 4" in text
    bad = sense.Sense(3, sense.Asc.UNRECOVERED_READ_ERROR, 0x1234)
    for descriptor in (False, True):
        text = run("sg_decode_sense", *bad.encode(descriptor=descriptor).hex(" ").split())
        assert "Unrecovered read error" in text
        assert "0x1234" in text or "0000000000001234" in text.replace(" ", "")
