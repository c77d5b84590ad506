"""Certificates for TLS, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificates(folder: Path) -> Path:
    """A CA, and certificates of a server (for localhost) and a client that it has signed."""

    def make(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    make(*new, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=ca", "-days", "2")
    for whose in ("server", "client"):
        make(
            *new, "-keyout", f"{whose}-key.pem", "-out", f"{whose}-cert.pem", "-days", "2",
            "-subj", f"/CN={whose}", "-addext", "subjectAltName=DNS:localhost",
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem",
        )  # fmt: skip
        (folder / f"{whose}-key.pem").chmod(0o600)
    return folder
