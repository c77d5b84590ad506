"""TLS of NBD connections: certificates as files, and the contexts made of them.

The folder and its names are those of QEMU and nbdkit: ca-cert.pem, server-cert.pem and
server-key.pem; client-cert.pem and client-key.pem.
"""

from __future__ import annotations

import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from userdisk.errors import UsageError

CA = "ca-cert.pem"


@dataclass(frozen=True, slots=True)
class ServerTls:
    """How a server's connections are encrypted.

    Args:
        certificates: folder with ca-cert.pem, server-cert.pem and server-key.pem.
        verify_peer: let nobody in without a certificate that the CA has signed.
        required: let nobody in without TLS.
    """

    certificates: Path
    verify_peer: bool = False
    required: bool = False

    def context(self) -> ssl.SSLContext:
        """Read the files. Raises UsageError. Blocks on the disk."""
        context = _context(ssl.PROTOCOL_TLS_SERVER)
        _load(context, Path(self.certificates), "server")
        if self.verify_peer:
            _trust(context, Path(self.certificates))
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def client_context(certificates: Path | None, *, verify_name: bool = True) -> ssl.SSLContext:
    """What a client needs: whom it trusts, and its own certificate if there is one.

    Args:
        certificates: folder with ca-cert.pem, and perhaps client-cert.pem and client-key.pem;
            None: trust the CAs of this machine.
        verify_name: the server's certificate has to be for the host name that is given to the
            stream.

    Raises UsageError. Blocks on the disk.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = verify_name
    if certificates is None:
        context.load_default_certs()
        return context
    folder = Path(certificates)
    _trust(context, folder)
    if (folder / "client-cert.pem").exists() or (folder / "client-key.pem").exists():
        _load(context, folder, "client")
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    return context


def _trust(context: ssl.SSLContext, folder: Path) -> None:
    path = folder / CA
    _check(path)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise UsageError(f"{path}: not a certificate in PEM form") from None


def _load(context: ssl.SSLContext, folder: Path, whose: str) -> None:
    certificate, key = folder / f"{whose}-cert.pem", folder / f"{whose}-key.pem"
    _check(certificate)
    _check(key, secret=True)
    try:
        # A password would be asked for on the terminal, of a server that may have none.
        context.load_cert_chain(certificate, key, password=lambda: _no_password(key))
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            raise UsageError(f"{key}: is not the key of {certificate}") from None
        raise UsageError(f"{certificate}, {key}: not a certificate and its key, in PEM") from None


def _no_password(key: Path) -> str:
    raise UsageError(f"{key}: is encrypted; store it without a password, with mode 600")


def _check(path: Path, *, secret: bool = False) -> None:
    """The file can be read, and nobody else reads a secret."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if secret and os.name == "posix" and stat.S_ISREG(mode) and stat.S_IMODE(mode) & 0o077:
        raise UsageError(
            f"{path}: other users may read or change it (mode {stat.S_IMODE(mode):03o});"
            f" chmod 600 {path}"
        )
