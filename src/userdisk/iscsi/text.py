"""Text of logins and negotiations: key=value pairs, numbers, binary values and iSCSI names.

RFC 7143 section 6.1 (text format), 6.2 (C bit), 4.2.7 (names). What a peer sends is bounded here:
the length of a key, of a value, of a whole negotiation, and the number of its pairs.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TypeAlias

MAX_VALUE = 8192  #: bytes of one encoded value
MAX_TEXT = 65536  #: bytes of one negotiation, over all its PDUs
MAX_PAIRS = 256
MAX_NAME = 223  #: bytes of an iSCSI name (4.2.7.1)

Pair: TypeAlias = tuple[str, str]

#: 6.1 asks for a capital letter first, but 13.24 has iSCSIProtocolLevel
_KEY = re.compile(rb"[A-Za-z][A-Za-z0-9.\-+@_#]{0,62}")
_DECIMAL = re.compile(r"[0-9]{1,20}")
_HEX = re.compile(r"0[xX][0-9A-Fa-f]+")
_BASE64 = re.compile(r"0[bB][0-9A-Za-z+/]*={0,2}")
_NAME = re.compile(r"(iqn\.|eui\.|naa\.)[^\x00-\x20\x7f]+")


class TextError(Exception):
    """The peer's text breaks the format; the message is for the log."""


def encode_pairs(pairs: Iterable[Pair]) -> bytes:
    """The pairs as they go into a data segment, each with its NUL."""
    return b"".join(f"{key}={value}\0".encode() for key, value in pairs)


def decode_pairs(data: bytes) -> list[Pair]:
    """The pairs of a complete negotiation text, in order.

    A missing last NUL and padding NULs are tolerated. Raises `TextError` for anything else that is
    not 6.1, for a key that comes twice and for too many pairs.
    """
    items = [item for item in data.split(b"\0") if item]
    if len(items) > MAX_PAIRS:
        raise TextError(f"more than {MAX_PAIRS} keys")
    pairs: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition(b"=")
        if not equals:
            raise TextError(f"{_shown(item)} is not key=value")
        if not _KEY.fullmatch(key):
            raise TextError(f"{_shown(key)} is not a key")
        if len(value) > MAX_VALUE:
            raise TextError(f"the value of {_shown(key)} is longer than {MAX_VALUE} bytes")
        name = key.decode("ascii")
        if name in pairs:
            raise TextError(f"{name} comes twice")
        try:
            pairs[name] = value.decode()
        except UnicodeDecodeError:
            raise TextError(f"the value of {name} is not UTF-8") from None
    return list(pairs.items())


class TextBuffer:
    """Collects the text of requests that the C bit joins.

    Args:
        limit: bytes over the buffer's life, or since the last `reset`.
    """

    def __init__(self, limit: int = MAX_TEXT) -> None:
        self._limit = limit
        self._total = 0
        self._parts: list[bytes] = []

    def add(self, data: bytes, *, more: bool) -> list[Pair] | None:
        """The pairs that `data` completes; None while `more` is to come. Raises `TextError`."""
        self._total += len(data)
        if self._total > self._limit:
            raise TextError(f"more than {self._limit} bytes of text")
        if data:
            self._parts.append(data)
        if more:
            return None
        text = b"".join(self._parts)
        self._parts.clear()
        return decode_pairs(text)

    def reset(self) -> None:
        """Forget what was collected: a new negotiation begins."""
        self._total = 0
        self._parts.clear()


def decode_number(text: str) -> int:
    """A decimal or hexadecimal constant of at most 64 bits. Raises `TextError`."""
    if _DECIMAL.fullmatch(text):
        value = int(text)
    elif len(text) <= 18 and _HEX.fullmatch(text):
        value = int(text, 16)
    else:
        raise TextError(f"{text[:32]!r} is not a number")
    if value >= 1 << 64:
        raise TextError(f"{text[:32]!r} is larger than 64 bits")
    return value


def decode_binary(text: str, limit: int) -> bytes:
    """A binary value in hexadecimal (0x) or base64 (0b), of at most `limit` bytes.

    Raises `TextError`, whose text does not repeat the value.
    """
    if len(text) > 2 * limit + 4:
        raise TextError(f"a binary value is longer than {limit} bytes")
    if _HEX.fullmatch(text):
        digits = text[2:]
        value = bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
    elif _BASE64.fullmatch(text):
        try:
            value = base64.b64decode(text[2:], validate=True)
        except binascii.Error:
            raise TextError("a binary value is not base64") from None
    else:
        raise TextError("a binary value is neither hexadecimal nor base64")
    if len(value) > limit:
        raise TextError(f"a binary value is longer than {limit} bytes")
    return value


def encode_binary(value: bytes) -> str:
    """A binary value in hexadecimal, which every initiator reads."""
    return "0x" + value.hex()


def decode_list(text: str) -> Sequence[str]:
    """The values of a list, in the order of preference."""
    return text.split(",")


def decode_name(text: str) -> str:
    """An iSCSI name in the form that names are compared in (RFC 3722). Raises `TextError`."""
    name = unicodedata.normalize("NFKC", text.casefold())
    if len(name.encode()) > MAX_NAME or not _NAME.fullmatch(name):
        raise TextError(f"{text[:64]!r} is not an iSCSI name")
    return name


def _shown(data: bytes) -> str:
    return repr(data[:32].decode("ascii", "replace"))
