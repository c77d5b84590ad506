"""Units served over NBD within the test's process, on a Unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from userdisk.gate import Gate
from userdisk.nbd.export import Export
from userdisk.server import Server
from userdisk.tls import ServerTls
from userdisk.unit import StorageUnit


@contextmanager
def nbd_server(
    socket: Path, *, tls: ServerTls | None = None, **units: StorageUnit
) -> Iterator[str]:
    """Serve each unit as an export with its name; the first one's URI. Stops with the block."""
    exports = [Export(name, Gate(unit), f"disk {name}", False) for name, unit in units.items()]
    server = Server([], listen=(), exports=exports, nbd=[socket], tls=tls)
    assert server.start() == []
    try:
        yield f"nbd+unix:///{next(iter(units))}?socket={socket}"
    finally:
        server.stop()
