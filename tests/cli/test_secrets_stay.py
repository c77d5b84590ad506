"""Secrets are in no output, no log, no state file and no command line, also at -vv."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.serving import serving
from userdisk.errors import UserdiskError
from userdisk.initiator_client import Initiator
from userdisk.iscsi.initiator_login import Settings

SECRET, MUTUAL, WRONG = "dont-tell-anyone1", "nor-this-secret22", "a-wrong-secret-33"


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("where", ["file", "environment"])
def test_of_chap(form: str, where: str, tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path / "state"), "USERDISK_RUN": str(tmp_path / "run")}
    options = ["-vv", "--log-format", form]
    secrets = tmp_path / "secrets" / "chap"
    if where == "file":
        secrets.parent.mkdir()
        secrets.write_text(f"user ada {SECRET}\nmutual eve {MUTUAL}\n")
        secrets.chmod(0o600)
        options += ["--chap-file", str(secrets)]
    else:
        environment |= {
            "USERDISK_CHAP_USER": "ada", "USERDISK_CHAP_SECRET": SECRET,
            "USERDISK_CHAP_MUTUAL_USER": "eve", "USERDISK_CHAP_MUTUAL_SECRET": MUTUAL,
        }  # fmt: skip
    image = tmp_path / "disk.img"
    with serving(image, "--size", "1M", *options, environment=environment) as server:
        target = server.urls[0].split("/")[3]
        for secret in (SECRET, WRONG):
            settings = Settings(
                "iqn.2026-11.io.userdisk:test", target, user="ada", secret=secret.encode(),
                mutual_user="eve", mutual_secret=MUTUAL.encode(),
            )  # fmt: skip
            try:
                with Initiator(("127.0.0.1", server.port), settings) as initiator:
                    assert secret == SECRET
                    initiator.capacity()
            except UserdiskError as error:
                assert secret == WRONG
                assert WRONG not in str(error)
            assert secret not in repr(settings) and MUTUAL not in repr(settings)
        command = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
        _, out, err = server.stop()
    said = [out.encode(), err.encode(), command]
    for folder, _, names in os.walk(tmp_path):
        if folder != str(secrets.parent):
            said += [(Path(folder) / name).read_bytes() for name in names]
    assert "ada" in err, "the log says who"
    for text in said:
        for secret in (SECRET, MUTUAL, WRONG):
            assert secret.encode() not in text
