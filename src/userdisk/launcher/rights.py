"""Who may do what: the caller as the kernel says, and lists of users and groups in class files."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from userdisk.errors import UserdiskError


class Refused(UserdiskError):
    """The caller may not."""


@dataclass(frozen=True)
class Caller:
    """Who asks: user and group id, and the process (0: not known)."""

    uid: int
    gid: int
    pid: int = 0

    @classmethod
    def of(cls, uid: int) -> Caller:
        """A user who does not ask just now."""
        try:
            return cls(uid, pwd.getpwuid(uid).pw_gid)
        except KeyError:
            return cls(uid, uid)

    @cached_property
    def name(self) -> str:
        """The user's name, or the number."""
        return user_name(self.uid)

    @cached_property
    def home(self) -> str:
        """The user's folder; empty if there is none."""
        try:
            return pwd.getpwuid(self.uid).pw_dir
        except KeyError:
            return ""

    @cached_property
    def groups(self) -> frozenset[str]:
        """The names of all groups that the user is in."""
        try:
            ids = os.getgrouplist(pwd.getpwuid(self.uid).pw_name, self.gid)
        except KeyError:
            ids = [self.gid]
        return frozenset(filter(None, map(_group_name, ids)))

    @property
    def rules(self) -> bool:
        """Root, and the service's own user, may do everything."""
        return self.uid in (0, os.getuid())

    def among(self, names: Iterable[str]) -> bool:
        """Whether a list of `user`, `@group` and `*` names the caller."""
        return self.rules or any(
            each in ("*", self.name) or (each.startswith("@") and each[1:] in self.groups)
            for each in names
        )


def user_name(uid: int) -> str:
    """The name of a user, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
