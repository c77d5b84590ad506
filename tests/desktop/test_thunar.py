"""Thunar's list of actions: the user's survive to the byte, ours is there once."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.desktop.thunar import has_action, shell_word, with_action, without_action
from userdisk.errors import UserdiskError

_COMMAND = "'/opt/a b/python' -m userdisk desktop eject -- %F"
_ACTIONS = st.lists(
    st.sampled_from(
        [
            "<action><name>One</name><unique-id>1</unique-id></action>",
            "\n  <action>\n    <name>Two &amp; &lt;more&gt;</name>\n  </action>\n",
            "\n<!-- <unique-id>userdisk-eject</unique-id> is not an action -->",
            "<action/>",
            "  ",
        ]
    )
)


@given(_ACTIONS, st.sampled_from(["", "\n", "  ", "\n\t"]))
def test_there_and_back(actions: list[str], end: str) -> None:
    before = f'<?xml version="1.0"?>\n<actions>{"".join(actions)}{end}</actions>\n'
    after = with_action(before, "Eject", "Take it away", _COMMAND)
    assert has_action(after, _COMMAND)
    assert with_action(after, "Eject", "Take it away", _COMMAND) == after
    assert without_action(after) == before


@given(st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cn", "Co", "Cc"))))
def test_any_command(command: str) -> None:
    text = with_action("", "Eject", "", command)
    action = ElementTree.fromstring(text).find("action")
    assert action is not None and action.findtext("command") == command


def test_an_older_command_is_replaced() -> None:
    old = with_action("", "Eject", "", "old %F")
    new = with_action(old, "Eject", "", _COMMAND)
    assert has_action(new, _COMMAND) and not has_action(new, "old %F")
    assert new.count("<action>") == 1


def test_what_thunar_has_rewritten_is_still_ours() -> None:
    text = (
        "<actions>\n<action>\n\t<name>Mine</name>\n</action>\n"
        "<action>\n\t<icon></icon>\n\t<name>Renamed</name>\n\t<submenu></submenu>\n"
        "\t<unique-id>userdisk-eject</unique-id>\n</action>\n</actions>\n"
    )
    assert without_action(text) == (
        "<actions>\n<action>\n\t<name>Mine</name>\n</action>\n</actions>\n"
    )


def test_an_empty_list() -> None:
    assert has_action(with_action("<actions/>", "Eject", "", _COMMAND), _COMMAND)


@pytest.mark.parametrize("text", ["<actions>", "no XML", "<other/>", "<actions></actions"])
def test_what_is_no_list_is_left_alone(text: str) -> None:
    with pytest.raises(UserdiskError, match="repair or remove it"):
        with_action(text, "Eject", "", _COMMAND)
    with pytest.raises(UserdiskError, match="repair or remove it"):
        without_action(text)


def test_words_for_thunar() -> None:
    assert shell_word("/a b/100%'s") == "'/a b/100%%'\\''s'"
