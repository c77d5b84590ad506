"""What a request carries: whole, or refused with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

pytest.importorskip("starlette")

from starlette.exceptions import HTTPException
from starlette.requests import Request

from userdisk.launcher import bodies


def read(messages: Iterable[dict[str, Any]]) -> bytes:
    """Of a request whose parts these are; when there are no more, the client is silent."""
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        for message in waiting:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def run() -> bytes:
        return await bodies.read(Request({"type": "http", "headers": []}, receive))

    return asyncio.run(run())


def part(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


def test_parts_are_put_together() -> None:
    assert read([part(b"{"), part(b""), part(b"}", more=False)]) == b"{}"
    assert read([part(b"", more=False)]) == b""


def test_the_longest() -> None:
    whole = bytes(64 << 10)
    assert read([part(whole[:1]), part(whole[1:], more=False)]) == whole
    with pytest.raises(HTTPException) as found:
        read([part(whole), part(b"x")])  # and what may follow is not waited for
    assert (found.value.status_code, found.value.detail) == (413, "the body is longer than 64 KiB")


def test_a_client_that_goes_on_too_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_SECONDS", 0.01)
    with pytest.raises(HTTPException) as found:
        read([part(b"{")])
    assert found.value.status_code == 408
    assert found.value.detail == "the body did not come within 0.01 s"


def test_a_client_that_goes_away() -> None:
    with pytest.raises(HTTPException) as found:
        read([part(b"{"), {"type": "http.disconnect"}])
    assert (found.value.status_code, found.value.detail) == (400, "the body ended too early")
