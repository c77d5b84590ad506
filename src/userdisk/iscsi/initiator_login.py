"""The initiator's side of the login phase, and what it settles (RFC 7143 sections 6, 9.2, 13).

Theory of operation. Three stages, each a request that is repeated, empty, until the target answers
with the transit bit: security (offer AuthMethod, with CHAP two more rounds), operational (the keys
of `Settings`), full feature phase. An initiator with a secret refuses a target that does not ask
for it, so that a secret is never silently unused.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from userdisk.errors import UsageError, UserdiskError
from userdisk.iscsi.chap import ALGORITHMS, MAX_CHALLENGE
from userdisk.iscsi.text import TextError, decode_binary, decode_number, decode_pairs

_TRANSIT, _CONTINUE = 0x80, 0x40
_SECURITY, _OPERATIONAL, _FULL = 0, 1, 3
_MAX_ROUNDS = 32
#: CHAP algorithms: SHA3-256, SHA-1, MD5, SHA-256. The last is not first, because some targets (tgt)
#: take its number for SHA-1.
_PREFERRED = (8, 6, 5, 7)

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

    def __init__(self, status: int, moved_to: str = "") -> None:
        text = _STATUS.get(status, "the target refused the login")
        text += f" to {moved_to}" if moved_to else ""
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

    def renegotiate(self, keys: Mapping[str, str]) -> None:
        """Take what the target announces in full feature phase. Raises `LoginBroken`."""
        self.answers.update(keys)
        if (value := keys.get("MaxRecvDataSegmentLength")) is not None:
            self.max_send_segment = _segment(value)


def _yes(value: str) -> bool:
    return {"Yes": True, "No": False}[value]


def _digest(value: str) -> bool:
    return {"CRC32C": True, "None": False}[value]


#: key of the target's answer -> field of Parameters (and of Settings), how the value reads, and
#: which it may be after what was offered
_RESULTS: dict[str, tuple[str, Callable[[str], int], Callable[[int, int], bool]]] = {
    "HeaderDigest": ("header_digest", _digest, lambda value, offered: value <= offered),
    "DataDigest": ("data_digest", _digest, lambda value, offered: value <= offered),
    "InitialR2T": ("initial_r2t", _yes, lambda value, offered: value >= offered),
    "ImmediateData": ("immediate_data", _yes, lambda value, offered: value <= offered),
    "FirstBurstLength": (
        "first_burst_length",
        decode_number,
        lambda value, offered: 512 <= value <= offered,
    ),
    "MaxBurstLength": (
        "max_burst_length",
        decode_number,
        lambda value, offered: 512 <= value <= offered,
    ),
}
_SEGMENT = range(512, 1 << 24)
_NO_VALUE = frozenset({"Irrelevant", "Reject", "NotUnderstood"})  # the default stays

#: What a target may say without being asked; anything else that was not offered is an offer of its
#: own, and is answered. Markers are gone since RFC 7143.
_DECLARED = frozenset({"TargetAlias", "TargetAddress", "TargetPortalGroupTag", "AuthMethod",
                       "MaxRecvDataSegmentLength"})  # fmt: skip
_REFUSALS = {"IFMarker": "No", "OFMarker": "No"}


def decode_keys(data: bytes) -> dict[str, str]:
    """The key=value pairs of a text segment. Raises `LoginBroken`."""
    try:
        return dict(decode_pairs(data))
    except TextError as error:
        raise LoginBroken(f"iscsi: the target's text makes no sense: {error}") from None


class LoginExchange:
    """The login rounds: `first` and `response` give (flags, data) of the next request."""

    def __init__(self, settings: Settings, random: Callable[[int], bytes]) -> None:
        secret = settings.mutual_secret
        if settings.mutual_user is not None and hmac.compare_digest(settings.secret, secret):
            raise UsageError("CHAP: the secret of the target must not be the initiator's own")
        self.parameters = Parameters(
            first_burst_length=min(Parameters().first_burst_length, settings.first_burst_length),
            max_burst_length=min(Parameters().max_burst_length, settings.max_burst_length),
        )
        self._settings = settings
        self._random = random
        self._stage = _SECURITY
        self._rounds = 0
        self._partial = b""
        self._transit = False  # whether the last request asked for the next stage
        self._challenge = b""
        self._identifier = 0
        self._algorithm = ALGORITHMS[5]
        self._offered: set[str] = set()
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
            raise LoginRefused(status, _moved_to(status, segment))
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
        if flags & _TRANSIT and not self._transit:
            raise LoginBroken("iscsi: the target goes on with the login before it was asked to")
        if self._stage == _SECURITY:
            return self._security(keys, flags)
        replies = self._settle(keys)
        if not flags & _TRANSIT:
            return self._request(replies)
        if flags & 3 != _FULL:
            raise LoginBroken("iscsi: the target goes to a stage of the login that there is not")
        return None

    def _security(self, keys: dict[str, str], flags: int) -> tuple[int, bytes]:
        self.parameters.answers.update(keys)
        if keys.get("AuthMethod") == "CHAP":
            offered = ",".join(str(number) for number in _PREFERRED)
            return self._request([("CHAP_A", offered)], transit=False)
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
        if flags & 3 != _OPERATIONAL:
            raise LoginBroken("iscsi: the target leaves out the operational stage of the login")
        self._stage = _OPERATIONAL
        return self._request(self._offer())

    def _answer_challenge(self, keys: dict[str, str]) -> list[tuple[str, str]]:
        settings = self._settings
        if settings.user is None:
            raise LoginBroken("iscsi: the target wants CHAP and no user and secret were given")
        if self._authenticated:
            raise LoginBroken("iscsi: the target asks twice for the CHAP secret")
        chosen = keys.get("CHAP_A", "")
        if chosen not in {str(number) for number in _PREFERRED}:
            raise LoginBroken("iscsi: the target chose a CHAP algorithm that was not offered")
        self._algorithm = ALGORITHMS[int(chosen)]
        identifier, challenge = _number(keys.get("CHAP_I", "")), _binary(keys["CHAP_C"])
        answer = _chap(self._algorithm, identifier, settings.secret, challenge)
        self._authenticated = True
        reply = [("CHAP_N", settings.user), ("CHAP_R", "0x" + answer.hex())]
        if settings.mutual_user is not None:
            self._identifier, self._challenge = self._random(1)[0], self._random(16)
            reply += [("CHAP_I", str(self._identifier)), ("CHAP_C", "0x" + self._challenge.hex())]
        return reply

    def _check_target(self, keys: dict[str, str]) -> None:
        secret = self._settings.mutual_secret
        expected = _chap(self._algorithm, self._identifier, secret, self._challenge)
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
                ("DataPDUInOrder", "Yes"),
                ("DataSequenceInOrder", "Yes"),
            ]
        self._offered = {key for key, _ in keys}
        return keys

    def _settle(self, keys: dict[str, str]) -> list[tuple[str, str]]:
        """Take the target's answers, and what it declares; returns answers to its own offers."""
        self.parameters.answers.update(keys)
        for key, value in keys.items():
            if key == "MaxRecvDataSegmentLength":
                self.parameters.max_send_segment = _segment(value)
            elif key in _RESULTS and key in self._offered and value not in _NO_VALUE:
                self._take(key, value)
        unasked = [key for key in keys if key not in self._offered and key not in _DECLARED]
        sizes = self.parameters
        sizes.first_burst_length = min(sizes.first_burst_length, sizes.max_burst_length)
        return [(key, _REFUSALS.get(key, "NotUnderstood")) for key in unasked]

    def _take(self, key: str, value: str) -> None:
        name, read, allowed = _RESULTS[key]
        try:
            number = read(value)
        except (KeyError, TextError):
            raise LoginBroken(f"iscsi: {key}={value[:32]!r} makes no sense") from None
        offered: int = getattr(self._settings, name)
        if not allowed(number, offered):
            raise LoginBroken(f"iscsi: {key}={value[:32]!r} is not what was offered")
        setattr(self.parameters, name, number)

    def _request(self, keys: list[tuple[str, str]], *, transit: bool = True) -> tuple[int, bytes]:
        following = _OPERATIONAL if self._stage == _SECURITY else _FULL
        flags = self._stage << 2 | (_TRANSIT | following if transit else 0)
        self._transit = transit
        return flags, b"".join(f"{key}={value}\0".encode() for key, value in keys)


def _chap(algorithm: str, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    data = bytes([identifier]) + secret + challenge
    return hashlib.new(algorithm, data, usedforsecurity=False).digest()


def _number(text: str) -> int:
    try:
        value = decode_number(text)
    except TextError:
        value = -1
    if not 0 <= value <= 255:
        raise LoginBroken("iscsi: the CHAP identifier makes no sense")
    return value


def _binary(text: str) -> bytes:
    try:
        return decode_binary(text, MAX_CHALLENGE)
    except TextError as error:
        raise LoginBroken(f"iscsi: a CHAP value makes no sense: {error}") from None


def _segment(value: str) -> int:
    try:
        length = decode_number(value)
    except TextError:
        length = 0
    if length not in _SEGMENT:
        raise LoginBroken(f"iscsi: MaxRecvDataSegmentLength={value[:32]!r} makes no sense")
    return length


def _moved_to(status: int, segment: bytes) -> str:
    """The address that a redirection names."""
    if status >> 8 != 1:
        return ""
    try:
        address = dict(decode_pairs(segment)).get("TargetAddress", "")
    except TextError:
        return ""
    return address[:80] if address.isprintable() else ""
