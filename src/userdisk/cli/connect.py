"""What to type on other machines to use a target: Linux, Windows and QEMU."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from userdisk.cli.names import portal_text


@dataclass(frozen=True, slots=True)
class Offer:
    """A target as initiators see it.

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


def connect_text(offer: Offer) -> str:
    """The commands for every initiator, as paragraphs of text."""
    lines: list[str] = []
    for title, commands in (
        ("Linux (open-iscsi, as root)", _linux(offer)),
        ("Windows (PowerShell as administrator)", _windows(offer)),
        ("QEMU", _qemu(offer)),
    ):
        lines += [title, *(f"    {command}" for command in commands), ""]
    return "\n".join(lines)


def _linux(offer: Offer) -> Iterator[str]:
    node = f"iscsiadm -m node -T {offer.name} -p {offer.portal}"
    if offer.user is None:
        yield f"iscsiadm -m discovery -t sendtargets -p {offer.portal}"
        yield f"{node} --login"
        return
    user, mutual_user = shlex.quote(offer.user), offer.mutual_user
    settings = [("authmethod", "CHAP"), ("username", user), ("password", '"$SECRET"')]
    yield f"{node} -o new"
    yield _ask_in_shell(offer.user, "SECRET")
    if mutual_user is not None:
        yield _ask_in_shell(mutual_user, "MUTUAL")
        settings += [("username_in", shlex.quote(mutual_user)), ("password_in", '"$MUTUAL"')]
    for name, value in settings:
        yield f"{node} -o update -n node.session.auth.{name} -v {value}"
    yield f"{node} --login"


def _windows(offer: Offer) -> Sequence[str]:
    portal = f"-TargetPortalAddress {offer.host} -TargetPortalPortNumber {offer.port}"
    chap = ""
    lines = ["Start-Service MSiSCSI"]
    if offer.user is not None:
        lines.append(f"$secret = {_ask_in_powershell(offer.user)}")
        user = _powershell_quote(offer.user)
        kind = "ONEWAYCHAP" if offer.mutual_user is None else "MUTUALCHAP"
        chap = f" -AuthenticationType {kind} -ChapUsername {user} -ChapSecret $secret"
        if offer.mutual_user is not None:
            secret = _ask_in_powershell(offer.mutual_user)
            lines.append(f"Set-IscsiChapSecret -ChapSecret ({secret})")
    return [
        *lines,
        f"New-IscsiTargetPortal {portal}{chap}",
        f"Connect-IscsiTarget -NodeAddress {offer.name}{chap}",
        "# once, on a new disk:",
        f"Get-IscsiSession | Where-Object TargetNodeAddress -eq {offer.name} | Get-Disk |"
        " Where-Object PartitionStyle -eq RAW |",
        "  Initialize-Disk -PassThru | New-Partition -AssignDriveLetter -UseMaximumSize |"
        " Format-Volume",
    ]


def _qemu(offer: Offer) -> Iterator[str]:
    for user, variable in (
        (offer.user, "LIBISCSI_CHAP"),
        (offer.mutual_user, "LIBISCSI_CHAP_TARGET"),
    ):
        if user is not None:
            yield _ask_in_shell(user, f"{variable}_PASSWORD")
            yield f"export {variable}_USERNAME={shlex.quote(user)} {variable}_PASSWORD"
    yield f"qemu-img info {offer.url(0)}"
    drives = " ".join(
        f"-drive file={offer.url(lun)},format=raw,if=virtio" for lun in range(offer.units)
    )
    yield f"qemu-system-x86_64 -m 2G {drives}"


def _ask_in_shell(user: str, variable: str) -> str:
    return f"read -rsp {shlex.quote(f'Secret of {user}: ')} {variable}"


def _ask_in_powershell(user: str) -> str:
    return f"Read-Host {_powershell_quote(f'Secret of {user}')}"


def _powershell_quote(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
