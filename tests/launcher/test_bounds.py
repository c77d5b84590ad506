"""What one user can have the launcher keep: events that he does not read, disks that start."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("msgspec")

from userdisk.launcher import api, service, shims
from userdisk.launcher.rights import Caller
from userdisk.launcher.service import Launcher
from userdisk.launcher.spec import Spec, State, Status
from userdisk.launcher.tracing import TooMany
from userdisk.launcher.types import Event, Instance, Start

ME = Caller(os.getuid(), os.getgid())
NOBODY = Caller(os.getuid() + 4321, 4321)
EVENT = Event("state", Instance(id="x.y", class_="x", name="y", state=State.RUNNING))


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUN", "STATE", "CLASSES"):
        monkeypatch.setenv(f"USERDISK_{name}", str(tmp_path / name))
    (tmp_path / "CLASSES").mkdir()
    (tmp_path / "CLASSES" / "ram.toml").write_text('unit = "ram:1M"\nmay-start = ["*"]\n')
    (tmp_path / "CLASSES" / "ram.toml").chmod(0o644)


@pytest.fixture
def served() -> Iterator[api.Api]:
    found = api.Api()
    yield found
    found.launcher.close()
    found._pool.shutdown()
    found._waiting.shutdown()


def test_who_does_not_read_events_has_an_end_to_them(served: api.Api) -> None:
    queue: asyncio.Queue[Event | None] = asyncio.Queue(api._QUEUE)
    other: asyncio.Queue[Event | None] = asyncio.Queue(api._QUEUE)
    served._listeners = {queue: ME, other: NOBODY}
    for _ in range(3 * api._QUEUE):
        served._tell(EVENT)
    assert queue.qsize() <= api._QUEUE and queue not in served._listeners
    items = [queue.get_nowait() for _ in range(queue.qsize())]
    assert items[-1] is None and items[0] is EVENT, "then it has to ask anew"
    assert other.empty() and other in served._listeners, "it is of no concern to somebody else"


def test_no_user_takes_all_events(served: api.Api) -> None:
    served._listeners = {asyncio.Queue(): NOBODY for _ in range(api._MAX_OF_USER)}
    with pytest.raises(TooMany, match="24 listen already, 24 of user"):
        asyncio.run(served._events(None, NOBODY))  # type: ignore[arg-type]
    asyncio.run(served._events(None, ME))  # type: ignore[arg-type]
    assert len(served._listeners) == api._MAX_OF_USER + 1


def test_no_user_takes_all_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun = threading.Event(), threading.Semaphore(0)

    def slow(given: Spec) -> Status:
        begun.release()
        assert go.wait(60)
        return Status()

    monkeypatch.setattr(shims, "start", slow)
    monkeypatch.setattr(service, "_MOST_STARTING", 3)
    launcher = Launcher()
    try:
        for number in range(3):
            launcher.start(Start("ram", f"disk{number}", wait=False), NOBODY)
        with pytest.raises(TooMany, match="starts 3 disks already"):
            launcher.start(Start("ram", "disk3", wait=False), NOBODY)
        with pytest.raises(shims.Exists, match="being started already"):
            launcher.start(Start("ram", "disk0", wait=False), ME)
        launcher.start(Start("ram", "mine", wait=False), ME)
        for _ in range(4):
            assert begun.acquire(timeout=60)
        seen = {each.id for each in launcher.instances(NOBODY)}
        assert seen == {"ram.disk0", "ram.disk1", "ram.disk2"}
        assert len(launcher.instances(ME)) == 4
    finally:
        go.set()
        launcher.close()
