"""The keys of login and text negotiation as a table, and how one offer is answered.

RFC 7143 section 13 (the keys), 6.2.1 (lists), 6.2.2 (simple values), 13.25 (obsolete keys).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from userdisk.iscsi.text import TextError, decode_list, decode_number

REJECT = "Reject"
IRRELEVANT = "Irrelevant"
NOT_UNDERSTOOD = "NotUnderstood"
#: 6.2: answers, never offers
RESERVED_VALUES = frozenset({REJECT, IRRELEVANT, NOT_UNDERSTOOD})

#: What a key settles: a number, a truth value, one of a list.
Value: TypeAlias = int | bool | str

_MAX_LENGTH = (1 << 24) - 1


class Rule(enum.Enum):
    """How offer and own value make the result."""

    LIST = enum.auto()  #: the first value of the offer that we know
    AND = enum.auto()
    OR = enum.auto()
    MIN = enum.auto()
    MAX = enum.auto()
    NUMBER = enum.auto()  #: a number that the sender declares
    TEXT = enum.auto()  #: text that the sender declares
    REFUSE = enum.auto()  #: an obsolete key: the answer is in the default


class Phase(enum.Flag):
    """When a key may come."""

    SECURITY = enum.auto()
    OPERATIONAL = enum.auto()
    FULL = enum.auto()
    LOGIN = SECURITY | OPERATIONAL
    ANY = LOGIN | FULL


class Sender(enum.Flag):
    """Who may offer or declare a key."""

    INITIATOR = enum.auto()
    TARGET = enum.auto()
    BOTH = INITIATOR | TARGET


class Key(NamedTuple):
    """A row of the table.

    `low` and `high` bound a number; `discovery` is False where a discovery session makes the key
    irrelevant. `default` is what holds when nothing is said.
    """

    name: str
    rule: Rule
    default: Value
    low: int = 0
    high: int = 0
    phase: Phase = Phase.LOGIN
    sender: Sender = Sender.BOTH
    discovery: bool = True


# fmt: off
_I, _T = Sender.INITIATOR, Sender.TARGET
_ROWS = (
    Key("AuthMethod", Rule.LIST, "None", phase=Phase.SECURITY),
    Key("CHAP_A", Rule.TEXT, "", phase=Phase.SECURITY),
    Key("CHAP_C", Rule.TEXT, "", phase=Phase.SECURITY),
    Key("CHAP_I", Rule.TEXT, "", phase=Phase.SECURITY),
    Key("CHAP_N", Rule.TEXT, "", phase=Phase.SECURITY),
    Key("CHAP_R", Rule.TEXT, "", phase=Phase.SECURITY),
    Key("HeaderDigest", Rule.LIST, "None"),                                           # 13.1
    Key("DataDigest", Rule.LIST, "None"),                                             # 13.1
    Key("MaxConnections", Rule.MIN, 1, 1, 65535, discovery=False),                    # 13.2
    Key("SendTargets", Rule.TEXT, "", phase=Phase.FULL, sender=_I),                   # 13.3
    Key("TargetName", Rule.TEXT, ""),                                                 # 13.4
    Key("InitiatorName", Rule.TEXT, "", sender=_I),                                   # 13.5
    Key("TargetAlias", Rule.TEXT, "", phase=Phase.ANY, sender=_T),                    # 13.6
    Key("InitiatorAlias", Rule.TEXT, "", phase=Phase.ANY, sender=_I),                 # 13.7
    Key("TargetAddress", Rule.TEXT, "", phase=Phase.ANY, sender=_T),                  # 13.8
    Key("TargetPortalGroupTag", Rule.NUMBER, 0, 0, 65535, sender=_T),                 # 13.9
    Key("InitialR2T", Rule.OR, True, discovery=False),                                # 13.10
    Key("ImmediateData", Rule.AND, True, discovery=False),                            # 13.11
    Key("MaxRecvDataSegmentLength", Rule.NUMBER, 8192, 512, _MAX_LENGTH, Phase.ANY),  # 13.12
    Key("MaxBurstLength", Rule.MIN, 262144, 512, _MAX_LENGTH, discovery=False),       # 13.13
    Key("FirstBurstLength", Rule.MIN, 65536, 512, _MAX_LENGTH, discovery=False),      # 13.14
    Key("DefaultTime2Wait", Rule.MAX, 2, 0, 3600),                                    # 13.15
    Key("DefaultTime2Retain", Rule.MIN, 20, 0, 3600),                                 # 13.16
    Key("MaxOutstandingR2T", Rule.MIN, 1, 1, 65535, discovery=False),                 # 13.17
    Key("DataPDUInOrder", Rule.OR, True, discovery=False),                            # 13.18
    Key("DataSequenceInOrder", Rule.OR, True, discovery=False),                       # 13.19
    Key("ErrorRecoveryLevel", Rule.MIN, 0, 0, 2),                                     # 13.20
    Key("SessionType", Rule.TEXT, "Normal", sender=_I),                               # 13.21
    Key("TaskReporting", Rule.LIST, "RFC3720", discovery=False),                      # 13.23
    Key("iSCSIProtocolLevel", Rule.MIN, 1, 0, 31, discovery=False),                   # 13.24
    Key("IFMarker", Rule.REFUSE, "No"),                                               # 13.25
    Key("OFMarker", Rule.REFUSE, "No"),
    Key("IFMarkInt", Rule.REFUSE, REJECT),
    Key("OFMarkInt", Rule.REFUSE, REJECT),
)
# fmt: on

KEYS: Mapping[str, Key] = {key.name: key for key in _ROWS}


@dataclass(frozen=True, slots=True)
class Settings:
    """What this target wants of a session. Lengths in bytes, times in seconds.

    Digests are in no order of preference: the initiator's order decides. List CRC32C only where a
    function for it exists.
    """

    digests: Sequence[str] = ("None",)
    max_recv_data_segment_length: int = 262144
    first_burst_length: int = 65536
    max_burst_length: int = 1 << 20
    initial_r2t: bool = False
    immediate_data: bool = True
    default_time2wait: int = 2
    default_time2retain: int = 0
    task_reporting: Sequence[str] = ("RFC3720",)

    def values(self) -> Mapping[str, Value | Sequence[str]]:
        """Our side of each negotiated key."""
        return {
            "HeaderDigest": self.digests,
            "DataDigest": self.digests,
            "MaxConnections": 1,
            "InitialR2T": self.initial_r2t,
            "ImmediateData": self.immediate_data,
            "MaxBurstLength": self.max_burst_length,
            "FirstBurstLength": self.first_burst_length,
            "DefaultTime2Wait": self.default_time2wait,
            "DefaultTime2Retain": self.default_time2retain,
            "MaxOutstandingR2T": 1,
            "DataPDUInOrder": True,
            "DataSequenceInOrder": True,
            "ErrorRecoveryLevel": 0,
            "TaskReporting": self.task_reporting,
            "iSCSIProtocolLevel": 1,
        }


class Answer(NamedTuple):
    """`text` to send (None: a declaration wants none) and the `value` that holds from now on."""

    text: str | None
    value: Value


def negotiate(key: Key, offer: str, ours: Value | Sequence[str]) -> Answer:
    """Answer `offer` of `key` against our own value.

    What cannot be accepted is answered Reject and leaves the default (6.2). Raises `TextError` for
    a declared number that makes no sense, because a declaration has no answer.
    """
    rejected = Answer(REJECT, key.default)
    match key.rule:
        case Rule.TEXT:
            return Answer(None, offer)
        case Rule.REFUSE:
            return Answer(str(key.default), key.default)
        case Rule.LIST:
            assert isinstance(ours, Sequence)
            for value in decode_list(offer):
                if value in ours:
                    return Answer(value, value)
            return rejected
        case Rule.AND | Rule.OR:
            if offer not in ("Yes", "No"):
                return rejected
            theirs, mine = offer == "Yes", bool(ours)
            result = theirs and mine if key.rule is Rule.AND else theirs or mine
            return Answer("Yes" if result else "No", result)
    if key.rule is Rule.NUMBER:
        number = decode_number(offer)
        if not key.low <= number <= key.high:
            raise TextError(f"{key.name}={number} is not from {key.low} to {key.high}")
        return Answer(None, number)
    try:
        number = decode_number(offer)
    except TextError:
        return rejected
    if not key.low <= number <= key.high:
        return rejected
    assert isinstance(ours, int)
    number = min(number, ours) if key.rule is Rule.MIN else max(number, ours)
    return Answer(str(number), number)


class Parameters:
    """The operational parameters of a connection while they are negotiated."""

    def __init__(self, settings: Settings) -> None:
        self._ours = settings.values()
        self._settled: dict[str, str] = {}
        self.values: dict[str, Value] = {key.name: key.default for key in _ROWS}

    def offer(self, name: str, text: str, *, phase: Phase, discovery: bool) -> str | None:
        """Settle what the initiator offers or declares; the answer, or None where none is due.

        Raises `TextError` for a key that was settled before (6.2) and a senseless declaration.
        """
        key = KEYS.get(name)
        if text in RESERVED_VALUES:
            return None  # an answer to something that we declared, or a key given up
        if key is None:
            return NOT_UNDERSTOOD
        if not key.sender & Sender.INITIATOR or not key.phase & phase:
            return REJECT
        if name in self._settled:
            if key.rule in (Rule.TEXT, Rule.NUMBER) and self._settled[name] == text:
                return None  # libiscsi declares who it is in both stages
            raise TextError(f"{name} was negotiated before")
        self._settled[name] = text
        if discovery and not key.discovery:
            return IRRELEVANT
        ours = self._ours.get(name, key.default)
        if name == "FirstBurstLength":  # never longer than MaxBurstLength (13.14)
            assert isinstance(ours, int)
            ours = min(ours, self.number("MaxBurstLength"))
        answer = negotiate(key, text, ours)
        self.values[name] = answer.value
        return answer.text

    def number(self, name: str) -> int:
        """The value of a key that is a number."""
        value = self.values[name]
        assert isinstance(value, int)
        return value
