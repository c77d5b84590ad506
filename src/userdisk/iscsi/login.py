"""The target's side of the login phase (RFC 7143 6.2, 6.3, 11.12, 11.13, 13).

Theory of operation. Sans-I/O: `request` takes a Login Request and returns the responses to send.
A request is checked against what must not change during a login, its text is collected (C bit), its
keys are handled, and if it asks for a transition (T bit) that is in `_TRANSITIONS` and nothing
stands against it, the stage changes:

    SECURITY -> OPERATIONAL -> FULL_FEATURE        (either of the first two may come first)

Before full feature phase the server is asked to open the session; if an older session has to end
first it says PENDING, and `resume` gives the last response. Whatever is wrong ends the login with a
status of `LoginStatus`: `failed` is set, and the caller sends what it got and drops the connection.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from typing import Final

from userdisk.iscsi.chap import ChapError, ChapTarget
from userdisk.iscsi.keys import Parameters, Phase
from userdisk.iscsi.login_contract import (
    PENDING,
    Found,
    LoginConfig,
    LoginStatus,
    Moved,
    Negotiated,
    Opened,
    Pending,
)
from userdisk.iscsi.pdu import BHS_LENGTH, CONTINUE, FINAL, PADDING, InitiatorOpcode, TargetOpcode
from userdisk.iscsi.text import Pair, TextBuffer, TextError, decode_list, decode_name, encode_pairs

__all__ = [
    "MAX_SEGMENT",
    "PENDING",
    "Found",
    "Login",
    "LoginConfig",
    "LoginStatus",
    "Moved",
    "Negotiated",
    "Opened",
    "Pending",
    "Stage",
]

#: Login Request, 11.12: opcode, flags, version max, version min, AHS and data length as one number,
#: isid and tsih as one number, itt, cid, cmd_sn, exp_stat_sn
REQUEST: Final = struct.Struct(">BBBBIQIH2xII16x")

#: Login Response, 11.13: opcode, flags, version max, version active, data length, isid and tsih,
#: itt, stat_sn, exp_cmd_sn, max_cmd_sn, status class and detail as one number
RESPONSE: Final = struct.Struct(">BBBBIQI4xIIIH10x")

MAX_SEGMENT: Final = 8192  #: bytes; MaxRecvDataSegmentLength during login is the default (13.12)
MAX_REQUESTS: Final = 64
_MASK = 0xFFFFFFFF
_TRANSIT = FINAL


class Stage(enum.IntEnum):
    """11.12.3: CSG and NSG."""

    SECURITY = 0
    OPERATIONAL = 1
    FULL_FEATURE = 3


#: 11.12.3: the stages, and those that may follow
_TRANSITIONS: Mapping[int, frozenset[int]] = {
    Stage.SECURITY: frozenset({Stage.OPERATIONAL, Stage.FULL_FEATURE}),
    Stage.OPERATIONAL: frozenset({Stage.FULL_FEATURE}),
}

_PHASES: Mapping[int, Phase] = {
    Stage.SECURITY: Phase.SECURITY,
    Stage.OPERATIONAL: Phase.OPERATIONAL,
}

#: The keys that say who logs in to what; repeating them is harmless, changing them is not.
_IDENTITY: Final = ("InitiatorName", "InitiatorAlias", "SessionType", "TargetName")


class _Refused(Exception):
    """The login ends with this status."""

    def __init__(self, status: LoginStatus, reason: str, pairs: tuple[Pair, ...] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.pairs = pairs


class _Request:
    """The fields of a Login Request."""

    __slots__ = ("cid", "cmd_sn", "csg", "flags", "isid", "itt", "lengths", "nsg", "tsih",
                 "version_min")  # fmt: skip

    def __init__(self, header: bytes) -> None:
        (_, self.flags, _, self.version_min, self.lengths, port, self.itt, self.cid, self.cmd_sn,
         _) = REQUEST.unpack_from(header)  # fmt: skip
        self.isid, self.tsih = port >> 16, port & 0xFFFF
        self.csg, self.nsg = self.flags >> 2 & 3, self.flags & 3

    @property
    def constants(self) -> tuple[int, ...]:
        """What stays the same over a login (11.12.4 to 11.12.9)."""
        return self.isid, self.tsih, self.itt, self.cid, self.cmd_sn


class Login:
    """One login of one connection. Not thread-safe; never blocks by itself.

    `finished`: full feature phase, `result` says with what. `failed`: send the responses that were
    returned and drop the connection; `reason` says why, for the log. A peer cannot make a method
    raise.
    """

    def __init__(self, config: LoginConfig) -> None:
        self.finished = False
        self.failed = False
        self.reason = ""
        self.result: Negotiated | None = None
        #: who it is, as far as known: for the log
        self.initiator = ""

        self._config = config
        self._stat_sn = config.stat_sn & _MASK
        self._requests = 0
        self._first: _Request | None = None
        self._stage = int(Stage.SECURITY)
        self._text = TextBuffer()
        self._outgoing = b""
        self._pending: tuple[_Request, Negotiated] | None = None

        self._identity: dict[str, str] | None = None
        self._target: Found | None = None
        self._discovery = False
        self._parameters = Parameters(config.settings)
        self._declared = False
        self._auth_method = ""
        self._chap: ChapTarget | None = None
        self._user: str | None = None

    # -- the owner's side ----------------------------------------------------------------------

    def request(self, header: bytes, data: bytes) -> list[bytes]:
        """Handle a PDU: its header, and its data segment without padding; the PDUs to send."""
        if self.finished or self.failed:
            return []
        if len(header) < BHS_LENGTH:
            return self._drop("a header is cut off")
        opcode = header[0] & 0x3F
        if opcode != InitiatorOpcode.LOGIN and self._first is None:
            return self._drop(f"opcode {opcode:#04x} before a login")
        request = self._first if opcode != InitiatorOpcode.LOGIN else _Request(header)
        assert request is not None
        try:
            if opcode != InitiatorOpcode.LOGIN:
                status = LoginStatus.INVALID_DURING_LOGIN
                raise _Refused(status, f"opcode {opcode:#04x} during the login")
            self._check(request, data)
            return self._handle(request, data)
        except _Refused as refusal:
            return self._refuse(request, refusal)
        except TextError as error:
            return self._refuse(request, _Refused(LoginStatus.INITIATOR_ERROR, str(error)))
        except ChapError as error:
            status = LoginStatus.AUTHENTICATION_FAILURE
            return self._refuse(request, _Refused(status, f"authentication: {error}"))

    def resume(self, opened: int | LoginStatus) -> list[bytes]:
        """Go on after PENDING with the session's TSIH or why there is none; the PDUs to send."""
        if self._pending is None or self.failed:
            return []
        (request, negotiated), self._pending = self._pending, None
        if isinstance(opened, LoginStatus):
            return self._refuse(request, _Refused(opened, "the session cannot be opened"))
        return self._finish(request, negotiated, opened)

    # -- checks --------------------------------------------------------------------------------

    def _check(self, request: _Request, data: bytes) -> None:
        """What holds for every Login Request."""
        self._requests += 1
        first = self._first
        if first is None:
            self._first = request
            self._stage = request.csg
        problem = ""
        if self._requests > MAX_REQUESTS:
            problem = f"more than {MAX_REQUESTS} requests"
        elif request.lengths >> 24:
            problem = "an additional header segment"
        elif request.lengths > MAX_SEGMENT or request.lengths != len(data):
            problem = f"a data segment of {request.lengths} bytes"
        elif first is not None and first.constants != request.constants:
            problem = "ISID, TSIH, task tag, CID or CmdSN changed during the login"
        elif request.csg not in _TRANSITIONS or request.csg != self._stage:
            problem = f"stage {request.csg} instead of {self._stage}"
        elif request.flags & _TRANSIT and request.nsg not in _TRANSITIONS[request.csg]:
            problem = f"no transition from stage {request.csg} to {request.nsg}"
        elif request.flags & _TRANSIT and request.flags & CONTINUE:
            problem = "T and C bit together"
        elif self._pending is not None:
            problem = "a request before the last response"
        elif self._outgoing and data:
            problem = "text before our own was complete"
        if request.version_min > 0:
            raise _Refused(LoginStatus.UNSUPPORTED_VERSION, f"version {request.version_min}")
        if problem:
            raise _Refused(LoginStatus.INITIATOR_ERROR, problem)

    # -- a request -----------------------------------------------------------------------------

    def _handle(self, request: _Request, data: bytes) -> list[bytes]:
        if not self._outgoing:
            pairs = self._text.add(data, more=bool(request.flags & CONTINUE))
            if pairs is None:
                return [self._response(request, 0)]
            self._outgoing = encode_pairs(self._answers(request, pairs))
        if len(self._outgoing) > MAX_SEGMENT:
            chunk, self._outgoing = self._outgoing[:MAX_SEGMENT], self._outgoing[MAX_SEGMENT:]
            return [self._response(request, CONTINUE, chunk)]
        if not request.flags & _TRANSIT or not self._may_leave():
            return [self._response(request, 0, self._take())]
        if request.nsg == Stage.FULL_FEATURE:
            return self._open(request)
        self._stage = request.nsg
        return [self._response(request, _TRANSIT | request.nsg, self._take())]

    def _answers(self, request: _Request, pairs: list[Pair]) -> list[Pair]:
        """The answers to a complete text, with what we declare ourselves."""
        answers: list[Pair] = []
        if self._identity is None:
            answers += self._identify(dict(pairs))
        identity = self._identity
        assert identity is not None
        chap: dict[str, str] = {}
        # MaxBurstLength first, because it limits FirstBurstLength
        for name, value in sorted(pairs, key=lambda pair: pair[0] != "MaxBurstLength"):
            if name in _IDENTITY:
                if identity.setdefault(name, value) != value:
                    raise _Refused(LoginStatus.INITIATOR_ERROR, f"{name} changed during the login")
            elif name == "AuthMethod" or name.startswith("CHAP_"):
                if self._stage != Stage.SECURITY:
                    raise _Refused(LoginStatus.INITIATOR_ERROR, f"{name} after the security stage")
                if name == "AuthMethod":
                    answers.append((name, self._choose_method(value)))
                else:
                    chap[name] = value
            else:
                answer = self._parameters.offer(
                    name, value, phase=_PHASES[self._stage], discovery=self._discovery
                )
                if answer is not None:
                    answers.append((name, answer))
        if chap:
            answers += self._authenticate(chap)
        if self._credentials_missing():
            raise _Refused(LoginStatus.AUTHENTICATION_FAILURE, "authentication was left out")
        answers += self._declare(request)
        return answers

    def _identify(self, given: Mapping[str, str]) -> list[Pair]:
        """Who logs in to what: from the keys of the first request (6.3, 13.4, 13.5, 13.21)."""
        if "InitiatorName" not in given:
            raise _Refused(LoginStatus.MISSING_PARAMETER, "no InitiatorName")
        self.initiator = decode_name(given["InitiatorName"])
        kind = given.get("SessionType", "Normal")
        if kind not in ("Normal", "Discovery"):
            raise _Refused(LoginStatus.SESSION_TYPE_NOT_SUPPORTED, f"SessionType {kind[:32]!r}")
        self._discovery = kind == "Discovery"
        if self._config.initiators and self.initiator not in self._config.initiators:
            status = LoginStatus.AUTHORIZATION_FAILURE
            raise _Refused(status, f"initiator {self.initiator} is not allowed")
        self._identity = {name: given[name] for name in _IDENTITY if name in given}
        if self._discovery:
            return []
        if "TargetName" not in given:
            raise _Refused(LoginStatus.MISSING_PARAMETER, "no TargetName")
        try:
            return self._find(decode_name(given["TargetName"]))
        except TextError as error:
            raise _Refused(LoginStatus.NOT_FOUND, str(error)) from None

    def _find(self, name: str) -> list[Pair]:
        found = self._config.find_target(name)
        if found is None:
            raise _Refused(LoginStatus.NOT_FOUND, f"no target {name}")
        if isinstance(found, Moved):
            raise _Refused(
                LoginStatus.MOVED_PERMANENTLY
                if found.permanently
                else LoginStatus.MOVED_TEMPORARILY,
                f"target {name} is at {found.address}",
                (("TargetAddress", found.address),),
            )
        self._target = found
        pairs = [("TargetPortalGroupTag", str(found.portal_group_tag))]
        if found.alias:
            pairs.insert(0, ("TargetAlias", found.alias))
        return pairs

    def _declare(self, request: _Request) -> list[Pair]:
        """Our MaxRecvDataSegmentLength, once, when operational parameters are settled."""
        direct = request.flags & _TRANSIT and request.nsg == Stage.FULL_FEATURE
        if self._declared or not (self._stage == Stage.OPERATIONAL or direct):
            return []
        self._declared = True
        length = self._config.settings.max_recv_data_segment_length
        return [("MaxRecvDataSegmentLength", str(length))]

    # -- security ------------------------------------------------------------------------------

    def _choose_method(self, offer: str) -> str:
        """12.1: answer AuthMethod; with credentials only CHAP will do, without them only None."""
        if self._auth_method:
            raise _Refused(LoginStatus.INITIATOR_ERROR, "AuthMethod was negotiated before")
        wanted = "None" if self._config.credentials is None else "CHAP"
        if wanted not in decode_list(offer):
            status = LoginStatus.AUTHENTICATION_FAILURE
            raise _Refused(status, f"{wanted} is not in AuthMethod={offer[:64]!r}")
        self._auth_method = wanted
        if self._config.credentials is not None:
            self._chap = ChapTarget(self._config.credentials, self._config.random)
        return wanted

    def _authenticate(self, given: Mapping[str, str]) -> list[Pair]:
        if self._chap is None:
            raise ChapError("CHAP was not agreed on")
        answers = self._chap.answer(given)
        if self._chap.done:
            self._user = given["CHAP_N"]
        return answers

    def _authenticated(self) -> bool:
        if self._config.credentials is None:
            return True
        return self._chap is not None and self._chap.done

    def _credentials_missing(self) -> bool:
        """Whether the initiator is beyond the point where it had to prove something."""
        return self._stage != Stage.SECURITY and not self._authenticated()

    def _may_leave(self) -> bool:
        """Whether a transition that the initiator asks for is granted."""
        if self._authenticated():
            return True
        if self._chap is None:
            raise _Refused(LoginStatus.AUTHENTICATION_FAILURE, "authentication was left out")
        return False

    # -- the end -------------------------------------------------------------------------------

    def _open(self, request: _Request) -> list[bytes]:
        """Full feature phase is agreed on: have the session opened."""
        negotiated = self._negotiated(request)
        if request.tsih:  # a further connection, but MaxConnections is 1
            if self._config.session_exists(negotiated):
                raise _Refused(LoginStatus.TOO_MANY_CONNECTIONS, "a second connection")
            raise _Refused(LoginStatus.SESSION_DOES_NOT_EXIST, f"no session {request.tsih}")
        opened = self._config.open_session(negotiated)
        if isinstance(opened, Pending):
            self._pending = request, negotiated
            return []
        if isinstance(opened, LoginStatus):
            raise _Refused(opened, "the session cannot be opened")
        return self._finish(request, negotiated, opened)

    def _finish(self, request: _Request, negotiated: Negotiated, tsih: int) -> list[bytes]:
        self._stage = Stage.FULL_FEATURE
        self.finished = True
        self.result = negotiated
        flags = _TRANSIT | Stage.FULL_FEATURE
        return [self._response(request, flags, self._take(), tsih=tsih)]

    def _negotiated(self, request: _Request) -> Negotiated:
        identity, parameters, target = self._identity, self._parameters, self._target
        assert identity is not None
        number, values = parameters.number, parameters.values
        max_burst = number("MaxBurstLength")
        return Negotiated(
            initiator=self.initiator,
            initiator_alias=identity.get("InitiatorAlias", ""),
            isid=request.isid,
            tsih=request.tsih,
            cid=request.cid,
            target=None if target is None else target.name,
            portal_group_tag=0 if target is None else target.portal_group_tag,
            user=self._user,
            header_digest=values["HeaderDigest"] == "CRC32C",
            data_digest=values["DataDigest"] == "CRC32C",
            max_recv_data_segment_length=number("MaxRecvDataSegmentLength"),
            max_burst_length=max_burst,
            first_burst_length=min(number("FirstBurstLength"), max_burst),
            initial_r2t=bool(values["InitialR2T"]),
            immediate_data=bool(values["ImmediateData"]),
            max_outstanding_r2t=number("MaxOutstandingR2T"),
            default_time2wait=number("DefaultTime2Wait"),
            default_time2retain=number("DefaultTime2Retain"),
            error_recovery_level=number("ErrorRecoveryLevel"),
            task_reporting=str(values["TaskReporting"]),
            exp_cmd_sn=request.cmd_sn,
            stat_sn=(self._stat_sn + 1) & _MASK,
        )

    # -- responses -----------------------------------------------------------------------------

    def _take(self) -> bytes:
        data, self._outgoing = self._outgoing, b""
        return data

    def _response(
        self,
        request: _Request,
        flags: int,
        data: bytes = b"",
        *,
        tsih: int | None = None,
        status: LoginStatus = LoginStatus.SUCCESS,
    ) -> bytes:
        stat_sn, self._stat_sn = self._stat_sn, (self._stat_sn + 1) & _MASK
        return b"".join(
            (
                RESPONSE.pack(
                    TargetOpcode.LOGIN_RESPONSE,
                    flags | request.csg << 2,
                    0,
                    0,
                    len(data),
                    request.isid << 16 | (request.tsih if tsih is None else tsih),
                    request.itt,
                    stat_sn,
                    request.cmd_sn,
                    (request.cmd_sn + self._config.command_window - 1) & _MASK,
                    status,
                ),
                data,
                PADDING[len(data) % 4],
            )
        )

    def _refuse(self, request: _Request, refusal: _Refused) -> list[bytes]:
        self.failed = True
        self.reason = f"{refusal} (login status {refusal.status:04x})"
        data = encode_pairs(refusal.pairs)
        return [self._response(request, 0, data, status=refusal.status)]

    def _drop(self, reason: str) -> list[bytes]:
        self.failed = True
        self.reason = reason
        return []
