"""QEMU's tools and libiscsi's read and write a served unit."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.kit.requires import requires
from tests.kit.server import Served, serve

pytestmark = requires("qemu-io", "qemu-img", "iscsi-inq", "iscsi-ls", "iscsi-readcapacity16")

_USER, _SECRET = "anna", "a secret of 22 bytes.."
_CHAP = {"USERDISK_CHAP_USER": _USER, "USERDISK_CHAP_SECRET": _SECRET}
_QEMU_CHAP = {"LIBISCSI_CHAP_USERNAME": _USER, "LIBISCSI_CHAP_PASSWORD": _SECRET}


def run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a tool that must succeed; returns what it printed."""
    done = attempt(*command, environment=environment)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def attempt(
    *command: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def qemu_io(url: str, *commands: str, environment: Mapping[str, str] | None = None) -> str:
    """Run qemu-io, whose exit status does not tell of a pattern that does not match."""
    arguments = [word for command in commands for word in ("-c", command)]
    where = ["--image-opts", url] if url.startswith("driver=") else ["-f", "raw", url]
    output = run("qemu-io", "-t", "none", *where, *arguments, environment=environment)
    assert "verification failed" not in output, output
    assert "failed" not in output, output
    return output


@pytest.fixture(scope="module", params=["ram", "file"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    if request.param == "ram":
        with serve("ram:64M") as server:
            yield server
    else:
        path: Path = tmp_path_factory.mktemp("qemu") / "disk.img"
        with serve(str(path), options=("--size", "64M")) as server:
            yield server


def options(served: Served, **more: str) -> str:
    """The unit as QEMU's image options."""
    address = served.address
    values = {
        "driver": "iscsi",
        "transport": "tcp",
        "portal": served.portal,
        "target": address.target,
        "lun": str(address.lun),
        **more,
    }
    return ",".join(f"{key.replace('_', '-')}={value}" for key, value in values.items())


def test_patterns_of_many_sizes(served: Served) -> None:
    """One block, one segment, more than an immediate burst, more than a burst of R2Ts."""
    commands, offset = [], 0
    for number, size in enumerate((512, 4096, 65536, 65536 + 512, 300 << 10, 3 << 20), 1):
        commands += [f"write -P {number} {offset} {size}", f"read -P {number} {offset} {size}"]
        offset += size
    commands.append("flush")
    offset = 0
    for number, size in enumerate((512, 4096, 65536, 65536 + 512, 300 << 10, 3 << 20), 1):
        commands.append(f"read -P {number} {offset} {size}")
        offset += size
    qemu_io(served.url, *commands)


def test_a_wrong_pattern_is_seen(served: Served) -> None:
    qemu_io(served.url, "write -P 7 0 4096")
    done = attempt("qemu-io", "-f", "raw", served.url, "-c", "read -P 8 0 4096")
    assert "verification failed" in done.stdout


def test_commands_in_flight(served: Served) -> None:
    writes = [f"aio_write -P {number} {number << 16} 65536" for number in range(1, 33)]
    reads = [f"aio_read -P {number} {number << 16} 65536" for number in range(1, 33)]
    qemu_io(served.url, *writes, "aio_flush", *reads, "aio_flush")


def test_last_blocks_and_past_the_end(served: Served) -> None:
    end = 64 << 20
    qemu_io(served.url, f"write -P 9 {end - 1024} 1024", f"read -P 9 {end - 1024} 1024")
    beyond = attempt("qemu-io", "-f", "raw", served.url, "-c", f"read {end} 512")
    assert "failed" in beyond.stdout + beyond.stderr


def test_discard_makes_zeros(served: Served) -> None:
    qemu_io(
        served.url,
        "write -P 0xaa 1M 1M",
        "discard 1M 512k",
        "read -P 0 1M 512k",
        "read -P 0xaa 1536k 512k",
        "write -z 1536k 512k",
        "read -P 0 1M 1M",
    )


def test_force_unit_access(served: Served) -> None:
    qemu_io(served.url, "write -f -P 0x55 8M 128k", "read -P 0x55 8M 128k")


def test_convert_round_trip(served: Served, tmp_path: Path) -> None:
    source, back = tmp_path / "source.img", tmp_path / "back.img"
    noise = random.Random(1).randbytes(5 << 20)
    source.write_bytes((noise + bytes(27 << 20)) * 2)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(source), served.url)
    compared = run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(source), served.url)
    assert "identical" in compared
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", served.url, str(back))
    assert back.read_bytes() == source.read_bytes()


def test_qcow2_on_the_disk(served: Served) -> None:
    run("qemu-img", "create", "-f", "qcow2", served.url, "1G")
    run("qemu-io", "-f", "qcow2", served.url, "-c", "write -P 3 512M 1M")
    assert "No errors" in run("qemu-img", "check", "-f", "qcow2", served.url)
    assert "failed" not in run("qemu-io", "-f", "qcow2", served.url, "-c", "read -P 3 512M 1M")


def test_image_info(served: Served) -> None:
    info = json.loads(run("qemu-img", "info", "--output=json", "-f", "raw", served.url))
    assert info["virtual-size"] == 64 << 20


@pytest.mark.parametrize("digest", ["crc32c", "none", "crc32c-none", "none-crc32c"])
def test_header_digest(served: Served, digest: str) -> None:
    qemu_io(
        options(served, header_digest=digest),
        "write -P 0x21 0 1M",
        "read -P 0x21 0 1M",
        "write -P 0x22 512 512",
        "read -P 0x22 512 512",
    )


def test_libiscsi_tools(served: Served) -> None:
    inquiry = run("iscsi-inq", served.url)
    assert "DIRECT_ACCESS" in inquiry
    pages = run("iscsi-inq", "-e", "1", "-c", "0", served.url)
    assert "DEVICE_IDENTIFICATION" in pages
    designators = run("iscsi-inq", "-e", "1", "-c", "131", served.url)
    assert "NAA" in designators
    capacity = run("iscsi-readcapacity16", served.url)
    assert f"Totalsize:{64 << 20}" in capacity.replace(" ", "")
    listing = run("iscsi-ls", "-s", f"iscsi://{served.portal}/")
    assert served.address.target in listing
    assert "Lun:0" in listing.replace(" ", "")


def test_several_units_are_several_luns() -> None:
    with serve("ram:16M", "ram:32M") as served:
        assert len(served.urls) == 2
        qemu_io(served.urls[0], "write -P 1 0 1M")
        qemu_io(served.urls[1], "read -P 0 0 1M", "write -P 2 0 1M")
        qemu_io(served.urls[0], "read -P 1 0 1M")
        listing = run("iscsi-ls", "-s", f"iscsi://{served.portal}/").replace(" ", "")
        assert "Lun:0" in listing
        assert "Lun:1" in listing


def test_read_only_unit() -> None:
    with serve("ram:16M", options=("--read-only",)) as served:
        run("qemu-io", "-r", "-f", "raw", served.url, "-c", "read -P 0 0 1M")
        refused = attempt("qemu-io", "-f", "raw", served.url, "-c", "write -P 1 0 1M")
        assert refused.returncode != 0 or "failed" in refused.stdout + refused.stderr


def test_chap() -> None:
    with serve("ram:16M", environment=_CHAP) as served:
        qemu_io(served.url, "write -P 5 0 1M", "read -P 5 0 1M", environment=_QEMU_CHAP)
        listing = run("iscsi-ls", f"iscsi://{served.portal}/", environment=_QEMU_CHAP)
        assert served.address.target in listing
        for wrong in (
            {},
            {**_QEMU_CHAP, "LIBISCSI_CHAP_PASSWORD": "another secret of bytes"},
            {**_QEMU_CHAP, "LIBISCSI_CHAP_USERNAME": "otto"},
        ):
            refused = attempt("qemu-img", "info", served.url, environment=wrong)
            assert refused.returncode != 0
        assert _SECRET not in "".join(served.lines)


def test_mutual_chap() -> None:
    mutual = {
        "USERDISK_CHAP_MUTUAL_USER": "disk",
        "USERDISK_CHAP_MUTUAL_SECRET": "the other secret",
    }
    target = {
        "LIBISCSI_CHAP_TARGET_USERNAME": "disk",
        "LIBISCSI_CHAP_TARGET_PASSWORD": "the other secret",
    }
    with serve("ram:16M", environment={**_CHAP, **mutual}) as served:
        right = {**_QEMU_CHAP, **target}
        run("iscsi-inq", served.url, environment=right)
        wrong = {**right, "LIBISCSI_CHAP_TARGET_PASSWORD": "not the other one"}
        refused = attempt("iscsi-inq", served.url, environment=wrong)
        assert refused.returncode != 0
        assert "CHAP_R" in refused.stdout + refused.stderr


def test_ipv6_portal() -> None:
    with serve("ram:16M", listen="[::1]:0") as served:
        assert served.portal.startswith("[::1]:")
        qemu_io(served.url, "write -P 6 0 1M", "read -P 6 0 1M")
        assert "[::1]" in run("iscsi-ls", f"iscsi://{served.portal}/")
