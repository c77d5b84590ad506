"""What a connection does with each request in full feature phase, other than SCSI commands.

RFC 7143 11.10 (Text), 11.14 (Logout), 11.16 (SNACK), 11.18 (NOP-Out).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from userdisk.iscsi import pdu
from userdisk.iscsi.pdu import InitiatorOpcode, RejectReason, TargetOpcode

if TYPE_CHECKING:
    from userdisk.iscsi.connection import Connection
    from userdisk.iscsi.incoming import Pdu

_CLOSED, _CID_NOT_FOUND, _NO_RECOVERY = 0, 1, 2  # logout responses
_TIME_TO_WAIT, _TIME_TO_RETAIN = 2, 0  # seconds, as negotiated by default


def nop_out(connection: Connection, request: Pdu) -> None:
    """11.18: a ping is echoed; an answer to our ping needs none."""
    if not connection.sequence(request):
        return
    if request.itt == pdu.RESERVED_TAG:
        if not request.immediate:
            connection.out.reject(RejectReason.INVALID_PDU_FIELD, request.header)
        return
    negotiated = connection.negotiated
    data = bytes(request.data[: negotiated.max_recv_data_segment_length])
    connection.out.send(
        pdu.NOP_IN.pack(
            TargetOpcode.NOP_IN,
            pdu.FINAL,
            len(data),
            request.lun,
            request.itt,
            pdu.RESERVED_TAG,
            *connection.out.numbers(),
        ),
        data,
    )


def ping(connection: Connection, ttt: int) -> None:
    """11.19: ask whether the initiator is there."""
    connection.out.send(
        pdu.NOP_IN.pack(
            TargetOpcode.NOP_IN,
            pdu.FINAL,
            0,
            0,
            pdu.RESERVED_TAG,
            ttt,
            *connection.out.numbers(status=False),  # needs no acknowledgement
        )
    )


def text(connection: Connection, request: Pdu) -> None:
    """11.10: SendTargets, and parameters that may change in full feature phase."""
    if not connection.sequence(request):
        return
    answer = connection.text.request(request.flags, request.itt, request.word20, request.data)
    if isinstance(answer, RejectReason):
        connection.out.reject(answer, request.header)
        return
    connection.out.send(
        pdu.TEXT_RESPONSE.pack(
            TargetOpcode.TEXT_RESPONSE,
            answer.flags,
            len(answer.data),
            request.lun,
            request.itt,
            answer.ttt,
            *connection.out.numbers(),
        ),
        answer.data,
    )
    negotiated, length = connection.negotiated, connection.text.max_recv_data_segment_length
    assert negotiated is not None
    if length != negotiated.max_recv_data_segment_length:
        connection.negotiated = replace(negotiated, max_recv_data_segment_length=length)
        for path in connection.paths.values():  # what they have learned has the old one in it
            path.lane = None


def logout(connection: Connection, request: Pdu) -> None:
    """11.14: reasons 0 (session) and 1 (connection) end it; 2 (recovery) is not supported."""
    if not connection.sequence(request):
        return
    reason = request.flags & 0x7F
    cid = request.word20 >> 16
    negotiated = connection.negotiated
    response = _CLOSED if reason in (0, 1) else _NO_RECOVERY
    if reason == 1 and cid != negotiated.cid:
        response = _CID_NOT_FOUND
    connection.out.send(
        pdu.LOGOUT_RESPONSE.pack(
            TargetOpcode.LOGOUT_RESPONSE,
            pdu.FINAL,
            response,
            request.itt,
            *connection.out.numbers(),
            _TIME_TO_WAIT,
            _TIME_TO_RETAIN,
        )
    )
    if response == _CLOSED:
        connection.fail("logout")


def snack(connection: Connection, request: Pdu) -> None:
    """11.16: recovery within a connection needs ErrorRecoveryLevel 1 or more."""
    connection.out.reject(RejectReason.SNACK_REJECT, request.header)


def login(connection: Connection, request: Pdu) -> None:
    """A login on a connection that is logged in: a protocol error (7.1)."""
    connection.out.reject(RejectReason.PROTOCOL_ERROR, request.header)
    connection.fail("a login in full feature phase")


HANDLERS: dict[int, Callable[[Connection, Pdu], None]] = {
    InitiatorOpcode.NOP_OUT: nop_out,
    InitiatorOpcode.SCSI_COMMAND: lambda connection, request: connection.tasks.command(request),
    InitiatorOpcode.TASK_MANAGEMENT: lambda connection, request: connection.tasks.manage(request),
    InitiatorOpcode.LOGIN: login,
    InitiatorOpcode.TEXT: text,
    InitiatorOpcode.DATA_OUT: lambda connection, request: connection.tasks.data_out(request),
    InitiatorOpcode.LOGOUT: logout,
    InitiatorOpcode.SNACK: snack,
}
