"""One measurement: a subject bears a load for some seconds, and these are its figures."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from bench.errors import BenchError
from bench.programs import BIN
from bench.rows import GIB, MIB, Load, Start, Subject
from bench.running import Server
from bench.servers import Setup

#: metric -> value; the metrics are those of `report.METRICS`
Figures = dict[str, float]

_HEADER = 48  # bytes of an iSCSI header
_SETTLE = 0.5  # seconds until an idle server is looked at


@dataclass(frozen=True, slots=True)
class Clock:
    """How long a measurement takes, in seconds."""

    seconds: float
    ramp: float  #: before the measurement begins


class Meter:
    """Measures subjects; starts each server when it is first needed. A context manager."""

    def __init__(self, setup: Setup, clock: Clock) -> None:
        self._setup, self._clock = setup, clock
        self._servers: dict[str, Server] = {}
        self._ends: dict[str, contextlib.ExitStack] = {}

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.release(())

    def release(self, kinds: Collection[str]) -> None:
        """End the servers that are not of these kinds, with their memory."""
        with contextlib.ExitStack() as stack:
            for kind in [kind for kind in self._ends if kind not in kinds]:
                self._servers.pop(kind, None)
                stack.push(self._ends.pop(kind))

    def measure(self, subject: Subject | Start, load: Load | None) -> Figures:
        """One run. Blocks. Raises `BenchError` if a request failed."""
        if isinstance(subject, Start):
            return self._start(subject)
        assert load is not None
        if subject.server == "echo":
            return self._echo(load)
        return self._disk(subject, load, self._server(subject.server))

    def verify(self, subject: Subject | Start) -> None:
        """Check that the disk still holds what was written to it."""
        if isinstance(subject, Subject) and subject.server != "echo":
            server = self._server(subject.server)
            blkload(server, "rr", 4096, 32, 0.3, "ramp=0", "verify")

    def _server(self, kind: str) -> Server:
        if kind not in self._servers:
            stack = self._ends[kind] = contextlib.ExitStack()
            server = stack.enter_context(self._setup.start(kind))
            blkload(server, "fill", MIB, 8, 0)  # memory is there before it is measured
            self._servers[kind] = server
        return self._servers[kind]

    def _disk(self, subject: Subject, load: Load, server: Server) -> Figures:
        clock = self._clock
        words = [f"ramp={clock.ramp}", *subject.words]
        cpu = min(os.sched_getaffinity(0)) if load.one_cpu else None
        with contextlib.ExitStack() as stack:
            if cpu is not None:
                stack.enter_context(server.pinned(cpu))
            if subject.beside:
                whole = clock.ramp + clock.seconds + 1
                neighbour = _blkload(server, "rr", 4096, subject.beside, whole, "ramp=0")
                stack.callback(neighbour.result)
                time.sleep(0.2)
            clients = [
                _blkload(
                    server, load.operation, load.length, load.depth, clock.seconds, *words, cpu=cpu
                )
                for _ in range(subject.connections)
            ]
            results = [client.result() for client in clients]
        return combined(results, load.length)

    def _echo(self, load: Load) -> Figures:
        request, reply = _HEADER, _HEADER + load.length
        if load.operation.endswith("w"):
            request, reply = reply, request
        arguments = map(str, (request, reply, load.depth, self._clock.seconds))
        cpu = min(os.sched_getaffinity(0)) if load.one_cpu else None
        return combined([Client([str(BIN / "echo"), *arguments], cpu).result()], load.length)

    def _start(self, subject: Start) -> Figures:
        if not subject.unit:
            running = self._setup.tgt()
        elif subject.image:
            running = self._setup.userdisk(self._setup.image(subject.unit, subject.image))
        else:
            running = self._setup.userdisk(subject.unit)
        with running as server:
            time.sleep(_SETTLE)
            idle = server.resident
            blkload(server, "rr", 4096, 32, 0.2, "ramp=0", f"span={GIB}")
            return {"start_s": server.took, "idle_mib": idle, "used_mib": server.resident}


def combined(results: Sequence[dict[str, float]], length: int) -> Figures:
    """The figures of clients that ran side by side; `length` is that of a request in bytes."""
    iops = sum(result["iops"] for result in results)

    def per_million(name: str) -> float:
        return 1e6 / iops * sum(result[name] / result["seconds"] for result in results)

    figures = {
        "iops": iops,
        "mib_s": iops * length / MIB,
        # each client saw all of the server's time
        "server_cpu": per_million("server_cpu_s") / len(results),
        "client_cpu": per_million("client_cpu_s"),
    }
    if "p50_us" in results[0]:
        figures["p50_us"] = median(result["p50_us"] for result in results)
        figures["p99_us"] = max(result["p99_us"] for result in results)
        figures["others"] = fmean(result["other_cpu_s"] / result["seconds"] for result in results)
        if len(results) > 1:  # each counts the others' clients: not the rest of the machine
            del figures["others"]
    return figures


def blkload(
    server: Server, operation: str, length: int, depth: int, seconds: float, *words: str
) -> dict[str, float]:
    """Run blkload to its end."""
    return _blkload(server, operation, length, depth, seconds, *words).result()


def _blkload(
    server: Server,
    operation: str,
    length: int,
    depth: int,
    seconds: float,
    *words: str,
    cpu: int | None = None,
) -> Client:
    command = [str(BIN / "blkload"), server.disk.engine, server.disk.target, operation]
    command += [str(length), str(depth), str(seconds), f"pid={server.pid}", *words]
    return Client(command, cpu)


class Client:
    """A program that prints its result as a line of JSON."""

    def __init__(self, command: list[str], cpu: int | None = None) -> None:
        self._command = command if cpu is None else ["taskset", "-c", str(cpu), *command]
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def result(self) -> dict[str, float]:
        """Wait for it. Raises `BenchError` if it failed."""
        try:
            out, error = self._process.communicate()
        except BaseException:  # Ctrl-C: leave nothing behind
            self._process.kill()
            self._process.communicate()
            raise
        if self._process.returncode:
            said = error.strip() or out.strip()
            raise BenchError(f"{said}\n  in: {shlex.join(self._command)}")
        result: dict[str, float] = json.loads(out)
        return result
