"""64 disks of the launcher: how fast its API lists them, also while one crashes.

`python -m bench.launcher_list`; it needs no root. The goal is a median under 50 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from userdisk.errors import UserdiskError
from userdisk.launcher.client import Client, instance_path

_SECONDS: Final = 120.0
_AT_ONCE: Final = 8
_COMMANDS: Final = 5
_GOAL_MS: Final = 50.0
_PASSING: Final = ("uptime",)  # is another each time


@contextlib.contextmanager
def service(folder: Path) -> Iterator[Client]:
    """A launcher with folders of its own; it and its disks end with it."""
    classes = folder / "classes"
    classes.mkdir()
    (classes / "ram.toml").write_text('unit = "ram:1M"\n')
    os.environ.update(
        USERDISK_RUN=str(folder / "run"),
        USERDISK_STATE=str(folder / "state"),
        USERDISK_CLASSES=str(classes),
    )
    process = subprocess.Popen([sys.executable, "-P", "-m", "userdisk", "launcher", "run"])
    try:
        client = _answering(process)
        try:
            yield client
        finally:
            for each in instances(client):
                client.call("DELETE", instance_path(each["id"]), {"force": True})
    finally:
        process.terminate()
        process.wait()


def _answering(process: subprocess.Popen[bytes]) -> Client:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(UserdiskError):
            client = Client()
            client.get("/v1/service")
            return client
        time.sleep(0.05)
    raise SystemExit("the launcher does not answer")


def instances(client: Client) -> list[dict[str, Any]]:
    """As the API lists them."""
    found: list[dict[str, Any]] = client.get("/v1/instances")["instances"]
    return found


def start(client: Client, number: int) -> None:
    """Start one disk."""
    client.call("POST", "/v1/instances", body={"class": "ram", "name": f"disk{number}"})


def crash(client: Client) -> None:
    """Kill one, and see that the others know nothing of it."""
    before = {each["id"]: each for each in instances(client)}
    victim = next(iter(before.values()))
    os.kill(victim["unit_pid"], signal.SIGKILL)
    deadline = time.monotonic() + _SECONDS
    while client.get(instance_path(victim["id"]))["state"] != "failed":
        if time.monotonic() > deadline:
            raise SystemExit("the crash was not seen")
        time.sleep(0.02)
    after = {each["id"]: each for each in instances(client)}
    different = [
        id_
        for id_ in before.keys() | after.keys()
        if _lasting(before.get(id_, {})) != _lasting(after.get(id_, {}))
    ]
    if different != [victim["id"]]:
        raise SystemExit(f"a crash of {victim['id']} was seen by {', '.join(different)}")


def _lasting(instance: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in instance.items() if key not in _PASSING}


def times(client: Client, count: int) -> list[float]:
    """Of so many lists, each with a connection of its own; in ms, the shortest first."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        client.get("/v1/instances")
        found.append((time.perf_counter() - began) * 1e3)
    return sorted(found)


def _print(what: str, found: Sequence[float]) -> float:
    median = statistics.median(found)
    high = found[min(len(found) * 99 // 100, len(found) - 1)]
    print(f"{what:24} median {median:6.1f} ms, 99 % {high:6.1f}, most {found[-1]:6.1f}", flush=True)
    return median


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.launcher_list", description=__doc__)
    parser.add_argument("--disks", type=int, default=64, help="how many disks run (64)")
    parser.add_argument("--lists", type=int, default=200, help="how many lists are timed (200)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as client:
        began = time.perf_counter()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda number: start(client, number), range(options.disks)))
        print(f"{options.disks} disks started in {time.perf_counter() - began:.1f} s", flush=True)
        median = _print("the API lists them in", times(client, options.lists))
        commands = []
        for _ in range(_COMMANDS):
            began = time.perf_counter()
            command = [sys.executable, "-P", "-m", "userdisk", "list"]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            commands.append((time.perf_counter() - began) * 1e3)
        _print("userdisk list takes", sorted(commands))
        crash(client)
        print("a crash of one: none of the others is different")
    print(f"goal, a median under {_GOAL_MS:g} ms: {'met' if median < _GOAL_MS else 'MISSED'}")
    return 0 if median < _GOAL_MS else 1


if __name__ == "__main__":
    sys.exit(main())
