"""The guest of the run, and Linux's initiator in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import session
from tests.guest.initiator import LinuxInitiator
from tests.guest.session import Guest, GuestError


@pytest.fixture(scope="session")
def guest_share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that host and guest both see and write, under the same name."""
    return tmp_path_factory.mktemp("guest")


@pytest.fixture(scope="session")
def guest(guest_share: Path) -> Iterator[Guest]:
    """One guest, booted when the first test asks for it."""
    reason = session.missing()
    if reason is not None:
        pytest.skip(reason)
    try:
        running = Guest([guest_share])
    except GuestError:
        running = Guest([guest_share])  # emulated machines do die in their boot now and then
    yield running
    running.close()


@pytest.fixture(scope="session")
def initiator(guest: Guest) -> LinuxInitiator:
    """Linux's initiator in the guest, its daemon running."""
    return LinuxInitiator(guest)
