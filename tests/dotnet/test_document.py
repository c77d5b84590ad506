"""The class in docs/dotnet.md is a disk, and the files of dotnet/ are in their table."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path

from tests.docs.documents import ROOT, blocks
from tests.dotnet.conftest import SOURCES
from tests.dotnet.disk import PATIENCE, READ, WRITE, Disk, listens
from tests.kit.requires import requires
from tests.kit.sockets import eventually

pytestmark = requires("mcs", "mono", "make")


def test_the_class_in_the_document(built: Path, tmp_path: Path) -> None:
    texts = [block.text for block in blocks(ROOT / "docs" / "dotnet.md")]
    (text,) = (text for text in texts if text.startswith("// MemoryDisk.cs"))
    (tmp_path / "MemoryDisk.cs").write_text(text)
    program, path = built / "MemoryDisk.exe", tmp_path / "s"
    command = [
        "mcs",
        "-warnaserror",
        f"-r:{built}/Userdisk.dll",
        f"-out:{program}",
        "MemoryDisk.cs",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    with subprocess.Popen(["mono", program, path], stdin=subprocess.PIPE) as process:
        try:
            eventually(lambda: listens(path), PATIENCE)
            with Disk(process, path).client() as client:
                assert client.call(WRITE, 131071, 1, b"m" * 512).status == 0
                assert client.call(READ, 131070, 2).data == bytes(512) + b"m" * 512
            process.communicate(b"\n", timeout=PATIENCE)
            assert process.returncode == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    assert not path.exists()


def test_the_table_has_every_file() -> None:
    listed = set(re.findall(r"`(\w+\.cs)`", (SOURCES / "README.md").read_text()))
    assert listed == {path.name for path in (SOURCES / "Userdisk").glob("*.cs")}


def test_files_are_small_and_say_what_they_are() -> None:
    sources = list(SOURCES.rglob("*.cs"))
    assert sources
    for path in sources:
        lines = path.read_text().splitlines()
        assert lines[0].startswith("// "), path
        assert len(lines) <= 300, path
        assert max(map(len, lines)) <= 120, path
