"""Our pages as sg3_utils reads them, which knows nothing of us."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kit.engine import EnginePort, ready_nexus, target_of
from tests.kit.requires import requires
from tests.kit.units import AbleRamUnit
from userdisk.scsi import sense

pytestmark = requires("sg_inq", "sg_vpd", "sg_decode_sense")

GUID = "12345678-9abc-def0-1122-334455667788"


def page(tmp_path: Path, cdb: str) -> Path:
    target = target_of(AbleRamUnit(guid=GUID, physical_block_length=4096, soft_threshold=75))
    result = EnginePort().execute(ready_nexus(target), bytes.fromhex(cdb))
    assert result.status == 0
    path = tmp_path / "page.hex"
    path.write_text(result.data.hex(" "))
    return path


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


EXPECTED = {
    "00": [
        "Supported VPD pages",
        "Unit serial number",
        "Device identification",
        "Extended inquiry data",
        "Block limits",
        "Block device characteristics",
        "Logical block provisioning",
    ],
    "86": [
        "SPT=0 GRD_CHK=0 APP_CHK=0 REF_CHK=0",
        "UASK_SUP=0 GROUP_SUP=0 PRIOR_SUP=0 HEADSUP=1 ORDSUP=1 SIMPSUP=1",
        "NV_SUP=0 V_SUP=1",
        "LUICLR=1",
    ],
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
    "b1": ["Non-rotating medium", "WABEREQ=1", "WACEREQ=1"],
    "b2": [
        "Unmap command supported (LBPU): 1",
        "Threshold exponent: 3",
        "Logical block provisioning read zeros (LBPRZ): 1",
        "Provisioning type: 2",
    ],
}

#: Log page and subpage -> what sg_logs makes of it.
LOGS = {
    "4000": ["Supported log pages", "0x0c", "0x2f"],
    "40ff": ["Supported log pages and subpages", "0x00,0xff", "0x2f"],
    "4200": ["Write error counter page", "Total bytes processed = 0", "Total uncorrected errors"],
    "4300": ["Read error counter page", "Total bytes processed = 0", "Total uncorrected errors"],
    "4c00": [
        "Logical block provisioning page",
        "Available LBA mapping threshold resource count: 128",
        "Used LBA mapping threshold resource count: 128",
        "Scope: not dedicated to lu",
    ],
    "4d00": ["Current temperature = <not available>"],
    "4e00": ["Start-stop cycle counter page", "Accumulated start-stop cycles = 0"],
    "6f00": ["Informational Exceptions page", "IE asc = 0x0, ascq = 0x0"],
}


@pytest.mark.parametrize("code", LOGS)
def test_log_pages(tmp_path: Path, code: str) -> None:
    text = run("sg_logs", f"--in={page(tmp_path, f'4d00{code}000000ffff00')}")
    for line in LOGS[code]:
        assert line in text


@pytest.mark.parametrize("code", EXPECTED)
def test_vital_product_data(tmp_path: Path, code: str) -> None:
    text = run("sg_vpd", f"--inhex={page(tmp_path, f'1201{code}ffff')}")
    for line in EXPECTED[code]:
        assert line in text


def test_standard_inquiry(tmp_path: Path) -> None:
    text = run("sg_inq", f"--inhex={page(tmp_path, '12000000ff')}")
    for line in ("PQual=0  PDT=0  RMB=1", "[SPC-4]", "CmdQue=1", "length=96", "userdisk"):
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


@pytest.mark.parametrize("descriptor", [False, True])
def test_sense_key_specific_data(descriptor: bool) -> None:
    def decoded(value: sense.Sense) -> str:
        data = value.encode(descriptor=descriptor).hex(" ")
        return run("sg_decode_sense", *data.split())

    text = decoded(sense.software_write_protected())
    assert "Data Protect" in text and "Logical unit software write protected" in text
    text = decoded(sense.invalid_field_in_parameter_list(40, 3))
    assert "Invalid field in parameter list" in text
    assert "Error in Data parameters: byte 40 bit 3" in text
    assert ("Descriptor format" in text) is descriptor
    text = decoded(sense.Sense(2, 0x041B, progress=0x4000))
    assert "sanitize in progress" in text.lower() and "25.00%" in text
