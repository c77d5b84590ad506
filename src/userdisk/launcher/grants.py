"""What classes allow whom."""

from __future__ import annotations

from typing import Any

from userdisk.errors import UserdiskError
from userdisk.launcher import classes
from userdisk.launcher.rights import Caller
from userdisk.launcher.spec import Spec


class Grants:
    """What a caller may; each class is read once."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._classes: dict[str, classes.DiskClass | None] = {}

    def may(self, given: Spec, right: str) -> bool:
        """Who has started an instance may stop and see it."""
        return given.started_by == self._caller.uid or self.among(given.class_, right)

    def among(self, name: str, right: str) -> bool:
        """Whether the class gives the caller the right; one that cannot be read gives none."""
        if self._caller.rules:
            return True
        if name not in self._classes:
            try:
                self._classes[name] = classes.load(name)
            except UserdiskError:
                self._classes[name] = None
        class_: Any = self._classes[name]
        return class_ is not None and self._caller.among(getattr(class_, right))
