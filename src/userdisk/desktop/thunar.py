"""Thunar's custom actions (uca.xml): ours among those of the user, which stay as they are.

Pure: text in, text out. The file is edited as text, so that comments and spaces survive; it is
parsed before and after.
"""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from userdisk.errors import UserdiskError

_ID: Final = "userdisk-eject"
_ACTION: Final = re.compile(r"<action>(?:(?!</action>).)*</action>\n?", re.DOTALL)
_EMPTY: Final = '<?xml version="1.0" encoding="UTF-8"?>\n<actions>\n</actions>\n'


def shell_word(argument: str) -> str:
    """An argument for Thunar, which takes % for a field code and then asks a shell's grammar."""
    return "'" + argument.replace("'", "'\\''").replace("%", "%%") + "'"


def with_action(text: str, name: str, description: str, command: str) -> str:
    """The text with our action, once. An empty text is a file that is not there yet.

    Raises `UserdiskError` if the text is no list of actions.
    """
    rest = without_action(text) if text.strip() else _EMPTY
    if (element := re.search(r"<actions\s*/>", rest)) is not None:
        rest = f"{rest[: element.start()]}<actions>\n</actions>{rest[element.end() :]}"
    end = rest.rfind("</actions>")
    action = (
        "<action>\n"
        "\t<icon>media-eject</icon>\n"
        f"\t<name>{escape(name)}</name>\n"
        f"\t<unique-id>{_ID}</unique-id>\n"
        f"\t<command>{escape(command)}</command>\n"
        f"\t<description>{escape(description)}</description>\n"
        "\t<patterns>*</patterns>\n"
        "\t<directories/>\n"
        "\t<other-files/>\n"
        "</action>\n"
    )
    changed = rest[:end] + action + rest[end:]
    _parse(changed)
    return changed


def without_action(text: str) -> str:
    """The text without our action. Raises `UserdiskError` if the text is no list of actions."""
    if _ID not in text:
        _parse(text)
        return text
    before = len(_parse(text).findall("action"))
    changed = _ACTION.sub(lambda found: "" if _is_ours(found[0]) else found[0], text)
    if len(_parse(changed).findall("action")) > before:
        raise UserdiskError("its actions cannot be told apart; remove ours in Thunar")
    return changed


def has_action(text: str, command: str) -> bool:
    """Whether our action is there, and runs this command."""
    return any(
        action.findtext("unique-id") == _ID and action.findtext("command") == command
        for action in _parse(text).findall("action")
    )


def _is_ours(action: str) -> bool:
    return re.search(rf"<unique-id>\s*{_ID}\s*</unique-id>", action) is not None


def _parse(text: str) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserdiskError(f"not well-formed ({error}); repair or remove it") from None
    if root.tag != "actions":
        raise UserdiskError(f"holds <{root.tag}>, not Thunar's <actions>; repair or remove it")
    return root
