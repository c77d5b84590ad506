"""NBD URIs (the NBD project's doc/uri.md): nbd, nbds, nbd+unix, nbds+unix."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote_to_bytes, urlsplit

from userdisk.errors import UsageError
from userdisk.nbd.wire import MAX_STRING

PORT = 10809

#: Each scheme: over a Unix socket, inside TLS.
_SCHEMES = {
    "nbd": (False, False),
    "nbds": (False, True),
    "nbd+unix": (True, False),
    "nbds+unix": (True, True),
}
_OF_TLS = ("tls-certificates", "tls-hostname", "tls-verify-peer", "tls-type")
_MAX_URI = 16384


@dataclass(frozen=True, slots=True)
class Uri:
    """Where an export is: `socket` (a path; @ begins an abstract one), or `host` and `port`."""

    export: str = ""
    host: str = ""
    port: int = PORT
    socket: str = ""
    tls: bool = False
    certificates: str = ""  #: folder with ca-cert.pem, and client-cert.pem and client-key.pem
    hostname: str = ""  #: whose certificate the server must show; empty: that of `host`
    verify: bool = True  #: the server's certificate is checked
    user: str = ""

    @property
    def where(self) -> str:
        """The server, for messages."""
        if self.socket:
            return f"unix:{self.socket}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        """The same export in one spelling, whatever the spelling was before."""
        scheme = ("nbds" if self.tls else "nbd") + ("+unix" if self.socket else "")
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")
        user = quote(self.user, safe="") + "@" if self.user else ""
        port = "" if self.port == PORT else f":{self.port}"
        authority = "" if self.socket else f"{user}{host}{port}"
        query = [
            f"{name}={quote(value, safe='/')}"
            for name, value in (
                ("socket", _abstract(self.socket)),
                ("tls-certificates", self.certificates),
                ("tls-hostname", self.hostname),
                ("tls-verify-peer", "" if self.verify else "0"),
            )
            if value
        ]
        path = quote(self.export, safe="/")
        return f"{scheme}://{authority}/{path}" + ("?" + "&".join(query) if query else "")


def _abstract(path: str) -> str:
    return "\0" + path[1:] if path.startswith("@") else path


def is_uri(text: str) -> bool:
    """Whether text has the shape of a URI of the NBD schemes, right or wrong."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme.lower().removesuffix("+unix").removesuffix("+vsock") in (
        "nbd",
        "nbds",
    )


def parse_uri(text: str) -> Uri:
    """Take an NBD URI apart. Raises `UsageError`: one line that names the mistake."""
    if len(text) > _MAX_URI:
        raise UsageError(f"an NBD URI has at most {_MAX_URI} characters, not {len(text)}")
    for character in text:
        if not "!" <= character <= "~":
            raise UsageError(f"{text!r}: write {character!r} as %-escapes in a URI")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{text}: not an NBD URI: {error}") from None
    scheme = parts.scheme.lower()
    if scheme in ("nbd+vsock", "nbds+vsock"):
        raise UsageError(f"{text}: vsock is not supported; use TCP or a Unix socket")
    if scheme not in _SCHEMES or not text[len(scheme) :].startswith("://"):
        raise UsageError(
            f"{text}: not an NBD URI, like nbd://host/export or nbd+unix:///export?socket=PATH"
        )
    over_unix, tls = _SCHEMES[scheme]
    if parts.fragment or text.endswith("#"):
        raise UsageError(f"{text}: an NBD URI has no #fragment; write # as %23")
    if parts.password is not None:
        raise UsageError("NBD URI: a password does not belong in it")
    query = _query(text, parts.query, over_unix=over_unix, tls=tls)
    export = _decoded(text, parts.path[1:])
    if len(export.encode()) > MAX_STRING:
        raise UsageError(f"NBD URI: an export name has at most {MAX_STRING} bytes")
    if over_unix and parts.netloc:
        raise UsageError(f"{text}: a {scheme} URI has no host, only ?socket=PATH")
    if not over_unix and not parts.hostname:
        raise UsageError(f"{text}: names no host, as in {scheme}://localhost/")
    if port == 0:
        raise UsageError(f"{text}: port 0 cannot be connected to")
    host = _decoded(text, parts.hostname or "")
    return Uri(
        export=export,
        host=host,
        port=PORT if port is None else port,
        socket=query.get("socket", ""),
        tls=tls,
        certificates=query.get("tls-certificates", ""),
        hostname=query.get("tls-hostname", ""),
        verify=query.get("tls-verify-peer", "1") == "1",
        user=_decoded(text, parts.username or ""),
    )


def _query(text: str, query: str, *, over_unix: bool, tls: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        # A + stands for itself here, not for a space.
        pairs = parse_qsl(
            query.replace("+", "%2B"),
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=32,
        )
    except ValueError:
        raise UsageError(f"{text}: write what follows ? as name=value&name=value") from None
    for name, value in pairs:
        if name in found:
            raise UsageError(f"{text}: {name} is given twice")
        if name not in ("socket", *_OF_TLS):
            raise UsageError(f"{text}: {name} is not a parameter of an NBD URI")
        if not value:
            raise UsageError(f"{text}: {name} is empty")
        if name in _OF_TLS and not tls:
            raise UsageError(f"{text}: {name} is for nbds and nbds+unix")
        found[name] = value
    if over_unix != ("socket" in found):
        rule = "names no socket: add ?socket=PATH" if over_unix else "socket is for nbd+unix"
        raise UsageError(f"{text}: {rule}")
    if (path := found.get("socket", "")).startswith("\0"):
        found["socket"] = path = "@" + path[1:]
    if found.get("tls-verify-peer", "1") not in ("0", "1"):
        raise UsageError(f"{text}: tls-verify-peer is 0 or 1")
    if found.get("tls-type", "x509") != "x509":
        raise UsageError(f"{text}: the only tls-type here is x509")
    for name, value in found.items():
        if "\0" in value:
            raise UsageError(f"{text}: {name} holds a zero byte")
    return found


def _decoded(text: str, part: str) -> str:
    try:
        value = unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{text}: its %-escapes are not UTF-8") from None
    if "\0" in value:
        raise UsageError(f"{text}: holds a zero byte")
    return value
