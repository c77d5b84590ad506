"""`%1` to `%9` in the words of a class: what the user gave. No shell, so nothing is quoted.

%1 ... %9 argument, %n the instance's name, %c its class, %u the user who starts it, %h that user's
home, %% a percent sign. A word that is `%@` becomes all arguments that no other word uses. In the
folder to mount on, %n is made plain, and there are no arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from userdisk.errors import UsageError

_FIELD = re.compile(r"%(.?)", re.DOTALL)
_REST = "%@"
MAX_ARGUMENTS = 9


@dataclass(slots=True)
class Values:
    """What the fields stand for; `used` are the numbers of the arguments that were wanted."""

    arguments: Sequence[str]
    names: Mapping[str, str]  #: n, l, c, u, h
    used: set[int] = field(default_factory=set)

    def expand(self, text: str) -> str:
        """One word with its fields filled in. Raises `UsageError`."""
        return _FIELD.sub(self._value, text)

    def words(self, words: Iterable[str]) -> tuple[str, ...]:
        """Several words; `%@` among them is the rest of the arguments. Raises `UsageError`."""
        texts = list(words)
        plain = [word if word == _REST else self.expand(word) for word in texts]
        rest = [text for n, text in enumerate(self.arguments, 1) if n not in self.used]
        if _REST in texts:
            self.used |= set(range(1, len(self.arguments) + 1))
        found: list[str] = []
        for text, word in zip(texts, plain, strict=True):
            found += rest if text == _REST else [word]
        return tuple(found)

    def check_all_used(self) -> None:
        """Raise `UsageError` for an argument that the class has no use for."""
        for number, text in enumerate(self.arguments, 1):
            if number not in self.used:
                hint = "; options come before the class" if text.startswith("-") else ""
                raise UsageError(
                    f"argument {number} ({text[:80]!r}): the class does not use it{hint}"
                )

    def _value(self, match: re.Match[str]) -> str:
        key = match[1]
        if key == "%":
            return "%"
        if key.isdecimal() and key.isascii() and key != "0":
            number = int(key)
            if number > len(self.arguments):
                raise UsageError(f"argument {number} is missing: the class needs it")
            self.used.add(number)
            return self.arguments[number - 1]
        if key in self.names:
            return self.names[key]
        raise UsageError(f"%{key} in the class means nothing; a percent sign is written %%")
