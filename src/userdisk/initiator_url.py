"""iscsi:// URLs: where a disk is, who asks for it, and where the secret for that comes from.

A secret never stands in a URL: it is in a file (`?chap-file=PATH`, with the lines of
`userdisk.iscsi.chap.parse_secrets`), or in the environment as USERDISK_ISCSI_SECRET. What the
target proves in return is the file's `mutual` line, or USERDISK_ISCSI_MUTUAL_USER and
USERDISK_ISCSI_MUTUAL_SECRET.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from userdisk.errors import UsageError
from userdisk.iscsi.chap import Account, Credentials, parse_secrets
from userdisk.iscsi.initiator_login import Settings
from userdisk.secret_file import read_secret_file

DEFAULT_NAME = "iqn.2026-11.io.userdisk:initiator"
_PORT = 3260
_MAX_LUN = 0x3FFF
_SECRET = "USERDISK_ISCSI_SECRET"
_MUTUAL = ("USERDISK_ISCSI_MUTUAL_USER", "USERDISK_ISCSI_MUTUAL_SECRET")
_DIGESTS = {"none": (False, False), "header": (True, False), "data": (False, True),
            "both": (True, True)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Url:
    """iscsi://[user@]host[:port]/iqn/lun, with the options `chap-file` and `digest`.

    `digest` is none, header, data or both.
    """

    host: str
    port: int
    target: str
    lun: int
    user: str | None = None
    chap_file: str | None = None
    digest: str = "none"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the portal."""
        return self.host, self.port

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        user = f"{quote(self.user)}@" if self.user else ""
        return f"iscsi://{user}{host}:{self.port}/{self.target}/{self.lun}"


def parse_url(text: str) -> Url:
    """Take an iscsi:// URL apart. Raises `UsageError` with what is wrong."""
    try:
        parts = urlsplit(text)
        path = parts.path.strip("/").split("/")
        port = _PORT if parts.port is None else parts.port
        lun = int(path[1]) if len(path) == 2 and path[1].isascii() and path[1].isdigit() else -1
    except ValueError:
        raise UsageError(f"{_short(text)}: not of the form {_FORM}") from None
    if parts.password is not None or (parts.username and "%" in parts.username):
        raise UsageError("iscsi URL: give the user only; the secret goes in a file")
    if parts.scheme != "iscsi" or not parts.hostname or not 0 <= lun <= _MAX_LUN or not port:
        raise UsageError(f"{_short(text)}: not of the form {_FORM}")
    if not path[0] or parts.fragment:
        raise UsageError(f"{_short(text)}: not of the form {_FORM}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    chap_file, digest = options.pop("chap-file", None), options.pop("digest", "none")
    if options:
        raise UsageError(f"{_short(text)}: there is no option {_short(next(iter(options)))}")
    if digest not in _DIGESTS:
        raise UsageError(f"{_short(text)}: digest is none, header, data or both")
    user = unquote(parts.username) if parts.username else None
    return Url(parts.hostname, port, unquote(path[0]), lun, user, chap_file, digest)


_FORM = "iscsi://host:port/target-name/lun"


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "..."


def settings_for(
    url: Url,
    *,
    name: str = DEFAULT_NAME,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """How to log in to what a URL names, as a session of its own (its ISID is random).

    `environment` is `os.environ` by default. Reads the file with the secret, if there is one.
    Raises `UsageError`, whose text holds no secret.
    """
    user, mutual = _accounts(url, os.environ if environment is None else environment)
    header_digest, data_digest = _DIGESTS[url.digest]
    return Settings(
        name,
        url.target,
        isid=random_isid(),
        user=user.name if user else None,
        secret=user.secret if user else b"",
        mutual_user=mutual.name if mutual else None,
        mutual_secret=mutual.secret if mutual else b"",
        header_digest=header_digest,
        data_digest=data_digest,
    )


def random_isid() -> int:
    """An initiator session id of the random kind (RFC 7143 11.12.5)."""
    return 0x80 << 40 | int.from_bytes(os.urandom(5), "big")


def _accounts(url: Url, environment: Mapping[str, str]) -> tuple[Account | None, Account | None]:
    """Who we are, and who the target has to be."""
    if url.chap_file is not None:
        where = f"chap-file {url.chap_file}"
        found = parse_secrets(read_secret_file(url.chap_file, where), where)
        return _chosen(url, found, where), found.mutual
    if url.user is None:
        return None, None
    secret = environment.get(_SECRET)
    if not secret:
        raise UsageError(
            f"{url}: the secret of {url.user} is missing; put it in a file and add ?chap-file=FILE,"
            f" or set {_SECRET}"
        )
    mutual_user, mutual_secret = (environment.get(variable, "") for variable in _MUTUAL)
    if bool(mutual_user) != bool(mutual_secret):
        raise UsageError(f"environment: {_MUTUAL[0]} and {_MUTUAL[1]} belong together")
    try:
        mutual = Account(mutual_user, mutual_secret.encode()) if mutual_secret else None
        account = Account(url.user, secret.encode())
        Credentials((account,), mutual)
    except UsageError as error:
        raise UsageError(f"environment: {error}") from None
    return account, mutual


def _chosen(url: Url, found: Credentials, where: str) -> Account:
    if url.user is None:
        if len(found.users) > 1:
            raise UsageError(f"{where}: has several users; say which one, as in iscsi://USER@...")
        return found.users[0]
    for account in found.users:
        if account.name == url.user:
            return account
    raise UsageError(f"{where}: has no user {url.user}")
