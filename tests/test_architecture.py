"""What the package promises about itself: imports point down, pure means pure, files are short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import userdisk

SOURCE = Path(userdisk.__file__).parent
TESTS = Path(__file__).parent

#: Each part of the package, and the parts that it may import. Nothing else; so no circles.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "unit": {"errors"},
    "operation": {"errors", "unit"},
    "turns": set(),
    "whole_file": set(),
    "dispatcher": {"errors", "unit", "operation", "turns"},
    "gate": {"errors", "unit", "operation", "turns", "dispatcher"},
    "identity": {"errors", "unit", "whole_file"},
    "backend": {
        "errors",
        "unit",
        "operation",
        "identity",
        "whole_file",
        "nbd",
        "nbd_client",
        "tls",
        "scsi",
        "iscsi",
        "initiator_url",
        "iscsi_client",
        "spd",
        "spd_client",
    },
    "scsi": {"errors", "unit"},
    "target": {"errors", "unit", "operation", "gate", "scsi"},
    "budget": set(),
    "timing": {"operation"},
    "counters": {"errors", "gate", "operation", "timing"},
    "protocol": {"unit"},
    "iscsi": {
        "errors",
        "unit",
        "operation",
        "gate",
        "scsi",
        "target",
        "budget",
        "counters",
        "timing",
    },
    "nbd": {"errors", "unit", "operation", "gate", "budget", "counters", "timing"},
    "spd": {"errors", "unit", "operation", "gate", "budget", "counters", "timing"},
    "tls": {"errors"},
    "transport": {"errors", "unit"},
    "tls_stream": {"unit", "transport"},
    "plain_link": {"unit"},
    "tls_link": {"unit", "plain_link"},
    "named_pipe": {"errors"},
    "listening": {"errors", "named_pipe"},
    "tapped_stream": {"unit", "transport"},
    "portal": {
        "counters",
        "listening",
        "protocol",
        "tapped_stream",
        "tls_stream",
        "transport",
    },
    "usage_watch": {"errors", "operation", "target"},
    "server": {
        "errors",
        "unit",
        "gate",
        "scsi",
        "target",
        "budget",
        "counters",
        "protocol",
        "iscsi",
        "nbd",
        "spd",
        "tls",
        "listening",
        "portal",
        "tapped_stream",
        "usage_watch",
    },
    "secret_file": {"errors"},
    "initiator_url": {"errors", "iscsi", "secret_file"},
    "iscsi_client": {"errors", "unit", "iscsi", "transport"},
    "initiator_client": {"errors", "unit", "iscsi", "transport", "initiator_url", "iscsi_client"},
    "request_client": {"errors", "unit"},
    "spd_client": {"errors", "unit", "named_pipe", "spd", "request_client"},
    "nbd_client": {
        "errors",
        "unit",
        "operation",
        "nbd",
        "tls",
        "tls_link",
        "plain_link",
        "request_client",
    },
    "attach": {
        "errors",
        "unit",
        "operation",
        "gate",
        "identity",
        "backend",
        "nbd",
        "nbd_client",
        "control",
        "log_format",
        "whole_file",
    },
    "testing": {"errors", "unit", "operation", "gate"},
    "scsitool": {
        "errors",
        "unit",
        "operation",
        "gate",
        "identity",
        "backend",
        "scsi",
        "target",
        "iscsi",
        "initiator_url",
        "iscsi_client",
    },
    "stgtest": {
        "errors",
        "unit",
        "operation",
        "gate",
        "backend",
        "scsi",
        "iscsi",
        "nbd",
        "nbd_client",
        "initiator_url",
        "iscsi_client",
        "initiator_client",
        "spd",
        "spd_client",
        "whole_file",
    },
    "doctor": {"errors", "attach"},
    "control": {"errors", "short_path"},
    "short_path": set(),
    "log_format": set(),
    "telemetry": {
        "spd",
        "errors",
        "unit",
        "operation",
        "timing",
        "gate",
        "counters",
        "scsi",
        "iscsi",
        "nbd",
        "transport",
        "portal",
        "server",
        "scsitool",
        "control",
    },
    "launcher": {
        "errors",
        "log_format",
        "short_path",
        "backend",
        "control",
        "iscsi",
        "listening",
        "server",
        "attach",
        "telemetry",
        "whole_file",
    },
    "desktop": {"errors", "control", "launcher", "whole_file"},
    "console": {"errors", "control", "secret_file", "whole_file", "launcher"},
    "cli": {
        "errors",
        "unit",
        "operation",
        "gate",
        "identity",
        "backend",
        "target",
        "counters",
        "iscsi",
        "nbd",
        "spd",
        "tls",
        "listening",
        "server",
        "attach",
        "scsitool",
        "stgtest",
        "doctor",
        "desktop",
        "console",
        "control",
        "telemetry",
        "secret_file",
        "launcher",
        "log_format",
    },
    "__init__": {"errors", "unit"},
    "__main__": {"cli"},
}

#: Pure: bytes and values in, bytes and values out. What blocks, or says what time it is, or is
#: another each time, comes in as an argument.
PURE = {
    "scsi",
    "target",
    "iscsi",
    "nbd",
    "spd",
    "operation",
    "errors",
    "protocol",
    "budget",
    "counters",
    "timing",
}
PURE_FILES = {"attach/fuse.py"}
IMPURE_MODULES = {
    "asyncio", "concurrent", "logging", "multiprocessing", "os", "pathlib", "random", "secrets",
    "select", "selectors", "signal", "socket", "socketserver", "ssl", "subprocess", "threading",
    "time",
}  # fmt: skip

LONGEST = 500  # lines
LONGEST_TEST = 800

FILES = sorted(SOURCE.rglob("*.py"))
ALL_FILES = FILES + sorted(TESTS.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path, *, at_run_time: bool = False) -> Iterator[tuple[str, int]]:
    """Names of the modules a file imports, with lines; `at_run_time`: not for types alone."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            yield node.module, node.lineno
            if (
                node.module == "userdisk"
                or (SOURCE.parent / node.module.replace(".", "/")).is_dir()
            ):
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        skipped = (
            at_run_time
            and isinstance(node, ast.If)
            and isinstance(node.test, ast.Name)
            and node.test.id == "TYPE_CHECKING"
        )
        pending.extend(node.orelse if skipped else ast.iter_child_nodes(node))  # type: ignore[attr-defined]


