"""mimeapps.list: our lines come and go, the user's stay."""

from __future__ import annotations

import configparser

from hypothesis import given
from hypothesis import strategies as st

from userdisk.desktop.mimeapps import is_default, with_default, without

_ENTRY = "userdisk-open.desktop"
_TYPES = ("application/x-one", "application/x-two")

_LINES = st.lists(
    st.sampled_from(
        [
            "[Default Applications]",
            "[Added Associations]",
            "[Removed Associations]",
            "application/x-one=other.desktop;",
            "application/x-one=first.desktop;second.desktop",
            "text/plain=editor.desktop;",
            "# application/x-one=comment.desktop;",
            "",
        ]
    ),
    unique=True,
)


@given(_LINES)
def test_there_and_back(lines: list[str]) -> None:
    while lines and not lines[-1]:
        lines.pop()
    before = "".join(f"{line}\n" for line in lines)
    after = with_default(before, _TYPES, _ENTRY)
    assert is_default(after, _TYPES, _ENTRY)
    assert with_default(after, _TYPES, _ENTRY) == after
    back = without(after, _ENTRY)
    assert not is_default(back, _TYPES, _ENTRY)
    assert _associations(back) == _associations(before)
    assert [line for line in back.splitlines() if line.startswith("#")] == [
        line for line in lines if line.startswith("#")
    ]


def _associations(text: str) -> dict[tuple[str, str], list[str]]:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), allow_no_value=True)
    lines = text.splitlines()
    first = next((at for at, line in enumerate(lines) if line.startswith("[")), len(lines))
    parser.read_string("\n".join(lines[first:]))
    return {
        (section, key): [each for each in (value or "").split(";") if each]
        for section in parser.sections()
        for key, value in parser.items(section)
    }


def test_a_new_file() -> None:
    text = with_default("", _TYPES, _ENTRY)
    assert text == (
        "[Default Applications]\n"
        "application/x-one=userdisk-open.desktop;\n"
        "application/x-two=userdisk-open.desktop;\n"
    )
    assert without(text, _ENTRY) == ""


def test_what_opened_it_before_is_second_and_comes_back() -> None:
    before = (
        "[Added Associations]\ntext/plain=a.desktop;\n\n"
        "[Default Applications]\napplication/x-one=mounter.desktop;\ntext/html=b.desktop\n\n"
        "[Removed Associations]\nimage/png=c.desktop;\n"
    )
    after = with_default(before, _TYPES, _ENTRY)
    assert "application/x-one=userdisk-open.desktop;mounter.desktop;\n" in after
    assert without(after, _ENTRY) == before


def test_what_others_say_of_us_goes_too() -> None:
    text = "[Added Associations]\napplication/x-one=userdisk-open.desktop;other.desktop;\n"
    assert without(text, _ENTRY) == "[Added Associations]\napplication/x-one=other.desktop;\n"
    removed = "[Removed Associations]\napplication/x-one=userdisk-open.desktop;\n"
    assert without(removed, _ENTRY) == removed
