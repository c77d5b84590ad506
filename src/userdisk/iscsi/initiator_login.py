"""The initiator's side of the login phase, and what it settles (RFC 7143 sections 6, 9.2, 13).

Theory of operation. Three stages, each a request that is repeated, empty, until the target answers
with the transit bit: security (offer AuthMethod, with CHAP two more rounds), operational (the keys
of `Settings`), full feature phase. An initiator with a secret refuses a target that does not ask
for it, so that a secret is never silently unused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from userdisk.errors import UserdiskError

_TRANSIT, _CONTINUE = 0x80, 0x40
_SECURITY, _OPERATIONAL, _FULL = 0, 1, 3
_MAX_ROUNDS = 32

#: status class and detail (11.13.5) in words
_STATUS: dict[int, str] = {
    0x0101: "the target has moved",
    0x0102: "the target has moved",
    0x0200: "the target calls the login invalid",
    0x0201: "authentication failed: check the user name and the secret",
    0x0202: "this initiator is not allowed to use the target",
    0x0203: "there is no such target",
    0x0206: "too many connections",
    0x0207: "the target misses a parameter",
    0x020A: "the session does not exist",
    0x0300: "the target failed",
    0x0301: "the target is not available now",
    0x0302: "the target is out of resources",
}


class LoginRefused(UserdiskError):
    """The target refused the login; `status` is class * 256 + detail (RFC 7143 11.13.5)."""

    def __init__(self, status: int) -> None:
        text = _STATUS.get(status, "the target refused the login")
        super().__init__(f"iscsi: {text} (login status {status:04x})")
        self.status = status


class LoginBroken(UserdiskError):
    """The target's answer makes no sense, or mutual authentication failed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Who logs in to what, and what is offered. Lengths are in bytes; secrets stay out of repr.

    `target` None is a discovery session. `user` and `secret` authenticate this initiator,
    `mutual_user` and `mutual_secret` are what the target has to prove.
    """

    initiator: str
    target: str | None = None
    isid: int = 0x80_000000_0000
    user: str | None = None
    secret: bytes = field(default=b"", repr=False)
    mutual_user: str | None = None
    mutual_secret: bytes = field(default=b"", repr=False)
    header_digest: bool = False
    data_digest: bool = False
    initial_r2t: bool = False
    immediate_data: bool = True
    first_burst_length: int = 65536
    max_burst_length: int = 1 << 20
    max_recv_segment: int = 262144


@dataclass(slots=True)
class Parameters:
    """What login settled, as the initiator uses it; the defaults of RFC 7143 section 13."""

    header_digest: bool = False
    data_digest: bool = False
    initial_r2t: bool = True
    immediate_data: bool = True
    first_burst_length: int = 65536
    max_burst_length: int = 262144
    max_send_segment: int = 8192  #: the target's MaxRecvDataSegmentLength
    answers: dict[str, str] = field(default_factory=dict)


#: key of the target's answer -> field of Parameters, and how the value reads
_RESULTS: dict[str, tuple[str, Callable[[str], object]]] = {
    "HeaderDigest": ("header_digest", lambda value: value == "CRC32C"),
    "DataDigest": ("data_digest", lambda value: value == "CRC32C"),
    "InitialR2T": ("initial_r2t", lambda value: value == "Yes"),
    "ImmediateData": ("immediate_data", lambda value: value == "Yes"),
    "FirstBurstLength": ("first_burst_length", lambda value: int(value, 0)),
    "MaxBurstLength": ("max_burst_length", lambda value: int(value, 0)),
    "MaxRecvDataSegmentLength": ("max_send_segment", lambda value: int(value, 0)),
}


def decode_keys(data: bytes) -> dict[str, str]:
    """The key=value pairs of a text segment. Raises `LoginBroken`."""
    keys: dict[str, str] = {}
    for item in data.split(b"\0"):
        if not item:
            continue
        key, equals, value = item.decode("utf-8", "replace").partition("=")
        if not equals or key in keys:
            raise LoginBroken(f"iscsi: the target sent the key {key[:64]!r} twice or without value")
        keys[key] = value
    return keys


class LoginExchange:
    """The login rounds: `first` and `response` give (flags, data) of the next request."""

    def __init__(self, settings: Settings, random: Callable[[int], bytes]) -> None:
        self.parameters = Parameters()
        self._settings = settings
        self._random = random
        self._stage = _SECURITY
        self._rounds = 0
        self._partial = b""
        self._challenge = b""
        self._identifier = 0
        self._authenticated = settings.user is None

    def first(self) -> tuple[int, bytes]:
        """The first request: who we are, and which authentication we offer."""
        settings = self._settings
        keys = [("InitiatorName", settings.initiator)]
        if settings.target is None:
            keys.append(("SessionType", "Discovery"))
        else:
            keys += [("SessionType", "Normal"), ("TargetName", settings.target)]
        if settings.user is not None:
            return self._request([*keys, ("AuthMethod", "CHAP,None")], transit=False)
        return self._request([*keys, ("AuthMethod", "None")])

    def response(self, header: bytes, segment: bytes) -> tuple[int, bytes] | None:
        """Handle a Login Response; None when the session is in full feature phase.

        Raises `LoginRefused` and `LoginBroken`.
        """
        status = int.from_bytes(header[36:38])
        if status:
            raise LoginRefused(status)
        self._rounds += 1
        if self._rounds > _MAX_ROUNDS or len(self._partial) > 1 << 16:
            raise LoginBroken("iscsi: the login does not come to an end")
        self._partial += segment
        flags = header[1]
        if flags & _CONTINUE:
            return self._request([], transit=False)
        keys, self._partial = decode_keys(self._partial), b""
        if flags >> 2 & 3 != self._stage:
            raise LoginBroken("iscsi: the target answers for another stage of the login")
        if self._stage == _SECURITY:
            return self._security(keys, flags)
        self._settle(keys)
        if not flags & _TRANSIT:
            return self._request([])
        return None

    def _security(self, keys: dict[str, str], flags: int) -> tuple[int, bytes]:
        self.parameters.answers.update(keys)
        if keys.get("AuthMethod") == "CHAP":
            return self._request([("CHAP_A", "5")], transit=False)
        if "CHAP_C" in keys:
            return self._request(self._answer_challenge(keys))
        if "CHAP_R" in keys:
            self._check_target(keys)
        if not flags & _TRANSIT:
            return self._request([])
        if not self._authenticated:
            raise LoginBroken("iscsi: the target did not ask for the CHAP secret that was given")
        if self._challenge:
            raise LoginBroken("iscsi: the target did not prove its own CHAP secret")
        self._stage = _OPERATIONAL if flags & 3 == _OPERATIONAL else _FULL
        return self._request(self._offer())

    def _answer_challenge(self, keys: dict[str, str]) -> list[tuple[str, str]]:
        settings = self._settings
        if settings.user is None:
            raise LoginBroken("iscsi: the target wants CHAP and no user and secret were given")
        if keys.get("CHAP_A") != "5":
            raise LoginBroken("iscsi: the target chose a CHAP algorithm that was not offered")
        identifier, challenge = _number(keys.get("CHAP_I", "")), _binary(keys["CHAP_C"])
        answer = _chap(identifier, settings.secret, challenge)
        self._authenticated = True
        reply = [("CHAP_N", settings.user), ("CHAP_R", "0x" + answer.hex())]
        if settings.mutual_user is not None:
            self._identifier, self._challenge = self._random(1)[0], self._random(16)
            reply += [("CHAP_I", str(self._identifier)), ("CHAP_C", "0x" + self._challenge.hex())]
        return reply

    def _check_target(self, keys: dict[str, str]) -> None:
        expected = _chap(self._identifier, self._settings.mutual_secret, self._challenge)
        proven = hmac.compare_digest(_binary(keys["CHAP_R"]), expected)
        if not self._challenge or not proven or keys.get("CHAP_N") != self._settings.mutual_user:
            raise LoginBroken("iscsi: the target does not know its CHAP secret")
        self._challenge = b""

    def _offer(self) -> list[tuple[str, str]]:
        settings = self._settings
        digests = {False: "None", True: "CRC32C"}
        keys = [
            ("HeaderDigest", digests[settings.header_digest]),
            ("DataDigest", digests[settings.data_digest]),
            ("MaxRecvDataSegmentLength", str(settings.max_recv_segment)),
            ("DefaultTime2Wait", "2"),
            ("DefaultTime2Retain", "0"),
            ("ErrorRecoveryLevel", "0"),
        ]
        if settings.target is not None:
            keys += [
                ("InitialR2T", "Yes" if settings.initial_r2t else "No"),
                ("ImmediateData", "Yes" if settings.immediate_data else "No"),
                ("FirstBurstLength", str(settings.first_burst_length)),
                ("MaxBurstLength", str(settings.max_burst_length)),
                ("MaxOutstandingR2T", "1"),
                ("MaxConnections", "1"),
            ]
        return keys

    def _settle(self, keys: dict[str, str]) -> None:
        self.parameters.answers.update(keys)
        for key, value in keys.items():
            if key in _RESULTS:
                name, read = _RESULTS[key]
                try:
                    setattr(self.parameters, name, read(value))
                except ValueError:
                    raise LoginBroken(f"iscsi: {key}={value[:32]} makes no sense") from None
        sizes = self.parameters
        if min(sizes.max_send_segment, sizes.max_burst_length, sizes.first_burst_length) < 512:
            raise LoginBroken("iscsi: the target announces lengths below 512 bytes")

    def _request(self, keys: list[tuple[str, str]], *, transit: bool = True) -> tuple[int, bytes]:
        following = _OPERATIONAL if self._stage == _SECURITY else _FULL
        flags = self._stage << 2 | (_TRANSIT | following if transit else 0)
        return flags, b"".join(f"{key}={value}\0".encode() for key, value in keys)


def _chap(identifier: int, secret: bytes, challenge: bytes) -> bytes:
    return hashlib.md5(bytes([identifier]) + secret + challenge, usedforsecurity=False).digest()


def _number(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value <= 255:
        raise LoginBroken("iscsi: the CHAP identifier makes no sense")
    return value


def _binary(text: str) -> bytes:
    try:
        if text[:2] in ("0b", "0B"):
            return base64.b64decode(text[2:], validate=True)
        if text[:2] in ("0x", "0X"):
            return bytes.fromhex(text[2:].rjust(len(text[2:]) + len(text) % 2, "0"))
    except (binascii.Error, ValueError):
        pass
    raise LoginBroken("iscsi: a CHAP value is neither hexadecimal nor base64")
