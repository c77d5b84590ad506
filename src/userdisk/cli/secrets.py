"""CHAP secrets from a file or the environment, never from the command line.

The file's lines are those of `userdisk.iscsi.chap.parse_secrets`. In the environment
USERDISK_CHAP_USER and USERDISK_CHAP_SECRET are what the initiator must prove,
USERDISK_CHAP_MUTUAL_USER and USERDISK_CHAP_MUTUAL_SECRET what this target proves in return.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from userdisk.errors import UsageError

if TYPE_CHECKING:
    from userdisk.iscsi.chap import Credentials

_NAMES = ("USERDISK_CHAP_USER", "USERDISK_CHAP_SECRET",
          "USERDISK_CHAP_MUTUAL_USER", "USERDISK_CHAP_MUTUAL_SECRET")  # fmt: skip


def find_credentials(path: str | None, environment: MutableMapping[str, str]) -> Credentials | None:
    """The credentials to ask for, or None if there are none.

    Takes the variables out of `environment`, so that no other code and no child sees them.
    Raises `UsageError`, whose text holds no secret.
    """
    user, secret, mutual_user, mutual_secret = (environment.pop(name, "") for name in _NAMES)
    if path is not None:
        if user or secret or mutual_user or mutual_secret:
            raise UsageError("--chap-file: USERDISK_CHAP_... is set as well; use one of them")
        from userdisk.iscsi.chap import parse_secrets
        from userdisk.secret_file import read_secret_file

        where = f"--chap-file {path}"
        return parse_secrets(read_secret_file(path, where), where)
    for name, needed, given in (
        (_NAMES[0], user, secret or mutual_user or mutual_secret),
        (_NAMES[1], secret, user or mutual_user or mutual_secret),
        (_NAMES[2], mutual_user, mutual_secret),
        (_NAMES[3], mutual_secret, mutual_user),
    ):
        if given and not needed:
            raise UsageError(f"environment: {name} is not set, but belongs to the others")
    if not secret:
        return None
    from userdisk.iscsi.chap import Account, Credentials

    try:
        mutual = Account(mutual_user, mutual_secret.encode()) if mutual_secret else None
        return Credentials((Account(user, secret.encode()),), mutual)
    except UsageError as error:
        raise UsageError(f"environment: {error}") from None
