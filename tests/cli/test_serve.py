"""`userdisk serve` as a person uses it: what it prints, how fast it starts, how it stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.cli.serving import run, serving
from userdisk.initiator_client import Initiator, discover, parse_url
from userdisk.iscsi.initiator_login import Settings

SLOW_FLUSH = textwrap.dedent("""
    import time
    from userdisk import StorageUnit

    class Slow(StorageUnit):
        block_count = 2048

        def read(self, lba, blocks, fua):
            return bytes(blocks * 512)

        def write(self, lba, data, fua):
            pass

        def flush(self):
            time.sleep(60)

    class Failing(Slow):
        def flush(self):
            raise OSError(28, "No space left on device")

    class Noted(Slow):
        def flush(self):
            pass

        def close(self):
            open("closed", "w").close()
""")


def test_it_prints_urls_commands_and_a_summary(tmp_path: Path) -> None:
    (tmp_path / "disk.img").touch()
    os.truncate(tmp_path / "disk.img", 64 << 20)
    with serving("disk.img", "ram:1G", folder=tmp_path) as server:
        name = "iqn.2026-11.io.userdisk:disk.img"
        portal = f"127.0.0.1:{server.port}"
        assert server.urls == [f"iscsi://{portal}/{name}/{lun}" for lun in (0, 1)]
        assert "disk.img, 64 MiB, 512-byte blocks" in server.text
        assert "ram, 1 GiB, 512-byte blocks" in server.text
        for text in (
            f"iscsiadm -m discovery -t sendtargets -p {portal}",
            f"Connect-IscsiTarget -NodeAddress {name}",
            f"qemu-img info iscsi://{portal}/{name}/0",
        ):
            assert text in server.text
        status, out, err = server.stop(signal.SIGINT)
    assert (status, err) == (0, "")
    assert "served for" in out and "  0  disk.img: 0 reads" in out and "  1  ram: 0 reads" in out


def test_the_summary_counts_by_unit() -> None:
    with serving("ram:1M", "ram:2M") as server:
        url = parse_url(server.urls[1])
        settings = Settings("iqn.2026-11.io.userdisk:test", url.target)
        with Initiator((url.host, url.port), settings, lun=url.lun) as initiator:
            initiator.write(0, bytes(4096))
            initiator.write(8, bytes(4096))
            initiator.read(0, 3)
            initiator.flush()
        _, out, _ = server.stop()
    first, second = out.splitlines()[-2:]
    assert first == "  0  ram: 0 reads (0 bytes), 0 writes (0 bytes), 0 flushes, 0 unmaps"
    assert second == "  1  ram: 1 read (1.50 KiB), 2 writes (8 KiB), 1 flush, 0 unmaps"


def test_removable_and_thick_reach_the_initiator() -> None:
    for options, removable, provisioned in (
        ((), 0, 1),
        (("--removable",), 1, 1),
        (("--thick",), 0, 0),
    ):
        with serving("ram:1M", *options) as server:
            url = parse_url(server.urls[0])
            settings = Settings("iqn.2026-11.io.userdisk:test", url.target)
            with Initiator((url.host, url.port), settings, lun=url.lun) as initiator:
                inquiry = initiator.execute(b"\x12\0\0\0\x24\0", read_length=36)
                assert inquiry[1] >> 7 == removable
                capacity = initiator.execute(b"\x9e\x10" + bytes(11) + b"\x20\0\0", read_length=32)
                assert capacity[14] >> 7 == provisioned  # LBPME


def test_a_soft_threshold_reaches_the_initiator(tmp_path: Path) -> None:
    image = str(tmp_path / "disk.img")
    with serving(image, "--size", "64M", "--soft-threshold", "75") as server:
        url = parse_url(server.urls[0])
        settings = Settings("iqn.2026-11.io.userdisk:test", url.target)
        with Initiator((url.host, url.port), settings, lun=url.lun) as initiator:
            page = initiator.execute(b"\x1a\x08\x1c\x02\xff\0", read_length=255)[4:]
            provisioning = initiator.execute(b"\x12\x01\xb2\0\xff\0", read_length=255)
    count, exponent = int.from_bytes(page[20:24], "big"), provisioning[4]
    assert page[16] & 0x80
    assert count << exponent == (64 << 20) // 512 // 4


def test_a_target_for_each_unit(tmp_path: Path) -> None:
    with serving("--each", "ram:1M", "ram:2M") as server:
        names = [parse_url(url).target for url in server.urls]
        assert names == ["iqn.2026-11.io.userdisk:ram", "iqn.2026-11.io.userdisk:ram-2"]
        settings = Settings("iqn.2026-11.io.userdisk:test", None)
        assert list(discover(("127.0.0.1", server.port), settings)) == names
        for url, blocks in zip(map(parse_url, server.urls), (2048, 4096), strict=True):
            settings = Settings("iqn.2026-11.io.userdisk:test", url.target)
            with Initiator((url.host, url.port), settings, lun=url.lun) as initiator:
                assert initiator.capacity().block_count == blocks
        assert server.stop()[0] == 0
    given = ("--name", "iqn.2026-11.x:a", "--name", "iqn.2026-11.x:a")
    done = run("--each", "ram:1M", "ram:2M", *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "userdisk: two targets have the same name, iqn.2026-11.x:a\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_while_a_connection_is_open(number: signal.Signals) -> None:
    with serving("ram:1M") as server, socket.create_connection(("127.0.0.1", server.port)):
        began = time.monotonic()
        status, _, err = server.stop(number)
    assert (status, err) == (0, "") and time.monotonic() - began < 10


def test_a_hanging_flush_is_named(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_FLUSH)
    with serving("slow.py:Slow", folder=tmp_path) as server:
        process = server.process
        assert process.stdout is not None and process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().startswith("stopping")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        line = process.stderr.readline()
        assert "flush" in line and "Slow" in line
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 1


def test_a_failing_last_flush_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_FLUSH)
    with serving("slow.py:Failing", folder=tmp_path) as server:
        status, _, err = server.stop()
    assert status == 1
    assert "Failing" in err and "No space left" in err and err.count("\n") == 1


def test_who_cannot_be_told_where_it_is_gets_no_disk(tmp_path: Path) -> None:
    """`userdisk serve ... | head -1`: the units are closed in order."""
    (tmp_path / "slow.py").write_text(SLOW_FLUSH)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "userdisk", "serve", "slow.py:Noted", "--listen"]
    with open(write, "wb") as nobody:
        done = subprocess.run(
            [*command, "127.0.0.1:0"], cwd=tmp_path, stdout=nobody, stderr=subprocess.PIPE,
            timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, b"")
    assert (tmp_path / "closed").exists()


def test_open_to_the_network_without_chap_warns(tmp_path: Path) -> None:
    with serving("ram:1M", "--listen", "0.0.0.0:0") as server:
        _, _, err = server.stop()
        assert "0.0.0.0" not in server.urls[0]
    assert err.startswith("warning: 0.0.0.0:") and "--chap-file" in err
    secrets = tmp_path / "chap"
    secrets.write_text("user alice correct-horse-12\nmutual disk battery-staple-1\n")
    secrets.chmod(0o600)
    with serving("ram:1M", "--listen", "0.0.0.0:0", "--chap-file", secrets) as server:
        _, _, err = server.stop()
    assert err == ""
    assert "MUTUALCHAP -ChapUsername 'alice'" in server.text
    assert "correct-horse" not in server.text and "battery" not in server.text


def test_several_portals_and_an_advertised_address() -> None:
    listen = ("--listen", "127.0.0.1:0", "--listen", "[::1]:0")
    with serving("ram:1M", *listen, "--advertise", "198.51.100.7") as server:
        assert len(server.urls) == 2
        assert all(url.startswith("iscsi://198.51.100.7:") for url in server.urls)


def test_secrets_of_the_environment_do_not_reach_the_unit(tmp_path: Path) -> None:
    (tmp_path / "spy.py").write_text(
        SLOW_FLUSH + "\nimport os\n"
        "class Spy(Slow):\n"
        "    flush = lambda self: None\n"
        "    product_id = os.environ.get('USERDISK_CHAP_SECRET', 'nothing')\n"
        "    def open(self): print('seen:', self.product_id, flush=True)\n"
    )
    environment = {"USERDISK_CHAP_USER": "alice", "USERDISK_CHAP_SECRET": "correct-horse-12"}
    with serving("spy.py:Spy", folder=tmp_path, environment=environment) as server:
        assert "seen: nothing" in server.text


def test_it_listens_soon(tmp_path: Path) -> None:
    """In processor time, to which a busy machine adds little; nothing in a start waits."""
    code = (
        "import sys, time; from userdisk.cli.main import main; import userdisk.cli.serve as serve\n"
        "serve._print_iscsi = lambda *arguments: sys.exit(str(time.process_time()))\n"
        "main(['serve', 'ram:1G', '--listen', '127.0.0.1:0'])"
    )
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled
    times = []
    for _ in range(6):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=False, env=environment
        )
        times.append(float(done.stderr))
    assert min(times) < 0.4, times


def test_a_hangup_reads_sizes_again(tmp_path: Path) -> None:
    """One disk has grown, one has a size that it cannot have, one is as it was."""
    for name in ("grown", "odd", "same"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    with serving("grown", "odd", "same", folder=tmp_path) as server:
        url = parse_url(server.urls[0])
        settings = Settings("iqn.2026-11.io.userdisk:tester", url.target)
        with Initiator((url.host, url.port), settings) as initiator:
            assert initiator.capacity().block_count == 2048
            os.truncate(tmp_path / "grown", 3 << 20)
            os.truncate(tmp_path / "odd", (1 << 20) + 1)
            assert server.process.stdout is not None
            server.process.send_signal(signal.SIGHUP)
            assert server.process.stdout.readline() == "grown: 1 MiB, now 3 MiB\n"
            initiator.run(lambda: bool(initiator.session.events))
            assert initiator.capacity().block_count == 6144
            os.truncate(tmp_path / "odd", 1 << 20)
            server.process.send_signal(signal.SIGHUP)
            assert server.process.stdout.readline() == "no disk has another size\n"
        status, _, err = server.stop()
    assert status == 0
    (line,) = err.splitlines()
    assert line.startswith("odd: cannot take another size: ")
    assert "1048577 bytes, is not a multiple" in line
