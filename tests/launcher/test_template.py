"""launcher/template.py: what users give arrives unchanged, and only where the class says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.errors import UsageError
from userdisk.launcher.template import Values

NAMES = {"n": "disk1", "c": "img", "u": "ada", "h": "/home/ada"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("", ""),
        ("plain", "plain"),
        ("%1", "one"),
        ("-f%2", "-ftwo two"),
        ("%1%1", "oneone"),
        ("%11", "one1"),
        ("100%%", "100%"),
        ("%%1", "%1"),
        ("/media/%u/%n", "/media/ada/disk1"),
        ("%c:%h", "img:/home/ada"),
    ],
)
def test_fields(text: str, expanded: str) -> None:
    assert Values(["one", "two two"], NAMES).expand(text) == expanded


@pytest.mark.parametrize("text", ["%3", "%9", "%0", "%x", "%", "a%", "% 1", "%@", "%\n", "%\u0661"])
def test_what_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Values(["one", "two"], NAMES).expand(text)


@given(st.lists(st.text(), min_size=1, max_size=9))
def test_arguments_arrive_unchanged_and_are_not_expanded_again(arguments: list[str]) -> None:
    values = Values(arguments, NAMES)
    words = [f"%{number}" for number in range(1, len(arguments) + 1)]
    assert values.words(["prog", *words]) == ("prog", *arguments)
    values.check_all_used()


def test_the_rest_is_what_no_other_word_uses() -> None:
    values = Values(["a", "b", "c", "d"], NAMES)
    assert values.words(["prog", "%@", "--last", "%2"]) == ("prog", "a", "c", "d", "--last", "b")
    values.check_all_used()


def test_an_argument_that_nothing_uses_is_said() -> None:
    values = Values(["a", "b"], NAMES)
    assert values.expand("%1") == "a"
    with pytest.raises(UsageError, match="argument 2"):
        values.check_all_used()
    assert values.words(["prog", "%1"]) == ("prog", "a")
    with pytest.raises(UsageError, match="argument 2"):
        values.check_all_used()


def test_an_option_in_the_wrong_place_is_recognised() -> None:
    values = Values(["disk.img", "--no-wait"], NAMES)
    assert values.expand("%1") == "disk.img"
    with pytest.raises(UsageError, match=r"'--no-wait'.*; options come before the class$"):
        values.check_all_used()
