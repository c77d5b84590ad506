"""`trace`: what a running server does, while somebody looks, and nothing when nobody does."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.link import INITIATOR, TARGET
from tests.kit.sockets import connect
from tests.kit.units import InlineRamUnit
from userdisk.errors import MediumError, UsageError, UserdiskError
from userdisk.gate import Gate
from userdisk.initiator_client import Initiator, ScsiError
from userdisk.nbd.export import Export
from userdisk.nbd.uri import Uri
from userdisk.nbd.wire import Command
from userdisk.nbd_client import Client, Request
from userdisk.portal import Owner
from userdisk.scsitool.capture import pieces
from userdisk.server import Server
from userdisk.spd.client import Request as PipeRequest
from userdisk.spd.wire import Kind
from userdisk.spd_client import Client as PipeClient
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target
from userdisk.telemetry.watching import Ring, watch
from userdisk.transport import PlainStream

BLOCK = 512


@contextmanager
def served() -> Iterator[tuple[Server, dict[str, Gate], Initiator, Client]]:
    """Two units in one target, the second one also an export, and a client of each kind."""

    def fault(name: str, lba: int, blocks: int) -> None:
        if lba == 9:
            raise MediumError("worn out", lba=9)

    units = [InlineRamUnit(block_count=4096), InlineRamUnit(block_count=4096)]
    units[0].fault = fault
    gates = {name: Gate(unit, name) for name, unit in zip("ab", units, strict=True)}
    server = Server(
        [Target(TARGET, [LogicalUnit(gate) for gate in gates.values()])],
        listen=[("127.0.0.1", 0)],
        exports=[Export("d", gates["b"])],
        nbd=[("127.0.0.1", 0)],
    )
    (address, *_) = server.start()
    try:
        uri = Uri(export="d", host="127.0.0.1", port=int(server.nbd_addresses[0][1]))
        with connect(address) as initiator, Client(uri) as client:
            yield server, gates, initiator, client
    finally:
        server.stop()


def _until(
    answers: Iterator[dict[str, Any]], do: Callable[[], None], found: Callable[[Any], bool]
) -> list[dict[str, Any]]:
    """Do something again and again until an answer says what is looked for; all answers."""
    seen: list[dict[str, Any]] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            do()
            stop.wait(0.05)

    worker = threading.Thread(target=run)
    worker.start()
    try:
        for answer in answers:
            seen.append(answer)
            if found(answer):
                return seen
        raise AssertionError("the answers ended")
    finally:
        stop.set()
        worker.join()


def _streams(server: Server) -> list[object]:
    owners: list[Owner] = list(server._portals._owners)
    return [owner._stream for owner in owners]


def test_commands_in_words() -> None:
    with served() as (server, gates, initiator, client):

        def work() -> None:
            initiator.read(5, 2)
            with pytest.raises(ScsiError):
                initiator.read(9, 1)
            client.call(Request(Command.WRITE, 1024, BLOCK, data=bytes(BLOCK)))

        seen: list[dict[str, Any]] = []
        with closing(watch(server, gates, {})) as answers:  # type: ignore[type-var]
            seen += _until(answers, work, lambda answer: answer.get("protocol") == "nbd")
            seen += _until(answers, work, lambda answer: answer.get("failed") is True)
            good = "READ(16), LOGICAL BLOCK ADDRESS 5, TRANSFER LENGTH 2"
            seen += _until(answers, work, lambda answer: answer.get("command") == good)
        commands = [answer for answer in seen if "command" in answer]
        by_words = {answer["command"]: answer for answer in commands}
        read = by_words[good]
        assert (read["unit"], read["initiator"], read["status"]) == ("a", INITIATOR, "GOOD")
        bad = by_words["READ(16), LOGICAL BLOCK ADDRESS 9, TRANSFER LENGTH 1"]
        assert bad["status"].startswith("CHECK CONDITION: medium error, unrecovered read error")
        write = by_words["WRITE, 512 bytes at 1024"]
        assert (write["unit"], write["protocol"], write["status"]) == ("b", "nbd", "done")
        assert all(answer["us"] >= 0 and answer["time"] > 1.7e9 for answer in commands)
        work()  # in the end, connections are as they were
        for _ in range(100):
            initiator.read(0, 1)
            client.call(Request(Command.READ, 0, BLOCK))
            if all(type(stream) is PlainStream for stream in _streams(server)):
                break
        assert all(type(stream) is PlainStream for stream in _streams(server))


def test_a_client_of_a_pipe(tmp_path: Path) -> None:
    gates = {name: Gate(InlineRamUnit(block_count=4096), name) for name in "pq"}
    pipes = {tmp_path / name: gate for name, gate in gates.items()}
    server = Server([], pipes=pipes)
    server.start()
    try:
        with PipeClient(str(tmp_path / "p")) as early:
            early.call(PipeRequest(Kind.READ, 0, 1))  # known from the middle on

            def work() -> None:
                early.call(PipeRequest(Kind.WRITE, 3, 1, data=bytes(BLOCK), fua=True))
                with PipeClient(str(tmp_path / "q")) as late:
                    late.call(PipeRequest(Kind.READ, 2, 1))

            with closing(watch(server, gates, {})) as answers:  # type: ignore[type-var]
                seen = _until(answers, work, lambda answer: answer.get("unit") == "q")
                seen += _until(answers, work, lambda answer: answer.get("unit") == "p")
            commands = {answer["unit"]: answer for answer in seen if "command" in answer}
            assert commands["p"]["command"] == "WRITE, 1 block at 3, FUA"
            assert commands["q"]["command"] == "READ, 1 block at 2"
            assert {answer["status"] for answer in commands.values()} == {"GOOD"}
            assert {answer["protocol"] for answer in commands.values()} == {"spd"}
            with closing(watch(server, gates, {"unit": "q"})) as answers:  # type: ignore[type-var]
                seen = _until(answers, work, lambda answer: "command" in answer)
            assert {answer["unit"] for answer in seen if "command" in answer} == {"q"}
    finally:
        server.stop()


def test_one_unit_alone() -> None:
    with served() as (server, gates, initiator, client):

        def work() -> None:
            initiator.read(0, 1)
            client.call(Request(Command.READ, 0, BLOCK))

        with closing(watch(server, gates, {"unit": "b"})) as answers:  # type: ignore[type-var]
            seen = _until(answers, work, lambda answer: "command" in answer)
        assert {answer["unit"] for answer in seen if "command" in answer} == {"b"}
        with pytest.raises(UsageError, match="none with the name c"):
            watch(server, gates, {"unit": "c"})


@pytest.mark.parametrize("unit", [None, "a", "b"])
def test_a_capture_of_what_is_said_from_now_on(unit: str | None) -> None:
    with served() as (server, gates, initiator, client):

        def work() -> None:
            initiator.write(1, b"iSCSI is it" + bytes(BLOCK - 11))
            client.call(Request(Command.WRITE, 0, BLOCK, data=b"NBD it is" + bytes(BLOCK - 9)))

        request: dict[str, object] = {"capture": True}
        if unit is not None:
            request["unit"] = unit
        data = bytearray()

        def found(answer: dict[str, Any]) -> bool:
            data.extend(base64.b64decode(answer.get("pcap", "")))
            return b"iSCSI is it" in data and (unit == "a" or b"NBD it is" in data)

        with closing(watch(server, gates, request)) as answers:  # type: ignore[type-var]
            _until(answers, work, found)
        assert (b"NBD it is" in data) is (unit != "a")  # a is not exported; b is in the target
        said: dict[str, bytes] = {}
        for piece in pieces(bytes(data)):
            said[piece.source] = said.get(piece.source, b"") + piece.data
        asked = [text for source, text in said.items() if not source.endswith(":3260")]
        assert asked and all(text[0] in (0x01, 0x41) for text in asked)  # begins with a command


def test_few_may_watch() -> None:
    with served() as (server, gates, *_):
        watching = [watch(server, gates, {}) for _ in range(4)]
        for each in watching:
            next(each)
        with pytest.raises(UserdiskError, match="watch already"):
            watch(server, gates, {})
        for each in watching:
            each.close()  # type: ignore[attr-defined]
        again = watch(server, gates, {})
        assert next(again) == {"dropped": 0}
        again.close()  # type: ignore[attr-defined]


def test_a_ring_is_bounded_and_counts() -> None:
    ring: Ring[bytes] = Ring(10, len)
    assert [ring.put(b"1234"), ring.put(b"5678"), ring.put(b"9ab"), ring.put(b"cd")] == [
        True,
        True,
        False,
        True,
    ]
    assert ring.dropped == 1
    assert ring.take(5) == [b"1234"]
    assert ring.take(1) == [b"5678"]  # one at least
    assert ring.put(b"12345678")
    assert ring.take(100) == [b"cd", b"12345678"]
    assert ring.take(100) == []


def test_a_bug_in_who_looks_ends_no_connection(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def received(self, data: memoryview) -> None:
            raise ValueError("a bug")

        def sent(self, buffers: object) -> None:
            raise ValueError("a bug")

        def closed(self) -> None:
            """Nothing to do."""

    class Observer:
        def joined(self, connection: object, local: object, remote: object) -> Broken:
            return Broken()

    with served() as (server, _, initiator, client):
        server.observe(Observer())
        for _ in range(1000):
            assert len(initiator.read(0, 1)) == BLOCK
            client.call(Request(Command.READ, 0, BLOCK))
            if len(caplog.records) >= 2:
                break
    assert {record.message for record in caplog.records} == {
        "a connection is not looked at any more"
    }
