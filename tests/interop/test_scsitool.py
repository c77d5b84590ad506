"""scsitool beside other people's work: sg3_utils' decoders, the kernel's headers, tgt's disk."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance.configurations import CONFIGURATIONS
from tests.conformance.tgt import tgt
from tests.kit.requires import requires
from tests.kit.server import serve
from tests.kit.sockets import eventually
from userdisk.initiator_url import parse_url
from userdisk.scsitool import lint, lists, pages, sg_io
from userdisk.scsitool.asker import Asker
from userdisk.scsitool.capture import Piece
from userdisk.scsitool.commands import COMMANDS, Options
from userdisk.scsitool.device import open_device
from userdisk.scsitool.explain import capture_file
from userdisk.scsitool.items import Section
from userdisk.scsitool.lint import Severity
from userdisk.scsitool.session import lines

ROUNDS = 8  # random pages of each kind


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout


def hex_file(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "page.hex"
    path.write_text(data.hex(" "))
    return path


# -- sg3_utils ---------------------------------------------------------------------------------

#: What sg_vpd calls a field, and what we call it.
LIMITS = {
    "Write same non-zero (WSNZ)": "WSNZ",
    "Maximum compare and write length": "MAXIMUM COMPARE AND WRITE LENGTH",
    "Optimal transfer length granularity": "OPTIMAL TRANSFER LENGTH GRANULARITY",
    "Maximum transfer length": "MAXIMUM TRANSFER LENGTH",
    "Optimal transfer length": "OPTIMAL TRANSFER LENGTH",
    "Maximum prefetch transfer length": "MAXIMUM PREFETCH LENGTH",
    "Maximum unmap LBA count": "MAXIMUM UNMAP LBA COUNT",
    "Maximum unmap block descriptor count": "MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT",
    "Optimal unmap granularity": "OPTIMAL UNMAP GRANULARITY",
    "Maximum write same length": "MAXIMUM WRITE SAME LENGTH",
    "Maximum atomic transfer length": "MAXIMUM ATOMIC TRANSFER LENGTH",
    "Atomic alignment": "ATOMIC ALIGNMENT",
    "Atomic transfer length granularity": "ATOMIC TRANSFER LENGTH GRANULARITY",
    "Maximum atomic transfer length with atomic boundary":
        "MAXIMUM ATOMIC TRANSFER LENGTH WITH ATOMIC BOUNDARY",
    "Maximum atomic boundary size": "MAXIMUM ATOMIC BOUNDARY SIZE",
}  # fmt: skip
PROVISIONING = {
    "Unmap command supported (LBPU)": "LBPU",
    "Write same (16) with unmap bit supported (LBPWS)": "LBPWS",
    "Write same (10) with unmap bit supported (LBPWS10)": "LBPWS10",
    "Logical block provisioning read zeros (LBPRZ)": "LBPRZ",
    "Anchored LBAs supported (ANC_SUP)": "ANC_SUP",
    "Threshold exponent": "THRESHOLD EXPONENT",
    "Descriptor present (DP)": "DP",
    "Provisioning type": "PROVISIONING TYPE",
}


#: Names that sg3_utils has shortened.
RENAMED = {
    "PQual": "PERIPHERAL QUALIFIER",
    "PDT": "PERIPHERAL DEVICE TYPE",
    "Resp_data_format": "RESPONSE DATA FORMAT",
    "LU_COLL_TYPE": "LU_COLLECTION_TYPE",
    "DEPOPULATION_TIME": "DEPOPULATION TIME",
}


def labelled(text: str, names: dict[str, str]) -> dict[str, int]:
    """Lines `NAME: NUMBER ...` by our names."""
    found = {}
    for line in text.splitlines():
        name, colon, value = line.strip().partition(": ")
        if colon and name in names:
            number = re.match(r"0x[0-9a-f]+|\d+", value)
            assert number is not None, line
            found[names[name]] = int(number[0], 0)
    return found


def assigned(text: str) -> dict[str, int]:
    """`NAME=NUMBER` by the name in capitals; alone in its line, the name may be several words."""
    pairs = re.findall(r"\[?(\w+)=(0x[0-9a-f]+|\d+)", text)
    pairs += re.findall(r"^ +([\w -]+)=(\d+)$", text, re.MULTILINE)
    return {RENAMED.get(name, name).upper(): int(value, 0) for name, value in pairs}


def agree(theirs: dict[str, int], ours: Section, least: int) -> None:
    shared = {name: value for name, value in theirs.items() if ours.number(name) is not None}
    assert len(shared) >= least, f"only {sorted(shared)} can be compared"
    assert shared == {name: ours.number(name) for name in shared}


def random_page(code: int, length: int, draw: random.Random) -> bytes:
    return bytes([0, code, 0, length]) + draw.randbytes(length)


@requires("sg_vpd")
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_block_limits(tmp_path: Path, seed: int) -> None:
    data = random_page(0xB0, 0x3C, random.Random(seed))
    theirs = labelled(run("sg_vpd", f"--inhex={hex_file(tmp_path, data)}"), LIMITS)
    agree(theirs, pages.vpd(0xB0, data)[0], 15)


@requires("sg_vpd")
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_provisioning(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    data = bytes([0, 0xB2, 0, 4, draw.randrange(256), draw.randrange(256) & ~1,
                  draw.randrange(3), 0])  # fmt: skip
    theirs = labelled(run("sg_vpd", f"--inhex={hex_file(tmp_path, data)}"), PROVISIONING)
    agree(theirs, pages.vpd(0xB2, data)[0], 8)


@requires("sg_vpd")
@pytest.mark.parametrize("code", [0x86, 0xB1])
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_pages_of_bits(tmp_path: Path, seed: int, code: int) -> None:
    data = random_page(code, 0x3C, random.Random(seed))
    theirs = assigned(run("sg_vpd", f"--inhex={hex_file(tmp_path, data)}"))
    agree(theirs, pages.vpd(code, data)[0], 8 if code == 0xB1 else 43)


@requires("sg_inq")
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_standard_inquiry(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    data = bytes([draw.randrange(4) << 5, draw.randrange(2) << 7, 6, 0x20 | draw.randrange(16), 91])
    data += draw.randbytes(3) + b"VENDOR  PRODUCT NAME    1.23".ljust(88)
    text = run("sg_inq", f"--inhex={hex_file(tmp_path, data)}")
    theirs = assigned(text)
    (ours,) = pages.standard_inquiry(data)
    agree(theirs, ours, 28)
    assert "Product identification: PRODUCT NAME" in text
    assert [item.value for item in ours.items if item.name == "PRODUCT IDENTIFICATION"] == [
        b"PRODUCT NAME    "
    ]


@requires("sg_get_lba_status")
def test_lba_status(tmp_path: Path) -> None:
    data = bytes.fromhex("00000014 00000003 0000000000000005 00000008 01000000")
    text = run("sg_get_lba_status", "-b", f"--inhex={hex_file(tmp_path, data)}")
    (theirs,) = re.findall(r"^0x([0-9a-f]{16})  0x([0-9a-f]+)  (\d+)", text, re.MULTILINE)
    assert lists.runs(data) == [(int(theirs[0], 16), int(theirs[1], 16), int(theirs[2]))]


# -- the kernel's header -----------------------------------------------------------------------

_OFFSETS = r"""
#include <stddef.h>
#include <stdio.h>
#include <scsi/sg.h>
#define SHOW(field) printf("%zu ", offsetof(sg_io_hdr_t, field))
int main(void) {
    SHOW(interface_id); SHOW(dxfer_direction); SHOW(cmd_len); SHOW(mx_sb_len); SHOW(iovec_count);
    SHOW(dxfer_len); SHOW(dxferp); SHOW(cmdp); SHOW(sbp); SHOW(timeout); SHOW(flags);
    SHOW(pack_id); SHOW(usr_ptr); SHOW(status); SHOW(masked_status); SHOW(msg_status);
    SHOW(sb_len_wr); SHOW(host_status); SHOW(driver_status); SHOW(resid); SHOW(duration);
    SHOW(info);
    printf("%zu %d %d %d %d\n", sizeof(sg_io_hdr_t), SG_IO, SG_DXFER_NONE, SG_DXFER_TO_DEV,
           SG_DXFER_FROM_DEV);
}
"""


@requires("gcc")
def test_the_argument_of_sg_io_is_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "offsets.c").write_text(_OFFSETS)
    subprocess.run(["gcc", "-o", "offsets", "offsets.c"], cwd=tmp_path, check=True)
    *offsets, size, number, none, to_device, from_device = map(
        int, run(tmp_path / "offsets").split()
    )
    assert (size, number) == (sg_io.HEADER.size, sg_io.SG_IO)
    assert (none, to_device, from_device) == (-1, -2, -3)
    for index, offset in enumerate(offsets):
        values = [0] * len(offsets)
        values[index] = 1
        packed = sg_io.HEADER.pack(*values)
        assert packed.index(1) == offset, index  # little-endian, as every Linux that we run on


# -- disks -------------------------------------------------------------------------------------


@contextmanager
def asking(url: str) -> Iterator[Asker]:
    device = open_device(url)
    try:
        yield Asker(device)
    finally:
        device.close()


@requires("tgtd", "tgtadm")
def test_lint_of_tgt() -> None:
    """What it says is so: each command that it misses is refused when it is sent."""
    with tgt(CONFIGURATIONS[0]) as (url,), asking(url) as asker:
        found = {each.rule.name: each for each in lint.findings(lint.gather(asker))}
        assert found["lock-claimed"].rule.severity is Severity.ERROR
        assert {
            "compare-and-write", "weak-identity", "granularity", "rotation", "request-sense",
            "preempt-and-abort", "full-status", "copy", "odx", "log-sense", "reservations-kept",
        } <= set(found)  # fmt: skip
        assert not {"no-unmap", "naa", "caching", "reservations", "write-same"} & set(found)
        refused = [
            ("89 00 0000000000000000 00000001 00 00", bytes(1024)),
            ("4d 00 4c 00 00 00 00 00 ff 00", b""),
            ("5e 03 00 00 00 00 00 00 ff 00", b""),
            ("84 03 0000000000000000 000000ff 00 00", b""),
        ]
        for text, data in refused:
            command = bytes.fromhex(text)
            assert asker.optional(lambda c=command, d=data: asker.run(c, 255 * (not d), d)) is None  # type: ignore[misc]


@requires("tgtd", "tgtadm")
def test_an_error_that_lint_finds_is_its_exit_status() -> None:
    with tgt(CONFIGURATIONS[0]) as (url,):
        done = subprocess.run(
            [sys.executable, "-m", "userdisk", "scsitool", "-c", "lint", url],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1 and done.stdout.startswith("SEVERITY=error\nRULE=lock-claimed\n")


def test_lint_of_our_own_disk(tmp_path: Path) -> None:
    with serve("ram:1M", str(tmp_path / "disk.img"), options=("--size", "1M")) as served:
        for url, expected in zip(served.urls, ({"reservations-kept"}, set[str]()), strict=True):
            with asking(url) as asker:
                found = lint.findings(lint.gather(asker))
            assert all(each.rule.severity is Severity.NOTE for each in found)
            assert {each.rule.name for each in found} <= expected | {"cache-switch"}


def test_a_disk_behind_winspds_pipe_protocol(tmp_path: Path) -> None:
    pipe = tmp_path / "disk.sock"
    with (
        serve("ram:1M", options=("--pipe", str(pipe))),
        asking(f"spd:{pipe}") as asker,
    ):
        (capacity,) = pages.long_capacity(asker.capacity_16())
        assert capacity.number("RETURNED LOGICAL BLOCK ADDRESS") == 2047
        asker.run(bytes.fromhex("2a 08 00000010 00 0001 00"), 0, b"p" * 512)
        assert asker.run(bytes.fromhex("28 00 00000010 00 0001 00"), 512) == b"p" * 512
        found = lint.findings(lint.gather(asker))
        assert all(each.rule.severity is Severity.NOTE for each in found)


#: Commands that ask, and what else they need.
ASKING = {"vpd": Options(page="83"), "raw": Options(command=bytes(6)), "logs": Options()}


def test_every_command_says_the_same_of_a_disk_over_iscsi_and_inside() -> None:
    unit = "tests/kit/units.py:InlineRamUnit"
    with serve(unit) as served, asking(served.url) as over, asking(unit) as inside:
        for command in COMMANDS:
            if command.name in ("unmap", "vpd", "vpd83", "port-groups", "logs"):
                continue
            options = ASKING.get(command.name, Options())
            assert command.run(over, options) == command.run(inside, options), command.name


# -- a session that really was -----------------------------------------------------------------


class Recorder:
    """Stands between initiator and target, and keeps what both say, in the order of its coming."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.pieces: list[Piece] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self._target = target
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        self._sockets += [client, server]
        for ends in ((client, server, "i", "t"), (server, client, "t", "i")):
            thread = threading.Thread(target=self._copy, args=ends)
            self._threads.append(thread)
            thread.start()

    def _copy(self, here: socket.socket, there: socket.socket, name: str, other: str) -> None:
        while data := here.recv(1000):
            with self._lock:
                self.pieces.append(Piece(0.0, name, other, data))
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        while self._threads:
            self._threads.pop(0).join(20)
        for each in self._sockets:
            each.close()