def relative(path: Path) -> str:
    return str(path.relative_to(SOURCE.parent.parent))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_down(path: Path) -> None:
    here = part(path)
    assert here in MAY_IMPORT, f"{here}: say in MAY_IMPORT where this part stands"
    wrong = []
    for name, line in imports(path):
        pieces = name.split(".")
        if pieces[0] == "userdisk" and len(pieces) > 1:
            there = pieces[1]
            if there in MAY_IMPORT and there != here and there not in MAY_IMPORT[here]:
                wrong.append(f"{relative(path)}:{line}: {here} imports {there}")
    assert not wrong, "\n".join(wrong)


def test_the_table_has_no_circle() -> None:
    done: set[str] = set()
    while remaining := {name for name in MAY_IMPORT if name not in done}:
        free = {name for name in remaining if MAY_IMPORT[name] <= done}
        assert free, f"circle among {sorted(remaining)}"
        done |= free


PURE_PATHS = [
    path for path in FILES if part(path) in PURE or str(path.relative_to(SOURCE)) in PURE_FILES
]


@pytest.mark.parametrize("path", PURE_PATHS, ids=relative)
def test_pure_layers_are_pure(path: Path) -> None:
    wrong = [
        f"{relative(path)}:{line}: imports {name}"
        for name, line in imports(path, at_run_time=True)
        if name.split(".")[0] in IMPURE_MODULES
    ]
    assert not wrong, "\n".join(wrong)


def test_the_pure_layers_are_there() -> None:
    assert {part(path) for path in PURE_PATHS} >= PURE


def test_the_check_sees_what_it_must(tmp_path: Path) -> None:
    file = tmp_path / "sample.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "import os.path as p, struct\n"
        "if TYPE_CHECKING:\n    import socket\nelse:\n    import ssl\n"
        "def f():\n    from time import sleep\n"
    )
    everything = {"typing", "os.path", "struct", "socket", "ssl", "time"}
    assert {name for name, _ in imports(file)} == everything
    assert {name for name, _ in imports(file, at_run_time=True)} == everything - {"socket"}


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(path.parents[2])))
def test_a_file_says_what_it_is_and_stays_short(path: Path) -> None:
    text = path.read_text()
    if path.name != "__init__.py" or text:
        assert ast.get_docstring(ast.parse(text)), f"{path}: begins with no docstring"
    lines = text.count("\n")
    longest = LONGEST if SOURCE in path.parents else LONGEST_TEST
    assert lines <= longest, f"{path}: {lines} lines; split it"


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc", "manager", "managers"}
    assert not [path for path in FILES if path.stem in drawers]


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import userdisk", {"asyncio", "socket", "ssl", "logging", "threading", "click"}),
        ("import userdisk.cli.main", {"asyncio", "socket", "click", "rich"}),
        ("import userdisk.cli.serve", {"rich", "ssl", "hypothesis", "userdisk.attach"}),
    ],
)
def test_imports_are_light(statement: str, unwanted: set[str]) -> None:
    code = f"import sys; {statement}; print(*sys.modules)"
    loaded = subprocess.check_output(
        [sys.executable, "-S", "-c", code],
        text=True,
        cwd=SOURCE.parent,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert not unwanted & set(loaded.split())
