"""Servers killed at random moments of a journaled run: what was flushed is in the image.

This proves what the process does before it answers; the kernel's page cache survives a SIGKILL.
What a crash of the machine leaves of the medium, tests/guest/test_stgtest_crash.py proves.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stgtest.forked_servers import ForkedServers
from tests.stgtest.killed_units import BLOCKS
from userdisk.errors import UserdiskError
from userdisk.stgtest.engine import Engine, Limits
from userdisk.stgtest.generator import RANDOM, Plan
from userdisk.stgtest.journal import Head, Writer
from userdisk.stgtest.over_iscsi import DirectPort
from userdisk.stgtest.pattern import Pattern
from userdisk.stgtest.targets import Wishes, open_port
from userdisk.stgtest.verify import Verdict, verify

pytestmark = pytest.mark.timeout(60)

ROUNDS = 100  # over each protocol
PROTOCOLS = ["iscsi", "nbd"]
DEPTH = 8
MOST = 16  # blocks of an operation
MIXES = ("WF", "WWRF", "WUWF", "WWWWWRRUF")
UNITS = Path(__file__).with_name("killed_units.py")


@pytest.fixture(scope="module")
def servers() -> Iterator[ForkedServers]:
    with ForkedServers() as servers:
        yield servers


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(BLOCKS * 512))
    return path


class Killing:
    """A journaled run of a served disk; its server is killed soon after a random operation."""

    def __init__(self, servers: ForkedServers, image: Path, seed: int) -> None:
        self._servers = servers
        self._image = image
        self._chance = random.Random(seed)
        self._last = self._chance.randint(100, 700)  # operation before the kill
        self._killer = threading.Timer(self._chance.uniform(0, 0.004), servers.kill)
        self._journal = image.with_name("run.journal")

    def run(self, protocol: str, mix: str, *, unit: str = "", fua: bool = False) -> str:
        """Until the server is dead; how the run ended."""
        image = str(self._image)
        arguments = [f"{UNITS}:{unit}", "--option", f"path={image}"] if unit else [image]
        if protocol == "iscsi":
            arguments += ["--listen", "127.0.0.1:0"]
        else:
            arguments += ["--no-iscsi", "--nbd", f"unix:{self._image.with_name('nbd')}"]
        url = self._servers.start(*arguments)
        try:
            return self._exercise(url, mix, 1 if unit else self._chance.choice((1, 2)), fua=fua)
        except UserdiskError as error:
            return str(error)
        finally:
            if self._killer.ident is None:  # the run ended before its time
                self._servers.kill()
            else:
                self._killer.join()
            assert self._servers.wait() == -9

    def _exercise(self, url: str, mix: str, connections: int, *, fua: bool) -> str:
        port = open_port(url, Wishes(20, DEPTH, connections))
        geometry = port.geometry
        nonce = self._chance.getrandbits(32) or 1
        writer = Writer(str(self._journal), Head(nonce, BLOCKS, 512, geometry.zeroes))
        plan = Plan(self._chance.getrandbits(32), mix, RANDOM, RANDOM, BLOCKS, MOST)
        engine = Engine(
            port, self._killed(plan), Limits(None, DEPTH), Pattern(512, nonce),
            stamped=True, fua=fua, group=len(mix), record=writer,
        )  # fmt: skip
        try:
            return engine.run() or ""
        finally:
            # There is nobody to say goodbye to; the other ports end their threads, too.
            port.close(stuck=isinstance(port, DirectPort))
            writer.close()

    def _killed(self, plan: Plan) -> Iterator[tuple[str, int, int]]:
        for number, operation in enumerate(plan.operations()):
            if number == self._last:
                self._killer.start()
            yield operation

    def judge(self) -> Verdict:
        """What the image holds, against the journal."""
        port = open_port(str(self._image), Wishes(20))
        try:
            return verify(str(self._journal), port, str(self._image), 20)
        finally:
            port.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_what_was_flushed_survives_sigkill(
    servers: ForkedServers, image: Path, seed: int, protocol: str
) -> None:
    killing = Killing(servers, image, seed)
    fua = seed % 5 == 4
    ended = killing.run(protocol, MIXES[seed % 4], fua=fua)
    assert "bad buffer" not in ended
    assert "condition" not in ended
    verdict = killing.judge()
    assert (verdict.wrong, verdict.problems) == (0, []), ended
    assert verdict.crash.durable > 0, "killed too early to say anything"
    assert verdict.blocks > 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("mix", "fua"), [("WWRF", False), ("WR", True)])
def test_an_honest_cache_may_lose_what_was_not_flushed(
    servers: ForkedServers, image: Path, protocol: str, mix: str, fua: bool
) -> None:
    killing = Killing(servers, image, 1)
    killing.run(protocol, mix, unit="WriteBack", fua=fua)
    verdict = killing.judge()
    assert verdict.problems == []
    assert verdict.crash.durable > 10


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("unit", "mix", "fua"), [("ForgetsOne", "WWRF", False), ("IgnoresFua", "WR", True)]
)
def test_a_flushed_write_that_was_dropped_is_found(
    servers: ForkedServers, image: Path, protocol: str, unit: str, mix: str, fua: bool
) -> None:
    killing = Killing(servers, image, 2)
    ended = killing.run(protocol, mix, unit=unit, fua=fua)
    assert "bad buffer" not in ended  # only the crash shows it
    verdict = killing.judge()
    assert verdict.wrong > 0
    assert all(" holds " in problem and ", not write " in problem for problem in verdict.problems)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stale_data_is_found_by_the_run_itself(
    servers: ForkedServers, image: Path, protocol: str
) -> None:
    url = servers.start(
        f"{UNITS}:Stale", "--option", f"path={image}", "--listen", "127.0.0.1:0",
        "--nbd", f"unix:{image.with_name('nbd')}",
    )  # fmt: skip
    if protocol == "nbd":
        url = f"nbd+unix:///Stale?socket={image.with_name('nbd')}"
    port = open_port(url, Wishes(20, DEPTH))
    try:
        plan = Plan(3, "WRR", RANDOM, RANDOM, BLOCKS, MOST)
        engine = Engine(
            port, plan.operations(), Limits(3000, DEPTH), Pattern(512, 77),
            stamped=True, fua=False, group=3,
        )  # fmt: skip
        ended = engine.run()
    finally:
        port.close()
        servers.kill()
        servers.wait()
    assert ended is not None
    assert "bad buffer after Write" in ended
