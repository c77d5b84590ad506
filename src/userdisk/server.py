"""A server: units behind iSCSI portals, NBD addresses and pipes, started and stopped in order."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from userdisk.budget import PROCESS_LIMIT, Budget, Buffers
from userdisk.counters import Tally
from userdisk.errors import UsageError, UserdiskError, in_words, is_bug
from userdisk.gate import Gate
from userdisk.iscsi import digest
from userdisk.iscsi.discovery import (
    Portal,
    Record,
    parse_advertise,
    reachable,
    seen_from,
    target_address,
)
from userdisk.iscsi.keys import Settings
from userdisk.listening import Address
from userdisk.nbd.connection import Connection as NbdConnection
from userdisk.nbd.environment import Environment as NbdEnvironment
from userdisk.nbd.environment import TlsMode
from userdisk.nbd.export import Export
from userdisk.portal import Accept, Connection, HostPort, Portals, Post
from userdisk.scsi.port_groups import AccessState, Cause
from userdisk.tapped_stream import Observer
from userdisk.target.log_pages import Processed
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target
from userdisk.usage_watch import UsageWatch

if TYPE_CHECKING:  # loaded by the first connection that needs it, or by `_load`
    from userdisk.iscsi.chap import Credentials
    from userdisk.iscsi.connection import Connection as IscsiConnection
    from userdisk.iscsi.environment import Environment
    from userdisk.iscsi.login import Found, Login, Negotiated, Opened
    from userdisk.spd.connection import Connection as SpdConnection
    from userdisk.tls import ServerTls

log = logging.getLogger("userdisk")

DEFAULT_PORT = 3260
_LOAD_SECONDS = 1.0
MAX_TAG = 65535  #: of a portal group; 0 is no relative target port identifier (SPC-5 4.3.4)


class Server:
    """Targets and exports that clients can use. Usable as a context manager.

    Args:
        targets: with their logical units; the server opens and closes the units.
        listen: (host, port) or (host, port, tag) of each portal; port 0 chooses a free one. The
            tag is that of its portal group, 1 by default; each group is a target port of its own.
        credentials: CHAP names and secrets; None: everybody may log in.
        initiators: names that may log in; empty: all.
        advertise: the address that discovery names instead of the one that the client reached:
            "host" or "host:port", for initiators behind NAT.
        exports: what NBD clients can ask for; the first is the default. The server opens and
            closes their units too, those of targets only once.
        nbd: (host, port) of each NBD address, or the path of a Unix socket.
        tls: for NBD; None: without TLS.
        pipes: the paths of Unix sockets for WinSpd's pipe protocol, and the unit of each. The
            server opens and closes these units too.
        inherited: sockets that listen already, by the (host, port) or path of `listen` and `nbd`
            that they are for; they go on listening when the server has stopped.
        elsewhere: targets of other servers that discovery shows too, by name, and their portals;
            called by threads of connections.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        listen: Sequence[tuple[str, int] | tuple[str, int, int]] = (("127.0.0.1", DEFAULT_PORT),),
        credentials: Credentials | None = None,
        initiators: Sequence[str] = (),
        advertise: str | None = None,
        exports: Sequence[Export] = (),
        nbd: Sequence[Address] = (),
        tls: ServerTls | None = None,
        pipes: Mapping[Path, Gate] | None = None,
        inherited: Mapping[Address, socket.socket] | None = None,
        elsewhere: Callable[[], Iterable[tuple[str, Portal]]] = tuple,
    ) -> None:
        self._targets = {target.name.lower(): target for target in targets}
        if len(self._targets) != len(targets):
            names = [target.name.lower() for target in targets]
            name = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"two targets have the same name, {name}")
        units = list(dict.fromkeys(lu for target in targets for lu in target.units))
        self._pipes = dict(pipes or {})
        gates = [lu.gate for lu in units] + [export.gate for export in exports]
        gates += self._pipes.values()
        self._gates: list[Gate] = list(dict.fromkeys(gates))
        self._nbd = tuple(nbd)
        self._inherited = dict(inherited or {})
        self._elsewhere = elsewhere
        self._tls = tls
        self._exports = {export.name: export for export in exports}
        if len(self._exports) != len(exports):
            taken = [export.name for export in exports]
            twice = next(name for name in taken if taken.count(name) > 1)
            raise UsageError(f"two exports have the same name, {twice}")
        self._listen = tuple(Portal(*each) for each in listen)
        for portal in self._listen:
            if not 1 <= portal.tag <= MAX_TAG:
                raise UsageError(f"portal group tag {portal.tag}: must be from 1 to {MAX_TAG}")
        for target in targets:
            target.define_groups(portal.tag for portal in self._listen)
        self._credentials = credentials
        if advertise is not None:
            parse_advertise(advertise)
        self._advertise = advertise
        self._bound: list[tuple[str, int]] = []
        self._initiators = frozenset(name.lower() for name in initiators)
        self._opened: list[Gate] = []
        digests = ("CRC32C", "None") if digest.available() else ("None",)
        self._settings = Settings(digests=digests)
        budget, buffers = Budget(PROCESS_LIMIT, threading.Lock()), Buffers(threading.Lock())
        self._nbd_environment = NbdEnvironment(
            exports=self._exports,
            tls=_mode(tls),
            budget=budget,
            buffers=buffers,
            report=_report,
            clock=time.monotonic,
        )
        self._budget, self._buffers = budget, buffers
        self._first = threading.Lock()
        self._loading: threading.Timer | None = None
        self._iscsi: Environment | None = None
        self._portals = Portals()
        self._units = units
        for lu in units:
            lu.processed = partial(self._processed, lu)
        self._watch = UsageWatch(units)
        #: what `stop` waits for, for people
        self.waits_for = ""
        #: what a unit's last flush or close raised, after `stop`
        self.failure: Exception | None = None
        #: NBD addresses as bound, after `start`
        self.nbd_addresses: list[Address] = []

    def start(self) -> list[tuple[str, int]]:
        """Open the units and listen; returns the bound iSCSI addresses.

        Raises UsageError for an address or a certificate that cannot be had, and UserdiskError for
        a unit that cannot be opened; the server is then stopped again.
        """
        context = None if self._tls is None else self._tls.context()
        try:
            for gate in self._gates:
                _open(gate)
                self._opened.append(gate)
            for lu in self._units:
                lu.sanitize.resume()
            self._watch.start()
            for portal in self._listen:
                place = (portal.host, portal.port)
                bound = self._portals.listen(
                    place,
                    self._iscsi_connection(portal.tag),
                    inherited=self._inherited.get(place),
                )
                assert isinstance(bound, tuple)
                self._bound.append(bound)
            for path, gate in self._pipes.items():
                self._portals.listen(path, self._spd_connection(gate))
            for address in self._nbd:
                bound = self._portals.listen(
                    address, self._nbd_connection, context, self._inherited.get(address)
                )
                self.nbd_addresses.append(bound)
            if self._listen and "userdisk.iscsi.connection" not in sys.modules:
                self._loading = threading.Timer(_LOAD_SECONDS, _load)
                self._loading.daemon = True
                self._loading.start()
            return self._bound
        except BaseException:
            with contextlib.suppress(Exception):  # what came first is the one to tell
                self.stop()
            raise

    def stop(self) -> None:
        """Stop accepting, have clients leave, then flush and close the units. Blocks.

        Raises the first failure to flush or close, after everything was closed. They are logged,
        bugs with their traceback.
        """
        if self._loading is not None:
            self._loading.cancel()
        self.waits_for = "clients to leave"
        self._portals.stop()
        self._watch.stop()
        for lu in self._units:
            self.waits_for = f"unit {lu.gate.name} to interrupt its sanitize operation"
            idle = threading.Event()
            lu.background.stop(idle.set)
            idle.wait()
        failure: Exception | None = None
        while self._opened:
            gate = self._opened.pop()
            self.waits_for = f"unit {gate.name} to flush and close"
            try:
                gate.close()
            except Exception as error:  # the other units are to be closed, too
                log.error(
                    "unit %s: cannot be flushed and closed: %s",
                    gate.name,
                    in_words(error),
                    exc_info=error if is_bug(error) else None,
                )
                failure = failure or error
        if failure is not None:
            self.failure = failure
            raise failure

    def set_access_state(
        self, group: int, state: AccessState, *, units: Iterable[LogicalUnit] | None = None
    ) -> None:
        """Say how units can be reached through a portal group: implicit ALUA (SPC-5 5.16.2).

        Every session is told (2A/06). When this returns, the last command that the old state let
        run has left its unit. Blocks; not for a unit's own methods.

        Args:
            group: the tag of the portals.
            units: those that are meant; None: all units of the server.

        Raises UsageError for a group that there is not.
        """
        if group not in {portal.tag for portal in self._listen}:
            raise UsageError(f"there is no portal group {group}")
        chosen = self._units if units is None else list(units)
        for lu in chosen:
            lu.gate.call(lu.port_groups.change({group: state}, Cause.IMPLICIT))

    def local_clients(self) -> int:
        """Connections over Unix sockets now."""
        return self._portals.local_clients()

    def counters(self) -> Tally:
        """What all connections did up to now, by unit."""
        return self._portals.counters()

    def observe(self, observer: Observer) -> None:
        """Let somebody see what comes and goes on all connections, also those to come."""
        self._portals.observe(observer)

    def ignore(self, observer: Observer) -> None:
        """The opposite of `observe`: connections stop to call it soon."""
        self._portals.ignore(observer)

    def tallies(self) -> list[tuple[Tally, int]]:
        """What each client did up to now, and how many connections it has."""
        return self._portals.tallies()

    def _processed(self, lu: LogicalUnit) -> Processed:
        counters = self.counters()[lu.gate]
        return Processed(counters.read_bytes, counters.written_bytes)

    @property
    def connections(self) -> int:
        """Connections that were accepted up to now."""
        return self._portals.accepted

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _environment(self) -> Environment:
        """Of all iSCSI connections."""
        from userdisk.iscsi.environment import Environment
        from userdisk.iscsi.session import Sessions

        with self._first:
            if self._iscsi is None:
                self._iscsi = Environment(
                    targets=self._targets,
                    sessions=Sessions(threading.Lock()),
                    login=self._login,
                    records=self._records,
                    max_segment=self._settings.max_recv_data_segment_length,
                    budget=self._budget,
                    buffers=self._buffers,
                    report=_report,
                    clock=time.monotonic,
                )
            return self._iscsi

    def _iscsi_connection(self, tag: int) -> Accept:
        def accept(local: HostPort, remote: HostPort, post: Post, now: float) -> IscsiConnection:
            from userdisk.iscsi.connection import Connection
            from userdisk.iscsi.environment import Peer

            connection = Connection(self._environment(), Peer(local, remote, tag), post, now)
            return _named(connection, "iscsi", remote)

        return accept

    def _nbd_connection(
        self, local: HostPort, remote: HostPort, post: Post, now: float
    ) -> NbdConnection:
        return _named(NbdConnection(self._nbd_environment, post, now), "nbd", remote)

    def _spd_connection(self, gate: Gate) -> Accept:
        from userdisk.spd.connection import Connection
        from userdisk.spd.pipe import Pipe

        pipe = Pipe(gate, self._budget, _report, clock=time.monotonic)

        def accept(local: HostPort, remote: HostPort, post: Post, now: float) -> SpdConnection:
            return _named(Connection(pipe, post, now), "spd", remote)

        return accept

    def _login(self, open_session: Callable[[Negotiated], Opened], tag: int) -> Login:
        from userdisk.iscsi.login import Login, LoginConfig
        from userdisk.iscsi.outgoing import COMMAND_WINDOW

        return Login(
            LoginConfig(
                find_target=partial(self._find, tag),
                open_session=open_session,
                random=os.urandom,
                credentials=self._credentials,
                initiators=self._initiators,
                settings=self._settings,
                command_window=COMMAND_WINDOW,
                stat_sn=int.from_bytes(os.urandom(4)) >> 1,
            )
        )

    def _records(self, reached: Portal) -> list[Record]:
        """What discovery shows: our own targets, and those of other servers."""
        listening = zip(self._bound, self._listen, strict=False)  # some may not listen yet
        portals = [Portal(*address, portal.tag) for address, portal in listening]
        own = [target_address(*each) for each in reachable(portals, reached, self._advertise)]
        found = [Record(target.name, own) for target in self._targets.values()]
        for name, portal in self._elsewhere():
            addresses = [target_address(*each) for each in seen_from([portal], reached)]
            if addresses:
                found.append(Record(name, addresses))
        return found

    def _find(self, tag: int, name: str) -> Found | None:
        from userdisk.iscsi.login import Found

        target = self._targets.get(name.lower())
        return None if target is None else Found(target.name.lower(), target.alias, tag)


def _load() -> None:
    """Load what iSCSI needs, soon after a start that it would have delayed.

    Not later: another version of userdisk may have been installed by then.
    """
    import userdisk.iscsi.connection
    import userdisk.iscsi.login
    import userdisk.iscsi.session  # noqa: F401


_C = TypeVar("_C", bound=Connection)


def _named(connection: _C, protocol: str, remote: HostPort) -> _C:
    """Say for the counters whose connection it is; iSCSI knows better after the login."""
    connection.counters.protocol, connection.counters.client = protocol, remote[0]
    return connection


def _mode(tls: ServerTls | None) -> TlsMode:
    if tls is None:
        return TlsMode.NONE
    # A client that need not encrypt need not show a certificate either.
    return TlsMode.REQUIRED if tls.required or tls.verify_peer else TlsMode.OFFERED


def _open(gate: Gate) -> None:
    try:
        gate.open()
    except UserdiskError:
        raise
    except Exception as error:  # whatever the unit raises
        if is_bug(error):
            log.error("unit %s: open failed", gate.name, exc_info=error)
        raise UserdiskError(f"unit {gate.name}: cannot be opened: {in_words(error)}") from error


def _report(error: Exception) -> None:
    log.error("a command failed in userdisk itself", exc_info=error)
