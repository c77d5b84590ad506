"""The process that has an attached unit: serves it over NBD to the attaching process alone."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from userdisk import control
from userdisk.attach import daemon, state
from userdisk.attach.disk import Disk
from userdisk.attach.state import Folder
from userdisk.attach.unit_process import Told
from userdisk.cli.resizing import Served, have_followed, verbs
from userdisk.cli.unit_options import UnitOptions, unit_name
from userdisk.errors import UsageError, UserdiskError, in_words
from userdisk.gate import Gate
from userdisk.identity import identity_of
from userdisk.log_format import Wanted
from userdisk.nbd.export import Export
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target
from userdisk.telemetry import verbs as watching
from userdisk.unit import StorageUnit

log = logging.getLogger("userdisk")


def main() -> int:
    """Serve one unit until the attaching process wants an end; returns the exit status."""
    told = Told()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the attaching process decides what they mean
    signal.signal(signal.SIGTERM, interrupt)
    request = told.request()
    wanted = Wanted(**request["logs"])
    if request["log"]:
        daemon.log_to(Path(request["log"]), wanted)
    else:
        daemon.log_to_terminal(wanted)
    daemon.become_io_flusher()
    try:
        try:
            unit = UnitOptions(**request["options"]).open(request["unit"])
            server, export = _server(unit, request)
            start(server, request["unit"])
        except (UserdiskError, OSError) as error:
            told.say({"error": line_of(error), "usage": isinstance(error, UsageError)})
            return 1
    except KeyboardInterrupt:
        told.say({"error": "interrupted", "usage": False})
        return 1
    with _control(server, request["unit"], export.gate):
        told.say({"disk": dataclasses.asdict(disk_of(unit, export)), "again": again(unit, request)})
        with contextlib.suppress(KeyboardInterrupt):  # told by a signal
            told.wait_for_end()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return stop(server, told)


def stop(server: Server, told: Told) -> int:
    """Stop it, and tell who waits for that what failed; returns the exit status. Blocks."""
    try:
        server.stop()
    except Exception as error:  # the server has logged what is a bug
        told.say({"failed": f"the last flush failed: {in_words(error)}"})
        return 1
    told.say({"failed": ""})
    return 0


@contextlib.contextmanager
def _control(server: Server, unit: str, gate: Gate) -> Iterator[None]:
    """The socket on which the attaching process asks for another size."""
    try:
        socket = control.Control(
            verbs([Served(unit, gate, [])]) | watching.verbs(server, [(gate.name, gate)])
        )
    except (UserdiskError, OSError) as error:
        log.warning("the disk cannot be resized: %s", error)
        yield
        return
    have_followed(gate)
    try:
        yield
    finally:
        socket.close()


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _server(unit: StorageUnit, request: dict[str, Any]) -> tuple[Server, Export]:
    gate = Gate(unit, unit_name(request["unit"]))
    # Nobody can reach the target, but the saved state of its logical unit holds here, too.
    target = Target(
        "iqn.2026-11.io.userdisk:attached", [LogicalUnit(gate, saved=identity_of(unit))]
    )
    export = Export(str(unit.parameters.guid), gate, request["unit"])
    socket = state.reachable_socket(Folder(Path(request["folder"])))
    return Server([target], listen=(), exports=[export], nbd=[Path(socket)]), export


def start(server: Server, unit: str) -> None:
    try:
        server.start()
    except UserdiskError as error:
        cause = error.__cause__
        if cause is None:
            raise
        reason = str(cause) if isinstance(cause, OSError) else f"{type(cause).__name__}: {cause}"
        raise UserdiskError(f"{unit}: opening it failed: {reason}") from None


def disk_of(unit: StorageUnit, export: Export) -> Disk:
    parameters = unit.parameters
    return Disk(
        export=export.name,
        size=parameters.size,
        block_length=parameters.block_length,
        read_only=parameters.write_protected,
        unmaps=parameters.unmap_supported and unit.unmap_zeroes,
        persistent=unit.persistent,
    )


def again(unit: StorageUnit, request: dict[str, Any]) -> dict[str, Any]:
    """What is asked of the process that takes this one's place: the same disk, not a new one."""
    options = request["options"] | {"new_guid": False}
    if hasattr(unit, "path"):  # an image that has gone must not be made again, empty
        options["size"] = None
    return {"options": options}


def line_of(error: UserdiskError | OSError) -> str:
    if isinstance(error, UserdiskError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main())
