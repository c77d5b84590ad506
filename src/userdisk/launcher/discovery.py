"""One iSCSI address that lists the targets of all disks, each at its own process's portal."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from userdisk.iscsi.discovery import Portal, target_address
from userdisk.launcher.instances import Known
from userdisk.launcher.spec import State
from userdisk.server import Server

_SERVING = (State.RUNNING, State.DEGRADED, State.RESTARTING)


class Discovery:
    """Answers SendTargets until it is closed; there is no disk at this address.

    Args:
        listen: where.
        known: what there is now.

    Raises `UsageError` for an address that cannot be had.
    """

    def __init__(self, listen: tuple[str, int], known: Callable[[], list[Known]]) -> None:
        self._known = known
        self._server = Server([], listen=[listen], elsewhere=self._targets)
        ((host, port),) = self._server.start()
        self.address = target_address(host, port).partition(",")[0]

    def close(self) -> None:
        """Listen no more. Blocks for a moment."""
        self._server.stop()

    def _targets(self) -> Iterable[tuple[str, Portal]]:
        for known in self._known():
            status, spec = known.status, known.spec
            if spec.iscsi and status.target and status.state in _SERVING and known.alive:
                yield status.target, Portal(spec.host, spec.port)
