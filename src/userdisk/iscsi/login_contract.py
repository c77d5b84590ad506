"""What a login has to know of its server, and what it settles (RFC 7143 11.13.5, 13)."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from userdisk.iscsi.chap import Credentials
from userdisk.iscsi.keys import Settings


class LoginStatus(enum.IntEnum):
    """11.13.5: status class and detail as one number."""

    SUCCESS = 0x0000
    MOVED_TEMPORARILY = 0x0101
    MOVED_PERMANENTLY = 0x0102
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILURE = 0x0201
    AUTHORIZATION_FAILURE = 0x0202
    NOT_FOUND = 0x0203
    TARGET_REMOVED = 0x0204
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    CANNOT_INCLUDE = 0x0208
    SESSION_TYPE_NOT_SUPPORTED = 0x0209
    SESSION_DOES_NOT_EXIST = 0x020A
    INVALID_DURING_LOGIN = 0x020B
    TARGET_ERROR = 0x0300
    SERVICE_UNAVAILABLE = 0x0301
    OUT_OF_RESOURCES = 0x0302


class Pending(enum.Enum):
    """The answer of `open_session` that is not there yet."""

    PENDING = enum.auto()


PENDING: Final = Pending.PENDING

#: The session's TSIH, why it cannot be opened, or PENDING
Opened: TypeAlias = int | LoginStatus | Pending


@dataclass(frozen=True, slots=True)
class Found:
    """A target that may be logged in to; `name` as the server writes it."""

    name: str
    alias: str = ""
    portal_group_tag: int = 1


@dataclass(frozen=True, slots=True)
class Moved:
    """A target is at another address ("host:port" or "[ipv6]:port")."""

    address: str
    permanently: bool = False


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What a login settled. Lengths in bytes, times in seconds.

    `target` is None in a discovery session. `max_recv_data_segment_length` is the initiator's: the
    longest data segment to send. `exp_cmd_sn` and `stat_sn` are the next ones of the connection.
    """

    initiator: str
    initiator_alias: str
    isid: int
    tsih: int  #: as given by the initiator: 0 for a new session
    cid: int
    target: str | None
    portal_group_tag: int
    user: str | None  #: the CHAP name
    header_digest: bool
    data_digest: bool
    max_recv_data_segment_length: int
    max_burst_length: int
    first_burst_length: int
    initial_r2t: bool
    immediate_data: bool
    max_outstanding_r2t: int
    default_time2wait: int
    default_time2retain: int
    error_recovery_level: int
    task_reporting: str
    exp_cmd_sn: int
    stat_sn: int

    @property
    def discovery(self) -> bool:
        """Whether this is a discovery session."""
        return self.target is None


def _no_session(negotiated: Negotiated) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class LoginConfig:
    """What a login has to know of its server.

    Args:
        find_target: the target of a name, where it moved, or None. Names here are in the form of
            `userdisk.iscsi.text.decode_name`, those of `initiators` too.
        open_session: called before the last response; see `Opened`.
        random: `random(n)` gives n unpredictable bytes.
        credentials: None: no authentication.
        initiators: names that may log in; empty: all.
        session_exists: whether the session that a TSIH other than 0 names exists.
        command_window: commands that may be outstanding (MaxCmdSN - ExpCmdSN + 1).
        stat_sn: the first StatSN of the connection.
    """

    find_target: Callable[[str], Found | Moved | None]
    open_session: Callable[[Negotiated], Opened]
    random: Callable[[int], bytes]
    credentials: Credentials | None = None
    initiators: frozenset[str] = frozenset()
    session_exists: Callable[[Negotiated], bool] = _no_session
    settings: Settings = field(default_factory=Settings)
    command_window: int = 128
    stat_sn: int = 0
