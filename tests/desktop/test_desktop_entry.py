"""Values of desktop entries come out of the specification's rules as they went in."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.desktop.desktop_entry import entry, exec_value, string, strings
from userdisk.errors import UserdiskError

_UNESCAPED = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\", ";": ";"}
_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


def _decoded(value: str) -> str:
    """A value of type string, as readers of the specification take it."""
    result, rest = "", value.lstrip(" ")
    while rest:
        if rest[0] == "\\":
            result, rest = result + _UNESCAPED[rest[1]], rest[2:]
        else:
            result, rest = result + rest[0], rest[1:]
    return result


def _words(value: str) -> list[str]:
    """The arguments of an Exec value, by the specification's rules of quoting."""
    found = re.findall(r'"((?:[^"`$\\]|\\["`$\\])*)"(?: |$)|([^ "]+)(?: |$)', value)
    assert sum(len(match) for match in re.findall(r'"(?:\\.|[^"])*"|[^" ]+', value)) == len(
        value
    ) - (len(found) - 1), "nothing but words and single spaces"
    return [plain or re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) for quoted, plain in found]


@given(_TEXT)
def test_string(text: str) -> None:
    encoded = string(text)
    assert not set(encoded) & set("\n\r\t")
    assert _decoded(encoded) == text


@given(st.lists(_TEXT.filter(lambda text: ";" not in text)))
def test_strings(texts: list[str]) -> None:
    parts = strings(texts).split(";")
    assert parts.pop() == ""
    assert [_decoded(part) for part in parts] == texts


@given(_TEXT.filter(lambda text: "=" not in text), st.lists(_TEXT))
def test_exec(program: str, arguments: list[str]) -> None:
    decoded = _decoded(exec_value([program, *arguments], "%F"))
    *words, code = _words(decoded)
    assert [word.replace("%%", "%") for word in words] == [program, *arguments]
    assert code == "%F"
    assert decoded.replace("%%", "").count("%") == 1


def test_exec_quotes_what_is_reserved() -> None:
    assert exec_value(["/usr/bin/env", "a b", "c$d`"], "%F") == (
        r'/usr/bin/env "a b" "c\\$d\\`" %F'
    )


def test_a_program_with_an_equals_sign() -> None:
    with pytest.raises(UserdiskError, match="= in its path"):
        exec_value(["/opt/a=b/python"])


def test_entry() -> None:
    text = entry({"One": {"A": "1", "B": "2"}, "Two": {"C": "3"}}, "ours")
    assert text == "# ours\n[One]\nA=1\nB=2\n\n[Two]\nC=3\n"
