"""What to type on other machines to use a target: Linux, Windows and QEMU."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from userdisk.cli.names import portal_text


@dataclass(frozen=True, slots=True)
class Offer:
    """A target at a portal, as initiators see it.

    `user` and `mutual_user` are the CHAP names to give, if any; secrets are not known here.
    """

    name: str
    host: str
    port: int
    units: int = 1
    user: str | None = None
    mutual_user: str | None = None

    @property
    def portal(self) -> str:
        return portal_text(self.host, self.port)

    def url(self, lun: int) -> str:
        return f"iscsi://{self.portal}/{quote(self.name, safe=':')}/{lun}"


def connect_text(offers: Sequence[Offer]) -> str:
    """The commands for every initiator, as paragraphs of text; the offers are of one portal."""
    lines: list[str] = []
    for title, commands in (
        ("Linux (open-iscsi, as root)", _linux(offers)),
        ("Windows (PowerShell as administrator)", _windows(offers)),
        ("QEMU", _qemu(offers)),
    ):
        lines += [title, *(f"    {command}" for command in commands), ""]
    return "\n".join(lines)


def _linux(offers: Sequence[Offer]) -> Iterator[str]:
    portal, user, mutual_user = offers[0].portal, offers[0].user, offers[0].mutual_user
    settings: list[tuple[str, str]] = []
    if user is None:
        yield f"iscsiadm -m discovery -t sendtargets -p {portal}"
    else:
        yield _ask_in_shell(user, "SECRET")
        settings = [
            ("authmethod", "CHAP"),
            ("username", shlex.quote(user)),
            ("password", '"$SECRET"'),
        ]
    if mutual_user is not None:
        yield _ask_in_shell(mutual_user, "MUTUAL")
        settings += [("username_in", shlex.quote(mutual_user)), ("password_in", '"$MUTUAL"')]
    for offer in offers:
        node = f"iscsiadm -m node -T {offer.name} -p {portal}"
        if settings:
            yield f"{node} -o new"
        for name, value in settings:
            yield f"{node} -o update -n node.session.auth.{name} -v {value}"
        yield f"{node} --login"


def _windows(offers: Sequence[Offer]) -> Iterator[str]:
    offer = offers[0]
    chap = ""
    yield "Start-Service MSiSCSI"
    if offer.user is not None:
        yield f"$secret = {_ask_in_powershell(offer.user)}"
        user = _powershell_quote(offer.user)
        kind = "ONEWAYCHAP" if offer.mutual_user is None else "MUTUALCHAP"
        chap = f" -AuthenticationType {kind} -ChapUsername {user} -ChapSecret $secret"
        if offer.mutual_user is not None:
            secret = _ask_in_powershell(offer.mutual_user)
            yield f"Set-IscsiChapSecret -ChapSecret ({secret})"
    portal = f"-TargetPortalAddress {offer.host} -TargetPortalPortNumber {offer.port}"
    yield f"New-IscsiTargetPortal {portal}{chap}"
    for each in offers:
        yield f"Connect-IscsiTarget -NodeAddress {each.name}{chap}"
    names = ",".join(each.name for each in offers)
    yield "# once, on a new disk:"
    yield (
        f"Get-IscsiSession | Where-Object TargetNodeAddress -in {names} | Get-Disk |"
        " Where-Object PartitionStyle -eq RAW |"
    )
    yield (
        "  Initialize-Disk -PassThru | New-Partition -AssignDriveLetter -UseMaximumSize |"
        " Format-Volume"
    )


def _qemu(offers: Sequence[Offer]) -> Iterator[str]:
    user = offers[0].user
    if user is not None:
        yield _ask_in_shell(user, "LIBISCSI_CHAP_PASSWORD")
        yield f"export LIBISCSI_CHAP_USERNAME={shlex.quote(user)} LIBISCSI_CHAP_PASSWORD"
    if offers[0].mutual_user is not None:
        yield "# QEMU does not check the target's secret"
    urls = [offer.url(lun) for offer in offers for lun in range(offer.units)]
    yield f"qemu-img info {urls[0]}"
    drives = " ".join(f"-drive file={url},format=raw,if=virtio" for url in urls)
    yield f"qemu-system-x86_64 -m 2G {drives}"


def _ask_in_shell(user: str, variable: str) -> str:
    return f"read -rsp {shlex.quote(f'Secret of {user}: ')} {variable}"


def _ask_in_powershell(user: str) -> str:
    return f"Read-Host {_powershell_quote(f'Secret of {user}')}"


def _powershell_quote(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
