"""CHAP: who may log in, the target's side of the exchange, and the format of a secrets file.

RFC 7143 12.1.3, 9.2.1; RFC 1994 4.1 (the response).

Theory of operation. ALGORITHM -> RESPONSE -> DONE: the initiator lists algorithms and gets a
challenge; its answer is compared, and if it challenges us in turn we prove our own secret. Any
deviation is one and the same failure, and an unknown name costs the same work as a wrong secret.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from userdisk.errors import UsageError
from userdisk.iscsi.text import (
    Pair,
    TextError,
    decode_binary,
    decode_list,
    decode_number,
    encode_binary,
)

MIN_SECRET = 12  #: bytes: 96 bits (9.2.1). The Windows initiator takes 12 to 16.
MAX_SECRET = 255
MAX_CHALLENGE = 1024  #: bytes (12.1.3)

#: The numbers of CHAP_A (IANA "PPP Authentication Algorithms") and hashlib's names
ALGORITHMS: Mapping[int, str] = MappingProxyType({5: "md5", 6: "sha1", 7: "sha256", 8: "sha3_256"})


class ChapError(Exception):
    """The peer did not authenticate itself; the message is for the log and holds no secret."""


@dataclass(frozen=True, slots=True)
class Account:
    """A name (CHAP_N) and its secret, which stays out of repr."""

    name: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.name.encode()) <= 255 or not self.name.isprintable():
            raise UsageError("CHAP name: must be 1 to 255 printable characters")
        if not MIN_SECRET <= len(self.secret) <= MAX_SECRET:
            raise UsageError(
                f"CHAP secret of {self.name}: must be {MIN_SECRET} to {MAX_SECRET} bytes (Windows"
                f" takes 12 to 16), not {len(self.secret)}"
            )


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who may log in (`users`), and what this target proves in return (`mutual`).

    Raises `UsageError` for what 12.1.3 and 9.2.1 do not allow. Immutable, hence thread-safe.
    """

    users: tuple[Account, ...]
    mutual: Account | None = None

    def __post_init__(self) -> None:
        if not self.users:
            raise UsageError("CHAP: no user who may log in; write 'user NAME SECRET'")
        names = [user.name for user in self.users]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"CHAP user {name}: given twice")
        mutual = self.mutual
        if mutual is not None:
            for user in self.users:
                if hmac.compare_digest(user.secret, mutual.secret):
                    raise UsageError(
                        f"CHAP user {user.name}: has the same secret as 'mutual'; RFC 7143 wants"
                        " two different ones"
                    )

    def secret(self, name: str) -> bytes | None:
        """The secret of a user, or None."""
        for user in self.users:
            if user.name == name:
                return user.secret
        return None


def parse_secrets(text: str, source: str) -> Credentials:
    """The credentials in the text of a secrets file.

    One account a line, `user NAME SECRET` for each initiator that may log in and at most one
    `mutual NAME SECRET` for what the target proves in return. A name has no spaces, a secret is
    the rest of the line; empty lines and lines that begin with # are skipped. `source` says in
    messages where the text is from. Raises `UsageError`, whose text holds no secret.
    """
    users: list[Account] = []
    mutual: Account | None = None
    try:
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split(None, 2)
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 3 or words[0] not in ("user", "mutual"):
                raise UsageError(f"line {number}: write 'user NAME SECRET' or 'mutual NAME SECRET'")
            account = Account(words[1], words[2].strip().encode())
            if words[0] == "user":
                users.append(account)
            elif mutual is not None:
                raise UsageError(f"line {number}: 'mutual' may come once only")
            else:
                mutual = account
        return Credentials(tuple(users), mutual)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None


def response(algorithm: int, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    """RFC 1994 4.1: the hash of identifier, secret and challenge."""
    digest = hashlib.new(ALGORITHMS[algorithm], usedforsecurity=False)
    digest.update(bytes([identifier]) + secret + challenge)
    return digest.digest()


class Step(enum.Enum):
    """What the target waits for."""

    ALGORITHM = enum.auto()
    RESPONSE = enum.auto()
    DONE = enum.auto()


#: step -> the keys that must come, and those that may
_KEYS: Mapping[Step, tuple[frozenset[str], frozenset[str]]] = {
    Step.ALGORITHM: (frozenset({"CHAP_A"}), frozenset()),
    Step.RESPONSE: (frozenset({"CHAP_N", "CHAP_R"}), frozenset({"CHAP_I", "CHAP_C"})),
    Step.DONE: (frozenset(), frozenset()),
}


class ChapTarget:
    """The target's side of one CHAP exchange. Not thread-safe.

    Args:
        random: `random(n)` gives n unpredictable bytes.
    """

    def __init__(self, credentials: Credentials, random: Callable[[int], bytes]) -> None:
        self._credentials = credentials
        self._random = random
        self._algorithm = 0
        self._identifier = 0
        self._challenge = b""
        self._step = Step.ALGORITHM

    @property
    def done(self) -> bool:
        """Whether the initiator has proven its secret."""
        return self._step is Step.DONE

    def answer(self, keys: Mapping[str, str]) -> list[Pair]:
        """Answer the CHAP keys of one request (at least one). Raises `ChapError`."""
        required, optional = _KEYS[self._step]
        if not required <= keys.keys() <= required | optional or not required:
            raise ChapError(f"unexpected keys {', '.join(sorted(keys))}")
        try:
            if self._step is Step.ALGORITHM:
                return self._choose(keys["CHAP_A"])
            return self._verify(keys)
        except TextError as error:
            raise ChapError(str(error)) from None

    def _choose(self, offer: str) -> list[Pair]:
        known = {str(number): number for number in ALGORITHMS}
        for text in decode_list(offer):
            if text in known:
                self._algorithm = known[text]
                break
        else:
            raise ChapError(f"no algorithm that we know in {offer[:32]!r}")
        length = hashlib.new(ALGORITHMS[self._algorithm], usedforsecurity=False).digest_size
        self._identifier = self._random(1)[0]
        self._challenge = self._random(length)
        self._step = Step.RESPONSE
        return [
            ("CHAP_A", str(self._algorithm)),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", encode_binary(self._challenge)),
        ]

    def _verify(self, keys: Mapping[str, str]) -> list[Pair]:
        name = keys["CHAP_N"]
        secret = self._credentials.secret(name)
        expected = response(
            self._algorithm,
            self._identifier,
            self._random(MIN_SECRET) if secret is None else secret,
            self._challenge,
        )
        given = decode_binary(keys["CHAP_R"], len(expected))
        if not hmac.compare_digest(given, expected) or secret is None:
            raise ChapError(f"unknown name or wrong secret (name {name[:64]!r})")
        answer = self._prove(keys) if "CHAP_I" in keys or "CHAP_C" in keys else []
        self._step = Step.DONE
        return answer

    def _prove(self, keys: Mapping[str, str]) -> list[Pair]:
        mutual = self._credentials.mutual
        if mutual is None:
            raise ChapError("the initiator wants mutual authentication and no secret is set for it")
        if "CHAP_I" not in keys or "CHAP_C" not in keys:
            raise ChapError("CHAP_I and CHAP_C come together")
        identifier = decode_number(keys["CHAP_I"])
        challenge = decode_binary(keys["CHAP_C"], MAX_CHALLENGE)
        if identifier > 255 or not challenge:
            raise ChapError("the initiator's challenge makes no sense")
        if hmac.compare_digest(challenge, self._challenge):
            raise ChapError("the initiator reflects our challenge")
        proof = response(self._algorithm, identifier, mutual.secret, challenge)
        return [("CHAP_N", mutual.name), ("CHAP_R", encode_binary(proof))]
