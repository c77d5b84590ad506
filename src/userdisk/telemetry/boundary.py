"""Where messages begin on a connection that is under way already.

Called on the connection's owner's thread, before it handles what was just received.
"""

from __future__ import annotations

from typing import NamedTuple

from userdisk.iscsi.connection import Connection as IscsiConnection
from userdisk.nbd.connection import Connection as NbdConnection
from userdisk.nbd.connection import Phase as NbdPhase
from userdisk.spd.connection import Connection as SpdConnection


class Begun(NamedTuple):
    """What is known of the message that is being received."""

    here: bytes  #: its beginning, all of it that is here
    rest: int  #: or, if that is not known any more, how many bytes of it are still to come


def begun(connection: object) -> Begun | None:
    """The message that is being received now; None: not known, ask at the next batch."""
    if isinstance(connection, SpdConnection):
        return Begun(bytes(connection.held), 0)
    if isinstance(connection, IscsiConnection):
        if connection.opening:
            return None
        incoming = connection.incoming
        if incoming.landing:
            return Begun(b"", len(incoming.room()))
        return Begun(bytes(incoming.view[incoming.start : incoming.end]), 0)
    assert isinstance(connection, NbdConnection)
    if connection.phase is not NbdPhase.TRANSMISSION:
        return None
    nbd, owed = connection.incoming, connection.owed
    if nbd.held < owed:
        return Begun(b"", owed - nbd.held)
    return Begun(bytes(nbd.view[nbd.start : nbd.end])[owed:] if nbd.held > owed else b"", 0)
