"""The documents: their commands and Python are run, their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTS, ROOT, blocks, matches, steps
from tests.docs.terminal import Reader
from tests.kit.requires import find_program

#: text and powershell blocks are for other machines, toml and ini files: shown, not run.
_LANGUAGES = {"console", "python", "text", "powershell", "toml", "ini"}
#: Programs of others that the documents use.
_PROGRAMS = ("iscsi-inq", "iscsi-ls", "nbdcopy", "nbdinfo", "openssl", "qemu-img", "qemu-io")

_CHECK = "from userdisk.testing import check_storage_unit\ncheck_storage_unit(Disk())\n"

_documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS]
)


@_documents
def test_commands(document: Path, tmp_path: Path) -> None:
    text = document.read_text()
    for program in _PROGRAMS:
        if program in text and find_program(program) is None:
            pytest.skip(f"needs {program}")
    with Reader(tmp_path) as reader:
        for block in blocks(document):
            reader.follow(block)
        reader.finish()


@_documents
def test_blocks(document: Path) -> None:
    for block in blocks(document):
        assert block.language in _LANGUAGES, f"line {block.line}: {block.language!r}"
        if block.language == "python":
            compile(textwrap.dedent(block.text), f"{document.name}:{block.line}", "exec")
        if block.language == "console":
            assert list(steps(block)), f"line {block.line}: no command"


@_documents
def test_units(document: Path, tmp_path: Path) -> None:
    """Each class in the text is a disk, but the one that is about bugs."""
    files = {b.file: b.text for b in blocks(document) if b.language == "python" and b.file}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for name, text in files.items():
        for kind in re.findall(r"^class (\w+)\(\w+\):\n(?:.*\n)*?    def ", text, re.MULTILINE):
            if kind == "Broken":
                continue
            program = f"from {name.removesuffix('.py')} import {kind} as Disk\n{_CHECK}"
            done = subprocess.run(
                [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{name}: {kind}\n{done.stderr}"


@_documents
def test_links(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]*)(?:#[^)\s]*)?\)", document.read_text()):
        assert not target or (document.parent / target).exists(), target


@_documents
def test_anchors(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)\s]*)\)", document.read_text()):
        page = document.parent / target if target else document
        titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert anchor in anchors, f"{target}#{anchor}"


@_documents
def test_make_targets_exist(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = document.read_text()
    for target in re.findall(r"(?:`|^    )make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


@_documents
def test_options_exist(document: Path) -> None:
    """Each option that is shown with userdisk, or alone in the text, is one of its options."""
    from userdisk.cli.commands import userdisk as group

    known = {"--version", "--help"}
    context = group.make_context("userdisk", [], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        several = getattr(command, "commands", {}).values()  # of a group
        for each in (command, *several):
            for parameter in each.params:
                known |= {*parameter.opts, *parameter.secondary_opts}
    spans = re.findall(r"`([^`\n]+)`", document.read_text())
    for span in spans:
        if span.startswith(("--", "userdisk ")):
            for option in re.findall(r"(?<!\S)--[a-z-]+", span):
                assert option in known, span


def test_architecture_names_every_file() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    source = ROOT / "src" / "userdisk"
    there = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if path.name != "__init__.py" or path.parent == source
    }
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert there - named == set(), "files that docs/architecture.md does not name"
    missing = {
        name
        for name in named - there
        if not any((ROOT / folder / name).exists() for folder in ("", "src", "tests"))
    }
    assert missing == set(), "docs/architecture.md names files that do not exist"


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\n...\nd", "a\nb\nc\nd\n", True),
        ("a\n...", "a\n", True),
        ("size ...", "size 64 MiB\n", True),
        ("", "", True),
        ("", "something\n", False),
        ("a\n...\nd", "a\nb\n", False),
        ("size ...", "size 64\nmore\n", False),
    ],
)
def test_matches(expected: str, output: str, same: bool) -> None:
    assert matches(expected, output) is same
