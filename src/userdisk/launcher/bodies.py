"""What a request carries, bounded in size and time: for the API and for the console."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

_LARGEST: Final = 64 << 10
_SECONDS: Final = 10.0


async def read(request: Request) -> bytes:
    """The whole body. Raises `HTTPException`: 413 too long, 408 too slow, 400 cut off."""
    body = b""
    try:
        async with asyncio.timeout(_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > _LARGEST:
                    raise HTTPException(413, f"the body is longer than {_LARGEST >> 10} KiB")
    except TimeoutError:
        raise HTTPException(408, f"the body did not come within {_SECONDS:g} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the body ended too early") from None
    return body
