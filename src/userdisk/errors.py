"""The error table: what a storage error is called over SCSI, in errno and over NBD.

A storage unit raises one of these classes, or an `OSError`, which `from_exception` maps.
Sense codes are those of SPC-6 annex F; NBD errors those of the NBD protocol ("Error values").
"""

from __future__ import annotations

import errno
from typing import ClassVar

_MAX_U64 = (1 << 64) - 1


class UserdiskError(Exception):
    """Anything userdisk reports to the person who runs it: one line that says what and where."""


class UsageError(UserdiskError):
    """The request itself is wrong (a parameter, a file, an address): exit status 2."""


class StorageError(Exception):
    """A storage operation failed; the base class of the table.

    Args:
        message: for the log; never sent to the peer.
        lba: the first logical block that failed, when one is known (SCSI INFORMATION field).
    """

    #: sense key, additional sense code, additional sense code qualifier
    sense: ClassVar[tuple[int, int, int]] = (0x4, 0x44, 0x00)
    errno: ClassVar[int] = errno.EIO
    nbd_error: ClassVar[int] = 5

    def __init__(self, message: str = "", *, lba: int | None = None) -> None:
        if lba is not None and not 0 <= lba <= _MAX_U64:
            raise ValueError(f"lba {lba} is not an unsigned 64-bit number")
        super().__init__(message or type(self).__name__)
        self.lba = lba


class HardwareError(StorageError):
    """The device failed internally: 4/44/00, INTERNAL TARGET FAILURE."""


class MediumError(StorageError):
    """A block cannot be read: 3/11/00, UNRECOVERED READ ERROR."""

    sense = (0x3, 0x11, 0x00)


class WriteError(MediumError):
    """A block cannot be written or made durable: 3/0C/00, WRITE ERROR."""

    sense = (0x3, 0x0C, 0x00)


class NotReady(StorageError):
    """The unit cannot be accessed now, perhaps later: 2/04/00."""

    sense = (0x2, 0x04, 0x00)
    errno = errno.EAGAIN


class NoMedium(NotReady):
    """There is no medium in the drive: 2/3A/00."""

    sense = (0x2, 0x3A, 0x00)
    errno = errno.ENOMEDIUM if hasattr(errno, "ENOMEDIUM") else errno.ENODEV


class SanitizeInProgress(NotReady):
    """The unit is being sanitized: 2/04/1B. Raised by userdisk, not by units."""

    sense = (0x2, 0x04, 0x1B)


class WriteProtected(StorageError):
    """The unit must not be written: 7/27/00."""

    sense = (0x7, 0x27, 0x00)
    errno = errno.EROFS
    nbd_error = 1


class ReservationConflict(StorageError):
    """Somebody else has the unit reserved. Raised by userdisk for ports that have no such status.

    Linux calls it EBADE; NBD's list comes no closer than EPERM. The sense is ACCESS DENIED - NO
    ACCESS RIGHTS: not to be repeated, and no fault of the medium.
    """

    sense = (0x5, 0x20, 0x02)
    errno = errno.EBADE if hasattr(errno, "EBADE") else errno.EPERM
    nbd_error = 1


class OutOfSpace(StorageError):
    """A thin unit ran out of space: 7/27/07, SPACE ALLOCATION FAILED WRITE PROTECT."""

    sense = (0x7, 0x27, 0x07)
    errno = errno.ENOSPC
    nbd_error = 28


class OutOfRange(StorageError):
    """Blocks past the end: 5/21/00, LOGICAL BLOCK ADDRESS OUT OF RANGE."""

    sense = (0x5, 0x21, 0x00)
    errno = errno.EINVAL
    nbd_error = 22


class Unsupported(StorageError):
    """The unit does not offer this operation: 5/20/00, INVALID COMMAND OPERATION CODE."""

    sense = (0x5, 0x20, 0x00)
    errno = errno.EOPNOTSUPP
    nbd_error = 95


class OutOfMemory(StorageError):
    """No memory for the operation now: B/55/03, INSUFFICIENT RESOURCES (the initiator retries)."""

    sense = (0xB, 0x55, 0x03)
    errno = errno.ENOMEM
    nbd_error = 12


class Aborted(StorageError):
    """The operation was given up before it was done: B/00/00 (the initiator retries)."""

    sense = (0xB, 0x00, 0x00)
    errno = errno.EINTR


