"""tgt, the most used free target, set up as each configuration says, for comparison."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conformance.configurations import USERS, Configuration
from tests.guest.server import free_port
from tests.kit.requires import find_program

_IQN = "iqn.2026-11.io.userdisk:tgt"
_SECONDS = 20.0


@contextmanager
def tgt(configuration: Configuration) -> Iterator[Sequence[str]]:
    """The same disk by tgtd, on a sparse image; the URLs of the disk.

    What tgt cannot be (a unit that is sanitized, two target port groups) it is left without.
    """
    daemon = find_program("tgtd")
    assert daemon is not None, "tgt is not installed"
    ports = [free_port() for _ in configuration.listen]
    portals = ",".join(f"portal=127.0.0.1:{port}" for port in ports)
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        environment = os.environ | {"TGT_IPC_SOCKET": f"{folder}/socket"}
        process = subprocess.Popen(
            [daemon, "-f", "-C", "1", "--iscsi", portals],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for port in ports:
                _await(process, port)
            for arguments in _settings(configuration, Path(folder)):
                _admin(arguments, environment)
            user = configuration.user
            account = "" if user is None else f"{user}%{USERS[user]}@"
            yield [f"iscsi://{account}127.0.0.1:{port}/{_IQN}/1" for port in ports]
        finally:
            process.kill()  # it does not end by SIGTERM while it has targets
            process.wait()


def version() -> str:
    """What the installed tgt calls itself."""
    program = find_program("tgtadm")
    assert program is not None, "tgt is not installed"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _settings(configuration: Configuration, folder: Path) -> Iterator[list[str]]:
    """The commands that make the disk, as tgtadm's arguments."""
    given = dict(zip(configuration.options, configuration.options[1:], strict=False))
    size = given.get("--size", configuration.unit.rpartition(":")[2])
    image = folder / "disk.img"
    subprocess.run(["truncate", "-s", size, image], check=True)
    parameters = {"thin_provisioning": "0" if "--thick" in configuration.options else "1"}
    if "--physical-block-length" in given:
        parameters["lbppbe"] = "3"
    for option, parameter in (("--removable", "removable"), ("--read-only", "readonly")):
        if option in configuration.options:
            parameters[parameter] = "1"
    yield ["new", "target", "-T", _IQN]
    unit = ["logicalunit", "--lun", "1"]
    blocks = ["--blocksize", given["--block-length"]] if "--block-length" in given else []
    yield ["new", *unit, "-b", str(image), *blocks]
    yield ["update", *unit, "--params", ",".join(f"{k}={v}" for k, v in parameters.items())]
    if configuration.user is not None:
        for name, secret in USERS.items():
            yield ["new", "account", "--user", name, "--password", secret]
            yield ["bind", "account", "--user", name]
    yield ["bind", "target", "-I", "ALL"]


def _admin(arguments: Sequence[str], environment: dict[str, str]) -> None:
    program = find_program("tgtadm")
    assert program is not None
    operation, mode, *others = arguments
    command = [program, "-C", "1", "--lld", "iscsi", "--op", operation, "--mode", mode, *others]
    if (operation, mode) != ("new", "account"):
        command += ["--tid", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.02)
    raise AssertionError("tgtd did not start")
