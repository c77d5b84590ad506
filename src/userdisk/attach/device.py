"""What an attached disk asks of the unit behind it.

The seam of every way to attach: the kernel's side (FUSE now) knows only `BlockDevice`.
`nbd_device` is the one for a unit in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from userdisk.operation import Operation

Done: TypeAlias = "Callable[[Operation], None]"


class BlockDevice(Protocol):
    """A disk that runs operations. All lengths are in bytes; any thread may call."""

    size: int
    block_length: int
    max_transfer_length: int
    read_only: bool
    #: There is an unmap, after which the blocks read as zeros.
    unmaps: bool

    def submit(self, operation: Operation, done: Done) -> bool:
        """Run an operation inside the disk; does not block on a slow unit.

        True: it has ended already. False: `done` is called when it has, on any thread. By then
        `operation.error` is None or a `StorageError`, and a read's result has the right length.
        """
        ...

    def cancel(self, operation: Operation) -> None:
        """End a submitted operation that has not begun; otherwise do nothing."""
        ...

    def close(self) -> None:
        """Flush and close. Blocks. Raises what the unit raises."""
        ...
