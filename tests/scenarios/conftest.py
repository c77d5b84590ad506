"""What was built from C#, a desk for disks that are attached, and a folder for their files."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attach.conftest import desk
from tests.dotnet.conftest import built

__all__ = ["built", "desk"]

_MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory if there is such a place: half of all writes wait for the medium."""
    if not os.access(_MEMORY, os.W_OK):
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="userdisk-", dir=_MEMORY))
    try:
        yield path
    finally:
        shutil.rmtree(path)
