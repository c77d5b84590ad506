"""The commands of a launcher's disk, as they end: over the API and by `userdisk trace`."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from tests.launcher.system.service import Service, service_in
from tests.launcher.system.test_service import as_nobody
from userdisk.launcher.client import Client, Failed, instance_path

TRACE = instance_path("ram.one", "/trace")


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with service_in(tmp_path, monkeypatch) as found:
        found.write("ram", 'unit = "ram:%1"')
        found.start()
        found.cli("start", "ram", "one", "1M")
        yield found


def read_some(service: Service) -> None:
    """Have commands done."""
    service.cli("stgtest", Client().get(instance_path("ram.one"))["nbd_uri"], "20", "R", "*", "8")


def test_commands_are_seen_as_they_end(service: Service) -> None:
    with closing(Client().lines(TRACE, timeout=60)) as lines:  # type: ignore[type-var]
        assert json.loads(next(lines)) == {"dropped": 0}
        threading.Thread(target=read_some, args=(service,)).start()
        seen = next(each for line in lines if "command" in (each := json.loads(line)))
    assert seen["protocol"] == "nbd" and seen["unit"] and seen["us"] > 0


def test_the_end_comes_in_time_and_with_the_process(service: Service) -> None:
    assert list(Client().lines(TRACE, {"seconds": 0}, timeout=60))
    with closing(Client().lines(TRACE, timeout=60)) as lines:  # type: ignore[type-var]
        next(lines)
        os.kill(Client().get(instance_path("ram.one"))["unit_pid"], signal.SIGKILL)
        assert all("dropped" in line for line in lines)
    service.stable.until(lambda: Client().get(instance_path("ram.one"))["state"] == "failed")
    with pytest.raises(Failed, match="does not serve now"):
        next(Client().lines(TRACE))


def test_whoever_goes_makes_room_for_others(service: Service) -> None:
    for _ in range(2):
        streams = [watching(service) for _ in range(4)]
        try:
            with pytest.raises(Failed, match="4 others watch already"):
                next(Client().lines(TRACE))
        finally:
            for stream in streams:
                stream.close()  # type: ignore[attr-defined]


def watching(service: Service) -> Iterator[str]:
    """A stream that has begun: earlier ones may still have to go."""
    found: list[Iterator[str]] = []

    def begun() -> bool:
        stream = Client().lines(TRACE, timeout=60)
        try:
            next(stream)
        except Failed:
            return False
        found.append(stream)
        return True

    service.stable.until(begun)
    return found[0]


def test_the_end_of_the_service_ends_it(service: Service) -> None:
    with closing(Client().lines(TRACE, timeout=60)) as lines:  # type: ignore[type-var]
        next(lines)
        assert service.stop() == 0
        assert all("dropped" in line for line in lines)
    service.start()


def test_who_may_not_see_a_disk_sees_no_commands(service: Service) -> None:
    if os.getuid() != 0:
        pytest.skip("another user's request needs root")
    for path in (service.stable.folder, *service.stable.folder.parents):
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    assert as_nobody(lambda: [refused()]) == ["403 user nobody may not see ram.one"]
    service.write("ram", 'unit = "ram:%1"\nmay-query = ["nobody"]')
    assert as_nobody(lambda: list(Client().lines(TRACE, {"seconds": 0}, timeout=60)))


def refused() -> str:
    try:
        return next(iter(Client().lines(TRACE)))
    except Failed as error:
        return f"{error.status} {error}"


def test_the_command_by_name_and_by_id(service: Service) -> None:
    for what in ("one", "ram.one"):
        assert service.cli("trace", what, "--seconds", "0.1") == ""
    assert "no running process" in service.cli("trace", "ram.none", "--seconds", "0.1", status=1)
    pcap = service.stable.folder / "x"
    assert "--pcap shows data" in service.cli("trace", "ram.one", "--pcap", str(pcap), status=1)
    assert not pcap.exists()