def test_a_real_session_in_words() -> None:
    with serve("ram:1M") as served:
        recorder = Recorder(parse_url(served.url).address)
        url = served.url.replace(f":{served.address.port}/", f":{recorder.port}/")
        with asking(url) as asker:
            asker.vpd(0xB0)
            asker.run(bytes.fromhex("2a 08 00000010 00 0008 00"), 0, bytes(4096))
            bad: Callable[[], bytes] = lambda: asker.run(  # noqa: E731
                bytes.fromhex("28 00 ffffffff 00 0001 00"), 512
            )
            assert asker.optional(bad) is None
        recorder.close()
    said = [f"{way} {words}" for _, way, words in lines(recorder.pieces).rows]
    text = "\n".join(said)
    assert said[0].startswith("> login, ") and "InitiatorName=" in said[0]
    assert said[-2:] == ["> logout", "< logout: done"]
    for part in (
        "> LUN 0: INQUIRY, EVPD 1, PAGE CODE B0h, ALLOCATION LENGTH 255, 255 bytes to read",
        "< INQUIRY data: 64 bytes at 0, GOOD, 191 bytes fewer",
        "< WRITE(10): CHECK CONDITION: unit attention, power on, reset, or bus device reset",
        "> LUN 0: WRITE(10), FUA 1, LOGICAL BLOCK ADDRESS 16, TRANSFER LENGTH 8",
        "< WRITE(10): GOOD",
        "< READ(10): CHECK CONDITION: illegal request, logical block address out of range"
        " (5/21/00), information 4294967295",
    ):
        assert part in text, part


