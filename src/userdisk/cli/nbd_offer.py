"""NBD options of `serve`: addresses and export names, and what to type to use an export."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from userdisk.cli.names import parse_portal, portal_text
from userdisk.cli.unit_options import unit_name
from userdisk.errors import UsageError

if TYPE_CHECKING:
    from userdisk.tls import ServerTls

DEFAULT_PORT = 10809
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"
_MAX_NAME = 4096  # bytes

Address = tuple[str, int] | Path | str


class NbdOffer(NamedTuple):
    """An export at an address, as clients see it."""

    export: str
    address: Address
    tls: bool = False  #: clients encrypt
    certificate: bool = False  #: and show a certificate of their own

    @property
    def uri(self) -> str:
        """As nbdinfo, nbdcopy and qemu-img take it."""
        name = quote(self.export, safe="")
        scheme = "nbds" if self.tls else "nbd"
        if isinstance(self.address, tuple):
            return f"{scheme}://{portal_text(*self.address)}/{name}"
        path = quote(os.fsencode(os.path.abspath(self.address)), safe="/")
        return f"{scheme}+unix:///{name}?socket={path}"


def parse_address(text: str) -> tuple[str, int] | Path:
    """`ADDR[:PORT]` or `unix:PATH`. Raises `UsageError`."""
    if text.startswith("unix:"):
        if not text[5:] or "\0" in text:
            raise UsageError("--nbd unix: needs the path of a socket, as in unix:/run/disk.sock")
        return Path(text[5:])
    if "/" in text or Path(text).is_file() or text.startswith("ram:"):
        raise UsageError(
            f"--nbd {text}: not an address; a unit goes before the option, or the option is"
            f" written --nbd={DEFAULT_ADDRESS}"
        )
    if "," in text:
        raise UsageError(f"--nbd {text}: write it as ADDRESS[:PORT] or unix:PATH")
    host, port, _ = parse_portal("--nbd", text)
    bare = not text.endswith(f":{port}")
    return host, DEFAULT_PORT if bare else port


def export_names(specs: Sequence[str], given: Sequence[str]) -> list[str]:
    """The export of each unit: as given, or the unit's name, numbered when it is taken.

    Raises `UsageError` for too many or too few, too long, or the same twice.
    """
    if given and len(given) != len(specs):
        raise UsageError(
            f"--export: given {len(given)} times, each of the {len(specs)} units needs one"
        )
    names: list[str] = []
    for name in given or map(unit_name, specs):
        try:
            length = len(name.encode())
        except UnicodeEncodeError:
            raise UsageError(f"--export {name!a}: not UTF-8") from None
        if length > _MAX_NAME:
            raise UsageError(f"--export: a name has at most {_MAX_NAME} bytes, not {length}")
        if given and name in names:
            raise UsageError(f"--export {name}: given twice; each unit needs a name of its own")
        own, number = name, 1
        while own in names:
            number += 1
            own = f"{name}-{number}"
        names.append(own)
    return names


def offers_of(export: str, address: Address, tls: ServerTls | None) -> list[NbdOffer]:
    """The ways to an export: as it is, encrypted, or both."""
    offers = [NbdOffer(export, address)]
    if tls is not None:
        offers.append(NbdOffer(export, address, True, tls.verify_peer))
        if tls.required:
            del offers[0]
    return offers


def nbd_text(offer: NbdOffer) -> str:
    """The commands for every client, as a paragraph of text."""
    return "\n".join(["NBD", *(f"    {line}" for line in _commands(offer)), ""])


def _commands(offer: NbdOffer) -> Iterator[str]:
    uri = shlex.quote(offer.uri)
    address, name = offer.address, shlex.quote(offer.export)
    by_path = not isinstance(address, tuple)
    extra = ""
    if offer.tls:
        also = ", client-cert.pem and client-key.pem" if offer.certificate else ""
        yield f"# CERTS: a folder with ca-cert.pem{also}"
        if by_path:  # no host is named, so clients cannot know whose certificate to expect
            yield "# localhost: a name in the server's certificate"
        extra = " -enable-tls -cacertfile CERTS/ca-cert.pem"
        if offer.certificate:
            extra += " -certfile CERTS/client-cert.pem -keyfile CERTS/client-key.pem"
        parameters = "tls-certificates=CERTS"
        if by_path:
            extra += " -tlshostname localhost"
            parameters += "&tls-hostname=localhost"
        uri = shlex.quote(offer.uri + ("&" if by_path else "?") + parameters)
    yield f"nbdinfo {uri}"
    yield f"nbdcopy {uri} copy.img"
    if offer.tls:
        where = _server(address)
        tls = "--object tls-creds-x509,id=tls0,endpoint=client,dir=CERTS"
        options = f"driver=nbd,{where},export={_comma(offer.export)},tls-creds=tls0"
        if by_path:
            options += ",tls-hostname=localhost"
        yield f"qemu-img info {tls} --image-opts {shlex.quote(options)}"
    else:
        yield f"qemu-img info {uri}"
    if isinstance(address, tuple):
        yield f"nbd-client {address[0]} {address[1]} /dev/nbd0 -N {name}{extra}"
        source = f'<source protocol="nbd" name="{_xml(offer.export)}"'
        source += ' tls="yes">' if offer.tls else ">"
        yield f'# libvirt: {source}<host name="{address[0]}" port="{address[1]}"/></source>'
    else:
        path = os.path.abspath(address)
        yield f"nbd-client -unix {shlex.quote(path)} /dev/nbd0 -N {name}{extra}"
        if not offer.tls:  # libvirt: TLS is for hosts with a name
            source = f'<source protocol="nbd" name="{_xml(offer.export)}">'
            yield f'# libvirt: {source}<host transport="unix" socket="{_xml(path)}"/></source>'


def _server(address: Address) -> str:
    if isinstance(address, tuple):
        return f"host={address[0]},port={address[1]}"
    return f"path={_comma(os.path.abspath(address))}"


def _comma(text: str) -> str:
    return text.replace(",", ",,")


def _xml(text: str) -> str:
    from xml.sax.saxutils import escape

    return escape(text, {'"': "&quot;"})
