"""Markdown documents as a list of fenced blocks, and their console blocks as commands.

In a console block `$ ` begins a command, `# ` one that needs root, and `^C` stands for Ctrl-C in
the terminal of the last server; what follows is the output. `...` in a line stands for any text, a
line `...` for any lines. A python block whose first line is `# NAME.py` is that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, and the line of the document where it begins."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that a python block is."""
        match = re.match(r"# ([\w/]+\.py)\n", self.text)
        return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Step:
    """A command, whether it needs root, the output it must have, and its line."""

    command: str
    root: bool
    expected: str
    line: int


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a document, in order."""
    language: str | None = None
    lines: list[str] = []
    start = 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if language is None and line.startswith("```"):
            language, lines, start = line[3:].strip(), [], number + 1
        elif language is not None and line == "```":
            yield Block(language, "".join(f"{text}\n" for text in lines), start)
            language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"{path}: the block at line {start} has no end"


def steps(block: Block) -> Iterator[Step]:
    """The commands of a console block."""
    command: tuple[str, bool, int] | None = None
    output: list[str] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line == "^C" or line.startswith(("$ ", "# ")):
            if command is not None:
                yield Step(command[0], command[1], "\n".join(output), command[2])
            text = line if line == "^C" else line[2:]
            command, output = (text, line.startswith("# "), number), []
        else:
            assert command is not None, f"line {number}: output before a command"
            output.append(line)
    if command is not None:
        yield Step(command[0], command[1], "\n".join(output), command[2])


def matches(expected: str, output: str) -> bool:
    """Whether the output is the expected one, with `...` standing for anything."""
    pattern = ""
    for line in expected.splitlines():
        if line == "...":
            pattern += r"(?:[^\n]*\n)*"
        else:
            pattern += r"[^\n]*".join(map(re.escape, line.split("..."))) + r"[ \t]*\n"
    ended = output if output.endswith("\n") or not output else output + "\n"
    return re.fullmatch(pattern, ended) is not None
