"""The launcher's API against its description: schemathesis asks all that it allows, and more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from tests.launcher.system.service import service_in
from userdisk import control

pytestmark = pytest.mark.skipif(find_spec("schemathesis") is None, reason="needs schemathesis")

ROOT = Path(__file__).parents[3]
HOOKS = "tests.launcher.system.schema_hooks"
#: What is well-formed may still be of a disk that cannot be, and is refused then.
NOT_FOR_US = "positive_data_acceptance"


@contextlib.contextmanager
def tcp_to(path: Path) -> Iterator[int]:
    """A loopback port whose connections lead to the Unix socket at `path`."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), control.short(path) as name:
            inner_reader, inner = await asyncio.open_unix_connection(name)
            await asyncio.gather(pass_on(reader, inner), pass_on(inner_reader, writer))

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(connected, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:

        async def end() -> None:
            server.close()
            rest = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
            for each in rest:
                each.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


def schemathesis(folder: Path, document: str, port: int, *options: str) -> tuple[int, str]:
    """Let it ask, always the same; exit status and what it prints."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", document),
            *("--url", f"http://127.0.0.1:{port}", "--exclude-path", "/v1/events"),
            *("--checks", "all", "--exclude-checks", NOT_FOR_US, "--generation-deterministic"),
            *("--request-timeout", "60", "--warnings", "off", "--no-color", *options),
        ],
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_the_api_is_as_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service_in(tmp_path, monkeypatch) as service:
        service.write("ram", 'unit = "ram:1M"')
        service.start()
        with tcp_to(service.stable.folder / "run/launcher/api") as port:
            document = f"http://127.0.0.1:{port}/openapi.json"
            status, said = schemathesis(tmp_path, document, port, "--max-examples", "5")
        assert status == 0, said
        log = service.log.read_text()
        assert "starts ram.one" in log and "stops ram.one" in log, "it has asked for little"


def test_an_api_that_is_not_as_described_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these lies is a failure; so the test above can fail."""
    with service_in(tmp_path, monkeypatch) as service:
        document = service.start().get("/openapi.json")
        document["components"]["schemas"]["Service"]["properties"]["pid"] = {"type": "string"}
        del document["paths"]["/v1/instances/{id}"]["get"]["responses"]["404"]
        (tmp_path / "lies.json").write_text(json.dumps(document))
        paths = [f"--include-path={path}" for path in ("/v1/service", "/v1/instances/{id}")]
        with tcp_to(service.stable.folder / "run/launcher/api") as port:
            status, said = schemathesis(
                tmp_path, "lies.json", port, *paths, "--phases", "coverage", "--max-examples", "1"
            )
    assert status == 1, said
    assert "Response violates schema" in said and "Undocumented status code" in said
