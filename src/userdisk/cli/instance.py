"""The process that has the unit of an instance: serves it on the sockets that its shim holds."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from userdisk import control
from userdisk.attach import daemon, state
from userdisk.attach.unit_process import Told
from userdisk.cli.names import portal_text, target_names
from userdisk.cli.nbd_offer import offers_of
from userdisk.cli.resizing import Served, verbs
from userdisk.cli.secrets import find_credentials
from userdisk.cli.unit_options import UnitOptions, unit_name
from userdisk.cli.unit_process import again, disk_of, interrupt, line_of, start, stop
from userdisk.errors import UsageError, UserdiskError, in_words
from userdisk.gate import Gate
from userdisk.identity import identity_of
from userdisk.launcher.news import tell
from userdisk.listening import Address
from userdisk.log_format import Wanted
from userdisk.nbd.export import Export
from userdisk.operation import Kind, Operation
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target
from userdisk.telemetry import verbs as watching
from userdisk.unit import StorageUnit

log = logging.getLogger("userdisk")

_ORPHANED: Final = 60.0  # seconds for the attaching process to flush when the shim was killed
_LOOK: Final = 0.05


def main() -> int:
    """Serve one unit until the shim wants an end; returns the exit status."""
    told = Told()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt)
    request = told.request()
    daemon.log_to_terminal(Wanted(as_json=request["log_json"]))
    if request["attached"]:
        daemon.become_io_flusher()
    try:
        unit = UnitOptions(**request["options"]).open(request["unit"])
        offer = _Offer(unit, request)
        start(offer.server, request["unit"])
    except (UserdiskError, OSError) as error:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # told to end now, there is no more to say
        told.say({"error": line_of(error), "usage": isinstance(error, UsageError)})
        return 1
    except KeyboardInterrupt:
        told.say({"error": "interrupted", "usage": False})
        return 1
    orphaned = False  # only the death of the shim comes without a signal
    with offer.control():
        told.say(offer.report() | {"again": again(unit, request)})
        with contextlib.suppress(KeyboardInterrupt):
            told.wait_for_end()
            orphaned = True
            if request["attached"]:
                _wait_for_attached(offer.server)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not orphaned:
        told.say({"flushed": offer.flush()})
    status = stop(offer.server, told)
    if orphaned and request["program"]:
        pid, started = request["program"]
        _end_program(pid, started, request["stop_timeout"])
    return status


def _end_program(pid: int, started: int, timeout: float) -> None:
    """The program behind the unit would stay for ever."""
    for number, seconds in ((signal.SIGTERM, timeout), (signal.SIGKILL, 1.0)):
        with state.opened_process(pid, started) as process:
            if process is None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)
            state.wait_for_end(process, seconds)


def _wait_for_attached(server: Server) -> None:
    """A device is taken away before its unit ends, also when the shim was killed."""
    deadline = time.monotonic() + _ORPHANED
    while server.local_clients() and time.monotonic() < deadline:
        time.sleep(_LOOK)


class _Offer:
    """What is served where."""

    def __init__(self, unit: StorageUnit, request: Mapping[str, Any]) -> None:
        iscsi, nbd = request["iscsi"], request["nbd"]
        self._unit, self._spec, self._iscsi = unit, request["unit"], iscsi
        self._socket = Path(nbd["path"])
        self._gate = gate = Gate(unit, unit_name(request["export"]))
        self._changed = tell(request["news"], lambda: gate.parameters.size)
        given = [iscsi["target"]] if iscsi and iscsi["target"] else []
        (self._target,) = target_names([request["export"]], given, each=False)
        target = Target(self._target, [LogicalUnit(self._gate, saved=identity_of(unit))])
        self._export = Export(request["export"], self._gate, request["unit"])
        inherited: dict[Address, socket.socket] = {self._socket: _socket(nbd)}
        listen: tuple[tuple[str, int], ...] = ()
        credentials = None
        if iscsi is not None:
            listen = ((iscsi["host"], iscsi["port"]),)
            inherited[listen[0]] = _socket(iscsi)
            credentials = find_credentials(iscsi["chap_file"] or None, os.environ)
        self.server = Server(
            [target],
            listen=listen,
            credentials=credentials,
            initiators=iscsi["initiators"] if iscsi else (),
            exports=[self._export],
            nbd=[self._socket],
            inherited=inherited,
        )

    def report(self) -> dict[str, Any]:
        """What the shim and the attaching process want to know."""
        (nbd,) = offers_of(self._export.name, self._socket, None)
        portal = portal_text(self._iscsi["host"], self._iscsi["port"]) if self._iscsi else ""
        return {
            "disk": dataclasses.asdict(disk_of(self._unit, self._export)),
            "pid": os.getpid(),
            "portal": portal,
            "target": self._target if self._iscsi else "",
            "nbd_uri": nbd.uri,
            "control": str(control.folder() / str(os.getpid())),
        }

    def flush(self) -> str:
        """Flush while clients are still served: what is left at the end is little."""
        try:
            self._gate.call(Operation(Kind.FLUSH))
        except Exception as error:  # whatever the unit raises; closing it flushes once more
            return in_words(error)
        return ""

    @contextlib.contextmanager
    def control(self) -> Iterator[None]:
        """The socket on which the unit can be asked."""
        names = [self._export.name, self._target]
        answers = verbs([Served(self._spec, self._gate, names)])
        answers |= watching.verbs(self.server, [(self._gate.name, self._gate)])
        try:
            answering = control.Control(answers)
        except (UserdiskError, OSError) as error:
            log.warning("the disk cannot be asked, nor resized: %s", error)
            yield
            return
        self._gate.resized.append(self._changed)
        try:
            yield
        finally:
            answering.close()


def _socket(place: Mapping[str, Any]) -> socket.socket:
    sock = socket.socket(fileno=place["descriptor"])
    sock.set_inheritable(False)
    return sock


if __name__ == "__main__":
    sys.exit(main())
