"""Where a disk of the launcher may be mounted, by whom."""

from __future__ import annotations

import os

from userdisk.errors import UsageError
from userdisk.launcher.rights import Caller, Refused
from userdisk.launcher.spec import Spec


def place(given: Spec, folder: str, caller: Caller) -> str:
    """The folder to mount on; an empty one stands for that of the disk's class.

    Root and the launcher's own user choose freely. Anybody else has the class's folder only: one
    of his own he could replace with a link to /etc after it was looked at.

    Raises `UsageError` for what cannot be, `Refused` for what this caller may not.
    """
    if not given.attach.wanted:
        raise UsageError(f"{given.id}: it has no device: class {given.class_} has no [attach]")
    usual = given.attach.mount
    if not folder:
        if not usual:
            raise UsageError(f"{given.id}: say on which folder: class {given.class_} names none")
        return usual
    if "\0" in folder or not os.path.isabs(folder) or os.path.normpath(folder) != folder:
        raise UsageError(f"folder {folder[:80]!r}: must be an absolute path, without . and ..")
    if folder != usual and not caller.rules:
        only = f"only on {usual}" if usual else "since its class names no folder"
        raise Refused(f"user {caller.name} may not mount {given.id} on {folder[:200]!r}, {only}")
    return folder