@requires("tcpdump")
def test_a_session_that_tcpdump_captured(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to capture packets")
    file = tmp_path / "session.pcap"
    with serve("ram:1M") as served:
        command = ["tcpdump", "-i", "lo", "--immediate-mode", "-U", "-w", str(file)]
        tcpdump = subprocess.Popen(
            [*command, "port", str(served.address.port)], stderr=subprocess.PIPE, text=True
        )
        try:
            assert tcpdump.stderr is not None
            first = tcpdump.stderr.readline()
            if "permi" in first.lower():
                pytest.skip(f"needs the right to capture packets: {first.strip()}")
            assert "listening on lo" in first
            with asking(served.url) as asker:
                asker.vpd(0xB2)
            eventually(lambda: "< logout: done" in _explained(file)[-1:])
        finally:
            tcpdump.terminate()
            tcpdump.communicate(timeout=20)
    said = _explained(file)
    assert said[0].startswith("> login, security stage") and said[-1] == "< logout: done"
    assert "> LUN 0: INQUIRY, EVPD 1, PAGE CODE B2h, ALLOCATION LENGTH 255" in "\n".join(said)


def _explained(file: Path) -> list[str]:
    """What can be said of a capture that may still be written."""
    if not file.exists() or file.stat().st_size < 24:
        return []
    return [f"{way} {words}" for _, way, words in capture_file(str(file)).rows]
