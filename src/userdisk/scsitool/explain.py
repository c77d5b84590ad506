"""Bytes that a person has, in words: a CDB, sense data, a captured session."""

from __future__ import annotations

from userdisk.errors import UsageError
from userdisk.scsitool import session
from userdisk.scsitool.capture import MAX_FILE, pieces
from userdisk.scsitool.layout import Listing
from userdisk.scsitool.raw import parse_hex
from userdisk.scsitool.words import cdb_words, sense_words

_SENSE = frozenset({0x70, 0x71, 0x72, 0x73})  # response codes; no command has these codes
_MAX_BYTES = 4096


def bytes_in_words(text: str) -> Listing:
    """What bytes in hexadecimal mean: sense data if they begin as such, else a CDB.

    Raises `UsageError` if they are no bytes.
    """
    data = parse_hex(text)
    if not data:
        raise UsageError("there are no bytes to explain")
    if len(data) > _MAX_BYTES:
        raise UsageError(f"{len(data)} bytes are too many; put a captured session in a file")
    is_sense = data[0] & 0x7F in _SENSE
    words = sense_words(data) if is_sense else cdb_words(data)
    row = ("sense data" if is_sense else "CDB", words)
    return Listing("Explained", ("KIND", "WORDS"), [row], sentence="{WORDS}")


def capture_file(path: str) -> Listing:
    """The session in a file. Blocks while it is read. Raises `UsageError`."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise UsageError(f"{path}: larger than {MAX_FILE >> 20} MiB")
    try:
        return session.lines(pieces(data))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
