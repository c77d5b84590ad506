"""Statistics, and the page for Prometheus: what was done, for whom; what a peer cannot do to it."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.kit.link import INITIATOR, TARGET
from tests.kit.sockets import connect
from tests.kit.units import InlineRamUnit, RamUnit
from userdisk.counters import Tally
from userdisk.errors import MediumError, UsageError, WriteError
from userdisk.gate import Gate
from userdisk.initiator_client import ScsiError
from userdisk.nbd.export import Export
from userdisk.nbd.uri import Uri
from userdisk.nbd.wire import Command
from userdisk.nbd_client import Client, Request
from userdisk.portal import _CLIENTS, OTHERS, Portals
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target
from userdisk.telemetry.http import MetricsServer
from userdisk.telemetry.prometheus import render
from userdisk.telemetry.stats import Statistics
from userdisk.timing import EVERY
from userdisk.unit import Usage

BLOCK = 512


class ThinUnit(RamUnit):
    """Says what it uses."""

    def usage(self) -> Usage:
        return Usage(7, 100)


@contextmanager
def served(*units: RamUnit) -> Iterator[tuple[Server, Statistics, Any, Any]]:
    """A server, its statistics, and a session and a client of its first unit."""
    gates = [Gate(unit, "disk") for unit in units]
    server = Server(
        [Target(TARGET, [LogicalUnit(gate) for gate in gates])],
        listen=[("127.0.0.1", 0)],
        exports=[Export("d", gates[0])],
        nbd=[("127.0.0.1", 0)],
    )
    (address, *_) = server.start()
    try:
        uri = Uri(export="d", host="127.0.0.1", port=int(server.nbd_addresses[0][1]))
        statistics = Statistics(server, [(gate.name, gate) for gate in gates])
        with connect(address) as initiator, Client(uri) as client:
            yield server, statistics, initiator, client
    finally:
        server.stop()


def _unit(statistics: Statistics, name: str = "disk") -> dict[str, Any]:
    answer = json.loads(json.dumps(statistics.answer()))
    found: dict[str, Any] = answer["units"][name]
    return found


@pytest.mark.parametrize("kind", [InlineRamUnit, RamUnit])
def test_what_was_done(kind: type[RamUnit]) -> None:
    unit = kind(block_count=256)
    with served(unit) as (_, statistics, initiator, client):
        for lba in range(10):
            initiator.write(lba, bytes(BLOCK))
            initiator.read(lba, 2)
        initiator.flush()
        initiator.unmap(0, 8)
        for command, length in ((Command.READ, 1024), (Command.FLUSH, 0), (Command.TRIM, 512)):
            client.call(Request(command, 0, length))
        found = _unit(statistics)
    assert (found["size"], found["block_length"]) == (256 * BLOCK, BLOCK)
    done = {name: (each["count"], each["bytes"]) for name, each in found["operations"].items()}
    assert done == {
        "read": (11, 11 * 1024),
        "write": (10, 10 * BLOCK),
        "flush": (2, 0),
        "unmap": (2, 0),
        "zero": (0, 0),
    }
    whose = {(each["name"], each["protocol"]): each for each in found["initiators"]}
    assert set(whose) == {(INITIATOR, "iscsi"), ("127.0.0.1", "nbd")}
    assert whose[INITIATOR, "iscsi"]["count"] == 22
    assert whose[INITIATOR, "iscsi"]["connections"] == 1
    assert whose["127.0.0.1", "nbd"]["operations"]["read"]["bytes"] == 1024
    read = found["operations"]["read"]["time"]
    if kind is RamUnit:
        assert (read["sampled_every"], sum(read["counts"])) == (1, 11)
    else:
        assert read["sampled_every"] == EVERY
        assert 1 <= sum(read["counts"]) <= 11
    assert len(read["counts"]) == len(read["bounds_us"]) + 1
    assert found["operations"]["zero"]["time"]["counts"] == []
    assert "used" not in found and found["last_errors"] == []


def test_what_went_wrong_in_words() -> None:
    unit = InlineRamUnit(block_count=64)

    def fault(name: str, lba: int, blocks: int) -> None:
        if lba == 3:
            raise MediumError("bad sector", lba=3)

    unit.fault = fault
    with served(unit) as (_, statistics, initiator, client):
        with pytest.raises(ScsiError):
            initiator.read(3, 1)
        for _ in range(40):
            with pytest.raises(WriteError):
                client.call(Request(Command.WRITE, 3 * BLOCK, BLOCK, data=bytes(BLOCK)))
        found = _unit(statistics)
    errors = {name: each["errors"] for name, each in found["operations"].items()}
    assert errors == {"read": 1, "write": 40, "flush": 0, "unmap": 0, "zero": 0}
    assert 1 <= len(found["last_errors"]) < 40
    last = found["last_errors"][-1]
    assert last["what"] == "write: bad sector" and last["time"] > 1.7e9
    assert last["sense"].startswith("medium error, ")


def test_what_a_thin_unit_uses() -> None:
    with served(ThinUnit(block_count=256)) as (_, statistics, *_rest):
        assert _unit(statistics)["used"] == 7 * BLOCK


def test_units_with_one_name_are_told_apart() -> None:
    with served(RamUnit(block_count=64), RamUnit(block_count=128)) as (_, statistics, initiator, _):
        initiator.read(0, 1)
        assert _unit(statistics)["operations"]["read"]["count"] == 1
        assert _unit(statistics, "disk#2")["size"] == 128 * BLOCK


def test_clients_that_have_gone_count_and_are_bounded() -> None:
    portals = Portals()
    for number in range(_CLIENTS + 50):
        tally = Tally()
        tally.protocol, tally.client = "iscsi", f"iqn.{number}"
        tally[None].reads = 1
        portals._add(portals._past, tally)
    found = portals.tallies()
    assert len(found) == _CLIENTS + 1
    assert sum(tally[None].reads for tally, _ in found) == _CLIENTS + 50
    assert {tally.client: tally[None].reads for tally, _ in found}[OTHERS] == 50


# -- Prometheus ----------------------------------------------------------------------------------


def test_prometheus_reads_it() -> None:
    with served(RamUnit(block_count=256)) as (_, statistics, initiator, _):
        for lba in range(20):
            initiator.write(lba, bytes(BLOCK))
        answer = json.loads(json.dumps(statistics.answer()))
    odd = 'a "name"\\with\nlines'
    page = render([({"class": "file", "name": odd}, answer), ({"class": "x", "name": "y"}, answer)])
    families = {family.name: family for family in text_string_to_metric_families(page)}
    writes = [
        sample
        for sample in families["userdisk_operations"].samples
        if sample.labels["operation"] == "write" and sample.labels["name"] == odd
    ]
    assert [sample.value for sample in writes] == [20, 0][: len(writes)]
    histogram = [
        sample
        for sample in families["userdisk_operation_seconds"].samples
        if sample.labels["operation"] == "write" and sample.labels["name"] == "y"
    ]
    buckets = [sample for sample in histogram if sample.name.endswith("_bucket")]
    values = [sample.value for sample in buckets]
    assert values == sorted(values) and values[-1] == 20 and buckets[-1].labels["le"] == "+Inf"
    bounds = [float(sample.labels["le"]) for sample in buckets]
    assert bounds == sorted(bounds) and len(bounds) == 26
    count = next(sample.value for sample in histogram if sample.name.endswith("_count"))
    assert count == 20
    for family in families.values():
        assert family.documentation and family.type in ("gauge", "counter", "histogram")


@contextmanager
def metrics(page: str = "x 1\n") -> Iterator[tuple[str, int]]:
    server = MetricsServer(("127.0.0.1", 0), lambda: page)
    try:
        yield server.address
    finally:
        server.close()


def _get(address: tuple[str, int], path: str, method: str = "GET") -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read(), answer.headers.get("Content-Type", "")
    finally:
        connection.close()


def test_over_http() -> None:
    with metrics() as address:
        status, body, kind = _get(address, "/metrics?a=b")
        assert (status, body) == (200, b"x 1\n") and kind.startswith("text/plain; version=0.0.4")
        assert _get(address, "/metrics", "HEAD")[:2] == (200, b"")
        assert b"/metrics" in _get(address, "/")[1]
        assert _get(address, "/nothing")[0] == 404
        assert _get(address, "/metrics", "POST")[0] == 501
        with pytest.raises(UsageError, match=f"cannot listen on {address[0]} port {address[1]}: "):
            MetricsServer(address, str)


def test_silent_clients_hold_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userdisk.telemetry.http._SECONDS", 0.5)
    with metrics() as address:
        silent = [socket.create_connection(address) for _ in range(8)]
        try:
            for each in silent:
                each.settimeout(60)
                assert each.recv(1) == b""  # some at once, the others soon
            assert _get(address, "/metrics")[0] == 200
        finally:
            for each in silent:
                each.close()
