"""What people get wrong: one line that says what and where, exit status 2, no traceback."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.cli.serving import run, serving

FILES = {
    "small.img": "x" * 4096,
    "odd.img": "x" * 1000,
    "open.chap": "user alice correct-horse-12\n",
    "good.py": """
        from userdisk import StorageUnit
        class Disk(StorageUnit):
            block_count = 2048
            def read(self, lba, blocks, fua): return bytes(blocks * 512)
            def write(self, lba, data, fua): pass
    """,
    "noread.py": """
        from userdisk import StorageUnit
        class Disk(StorageUnit):
            block_count = 2048
    """,
    "syntax.py": "class Disk(:\n",
    "raises.py": "import does_not_exist_anywhere\n",
    "plain.py": "class Disk: pass\n",
    "badinline.py": """
        from userdisk import StorageUnit
        class Disk(StorageUnit):
            block_count, inline = 2048, True
            def read(self, lba, blocks, fua): return b""
            def write(self, lba, data, fua): pass
    """,
    "badsize.py": """
        from userdisk import StorageUnit
        class Disk(StorageUnit):
            block_count = 0
            def read(self, lba, blocks, fua): return b""
            def write(self, lba, data, fua): pass
    """,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        lines = text.splitlines()
        indent = 8 if text.startswith("\n") else 0
        (tmp_path / name).write_text(
            "\n".join(line[indent:] for line in lines) + "\n" * bool(indent)
        )
    (tmp_path / "small.img").write_bytes(bytes(4096))
    (tmp_path / "odd.img").write_bytes(bytes(1000))
    (tmp_path / "open.chap").chmod(0o644)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # sizes
        (["ram:"], ["ram:"]),
        (["ram:0"], ["ram:0"]),
        (["ram:12Q"], ["12Q"]),
        (["ram:1000"], ["ram:1000", "512"]),
        (["new.img"], ["new.img", "size"]),
        (["new.img", "--size", "lots"], ["--size", "lots"]),
        (["new.img", "--size", "-1"], ["--size", "-1"]),
        (["new.img", "--size", "8E"], ["--size", "8E"]),
        (["small.img", "--size", "1M"], ["small.img", "4 KiB", "1 MiB"]),
        (["odd.img"], ["odd.img", "1000", "512"]),
        # parameters
        (["ram:1M", "--block-length", "500"], ["block_length", "500"]),
        (["ram:1M", "--block-length", "8192"], ["block_length", "8192"]),
        (["ram:1M", "--block-length", "4096", "--physical-block-length", "512"],
         ["physical_block_length", "512"]),
        (["ram:1M", "--product-id", "x" * 17], ["product_id", "16"]),
        (["ram:1M", "--product-revision", "12345"], ["product_revision"]),
        (["ram:1M", "--option", "speed"], ["--option", "speed", "KEY=VALUE"]),
        (["ram:1M", "--option", "speed=1"], ["ram:1M", "speed"]),
        # files and classes
        (["no/such/folder/disk.img", "--size", "1M"], ["no/such/folder"]),
        (["."], ["."]),
        (["/dev/null"], ["/dev/null"]),
        (["missing.py:Disk"], ["missing.py"]),
        (["good.py:Disc"], ["good.py", "Disc"]),
        (["noread.py:Disk"], ["Disk", "read"]),
        (["syntax.py:Disk"], ["syntax.py", "line 1"]),
        (["raises.py:Disk"], ["raises.py", "does_not_exist_anywhere"]),
        (["plain.py:Disk"], ["Disk", "StorageUnit"]),
        (["badsize.py:Disk"], ["block_count"]),
        (["badinline.py:Disk"], ["inline", "True"]),
        (["no_such_module_at_all:Disk"], ["no_such_module_at_all"]),
        # addresses and names
        (["ram:1M", "--listen", "::1"], ["--listen", "[::1]:3260"]),
        (["ram:1M", "--listen", "127.0.0.1:70000"], ["--listen", "65535"]),
        (["ram:1M", "--listen", "1.2.3.4:3260,0"], ["--listen 1.2.3.4:3260,0", "from 1 to 65535"]),
        (["ram:1M", "--listen", "1.2.3.4:3260,70000"], ["--listen", "from 1 to 65535"]),
        (["ram:1M", "--listen", "1.2.3.4:3260,x"], ["--listen", "ADDRESS[:PORT][,TAG]"]),
        (["ram:1M", "--listen", "192.0.2.1:3260"], ["192.0.2.1:3260"]),
        (["ram:1M", "--listen", "no-such-host.invalid"], ["no-such-host.invalid"]),
        (["ram:1M", "--listen", "a..b"], ["a..b"]),
        (["ram:1M", "--name", "my disk"], ["--name", "my disk", "iqn."]),
        (["ram:1M", "--initiator", "laptop"], ["--initiator", "laptop", "iqn."]),
        # secrets
        (["ram:1M", "--chap-file", "none.chap"], ["none.chap", "No such file"]),
        (["ram:1M", "--chap-file", "open.chap"], ["open.chap", "644", "chmod 600"]),
        # the same disk twice
        (["small.img", "small.img"], ["small.img"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)  # fmt: skip
def test_one_line_and_status_2(folder: Path, arguments: list[str], says: list[str]) -> None:
    done = run(*arguments, folder=folder)
    assert done.stderr.startswith("userdisk: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert [word for word in says if word not in done.stderr] == [], done.stderr
    assert (done.returncode, done.stdout) == (2, "")
    assert "correct-horse" not in done.stderr


def test_a_busy_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        done = run("ram:1M", "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr and "in use" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_image_in_use_is_named(tmp_path: Path) -> None:
    with serving("disk.img", "--size", "1M", folder=tmp_path):
        done = run("disk.img", "--listen", "127.0.0.1:0", folder=tmp_path)
    assert done.returncode in (1, 2)
    assert "disk.img" in done.stderr and "in use" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_refused_start_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        done = run(
            "disk.img", "--size", "1M", "--listen", f"127.0.0.1:{busy.getsockname()[1]}",
            folder=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2
    with serving("disk.img", "--size", "1M", folder=tmp_path) as server:  # not locked
        assert server.stop()[0] == 0


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ("OSError(13, 'Permission denied')", "Permission denied"),
        ("MediumError('the tape is torn')", "the tape is torn"),
        ("UserdiskError('bucket: no such bucket')", "no such bucket"),
    ],
)
def test_a_unit_that_cannot_be_opened(tmp_path: Path, failure: str, says: str) -> None:
    (tmp_path / "disk.py").write_text(
        "from userdisk import MediumError, StorageUnit, UserdiskError\n"
        "class Disk(StorageUnit):\n"
        "    block_count = 2048\n"
        "    def read(self, lba, blocks, fua): return bytes(blocks * 512)\n"
        "    def write(self, lba, data, fua): pass\n"
        f"    def open(self): raise {failure}\n"
    )
    done = run("disk.py:Disk", "--listen", "127.0.0.1:0", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("userdisk: ") and done.stderr.count("\n") == 1
    assert says in done.stderr
