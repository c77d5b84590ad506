"""What a unit raises, as the error table has it."""

from __future__ import annotations

import errno

import pytest

from userdisk import errors


@pytest.mark.parametrize(
    ("raised", "reading", "writing"),
    [
        (OSError(errno.EIO, "I/O error"), errors.MediumError, errors.WriteError),
        (OSError(errno.EIO), errors.MediumError, errors.WriteError),  # Python sets no errno
        (OSError(errno.ENOSPC), errors.OutOfSpace, errors.OutOfSpace),
        (PermissionError(errno.EACCES, "no"), errors.WriteProtected, errors.WriteProtected),
        (TimeoutError("timed out"), errors.NotReady, errors.NotReady),
        (OSError("no number"), errors.HardwareError, errors.HardwareError),
        (OSError(), errors.HardwareError, errors.HardwareError),
        (OSError(99999), errors.HardwareError, errors.HardwareError),
        (errors.NoMedium(), errors.NoMedium, errors.NoMedium),
        (MemoryError(), errors.OutOfMemory, errors.OutOfMemory),
        (KeyError("key"), errors.HardwareError, errors.HardwareError),
    ],
    ids=repr,
)
def test_what_a_unit_raises(
    raised: Exception, reading: type[errors.StorageError], writing: type[errors.StorageError]
) -> None:
    assert type(errors.from_exception(raised, writing=False)) is reading
    assert type(errors.from_exception(raised, writing=True)) is writing
    assert errors.is_bug(raised) is isinstance(raised, KeyError)