_BY_ERRNO: dict[int, type[StorageError]] = {
    errno.EIO: MediumError,
    errno.ENOSPC: OutOfSpace,
    errno.EDQUOT: OutOfSpace,
    errno.EFBIG: OutOfSpace,
    errno.EROFS: WriteProtected,
    errno.EPERM: WriteProtected,
    errno.EACCES: WriteProtected,
    errno.ENODEV: NotReady,
    errno.ENXIO: NotReady,
    errno.ETIMEDOUT: NotReady,
    errno.EAGAIN: NotReady,
    errno.EBUSY: NotReady,
    errno.ENOMEM: OutOfMemory,
    errno.EOPNOTSUPP: Unsupported,
    NoMedium.errno: NoMedium,
}


def from_exception(error: BaseException, *, writing: bool) -> StorageError:
    """The table's entry for what a unit raised.

    `writing` is true for write, flush and unmap: an I/O error is then a write error. Anything
    that is neither a `StorageError` nor an `OSError` is a bug in the unit and becomes a
    `HardwareError`; the caller logs its traceback (`is_bug`).
    """
    if isinstance(error, StorageError):
        return error
    if isinstance(error, OSError) and (number := _errno_of(error)) is not None:
        kind = _BY_ERRNO.get(number, HardwareError)
        if kind is MediumError and writing:
            kind = WriteError
        return kind(str(error))
    if isinstance(error, MemoryError):
        return OutOfMemory("out of memory")
    return HardwareError(f"{type(error).__name__}: {error}")


#: What an error of an NBD server is here; the reverse of `nbd_error`.
_BY_NBD_ERROR: dict[int, type[StorageError]] = {
    1: WriteProtected,
    5: MediumError,
    12: OutOfMemory,
    22: OutOfRange,
    28: OutOfSpace,
    75: HardwareError,
    95: Unsupported,
    108: NotReady,
}


def from_nbd(number: int, message: str, *, writing: bool, lba: int | None = None) -> StorageError:
    """The table's entry for an NBD server's error; numbers that are not known are EIO.

    `writing` is true for everything that stores: an I/O error is then a write error.
    """
    kind = _BY_NBD_ERROR.get(number, MediumError)
    if kind is MediumError and writing:
        kind = WriteError
    return kind(message, lba=lba)


#: Sense data of somebody else's disk that means one class of the table, and what each other sense
#: key means; the reverse of `sense`.
_BY_SENSE: dict[tuple[int, int, int], type[StorageError]] = {
    kind.sense: kind
    for kind in (
        NoMedium,
        SanitizeInProgress,
        OutOfSpace,
        OutOfRange,
        Unsupported,
        OutOfMemory,
        ReservationConflict,
    )
}
_BY_SENSE_KEY: dict[int, type[StorageError]] = {
    0x2: NotReady,
    0x3: MediumError,
    0x4: HardwareError,
    0x5: Unsupported,
    0x7: WriteProtected,
    0x8: MediumError,
    0xB: Aborted,
    0xD: OutOfSpace,
}


def from_sense(
    sense: tuple[int, int, int], message: str, *, writing: bool, lba: int | None = None
) -> StorageError:
    """The table's entry for sense key, code and qualifier that another disk has given.

    `writing` is true for everything that stores: a medium error is then a write error.
    """
    key, code, _ = sense
    kind = _BY_SENSE.get(sense) or _BY_SENSE_KEY.get(key, HardwareError)
    if (key, code) == (0x2, 0x3A):  # with the tray open, or closed
        kind = NoMedium
    if kind is MediumError and writing:
        kind = WriteError
    return kind(message, lba=lba)


def _errno_of(error: OSError) -> int | None:
    """Its number, also where Python sets none: OSError(errno.EIO), and time-outs of sockets."""
    if error.errno is not None:
        return error.errno
    if isinstance(error, TimeoutError):
        return errno.ETIMEDOUT
    only = error.args[0] if len(error.args) == 1 else None
    return only if isinstance(only, int) else None


def is_bug(error: BaseException) -> bool:
    """True for what only a programming error in a unit raises."""
    return not isinstance(error, (StorageError, OSError, MemoryError))


def in_words(error: BaseException) -> str:
    """Why something of a unit failed, for a message: `KeyError: 'x'`, not only `'x'`."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    if not text:
        return kind
    said = not is_bug(error) or isinstance(error, UserdiskError)
    return text if said else f"{kind}: {text}"
