"""Answers to SCSI commands: Data-In sequences, residuals, and the SCSI Response.

RFC 7143 11.4 (response), 11.4.5 (residuals), 11.7 (Data-In).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from userdisk.iscsi import pdu
from userdisk.iscsi.pdu import TargetOpcode
from userdisk.target.command import Completion
from userdisk.unit import Buffer

if TYPE_CHECKING:
    from userdisk.iscsi.connection import Connection


def residual(expected: int, moved: int) -> tuple[int, int]:
    """Flag and count: `expected` bytes were announced, the command moves `moved`."""
    if moved > expected:
        return pdu.RESIDUAL_OVERFLOW, moved - expected
    if moved < expected:
        return pdu.RESIDUAL_UNDERFLOW, expected - moved
    return 0, 0


def respond(
    connection: Connection,
    lun: int,
    itt: int,
    completion: Completion,
    expected: int,
    reading: bool,
    wanted: int | None,
) -> None:
    """Send how a command ended, its data before.

    Args:
        expected: bytes that the initiator announced to send or to take.
        reading: whether it takes any.
        wanted: bytes that the command asks for; None: as many as its data has.
    """
    data = completion.data if reading else ()
    moved = sum(map(len, completion.data)) if wanted is None else wanted
    flag, count = residual(expected, moved)
    data_pdus = 0
    if data and expected:
        status_inside = completion.status == 0
        data_pdus = _send_data(
            connection, lun, itt, data, min(moved, expected), status_inside, flag, count
        )
        if status_inside:
            return
    sense = completion.sense
    connection.out.send(
        pdu.SCSI_RESPONSE.pack(
            TargetOpcode.SCSI_RESPONSE,
            pdu.FINAL | flag,
            0,  # command completed at target
            completion.status,
            len(sense) + 2 if sense else 0,
            itt,
            0,
            *connection.out.numbers(),
            data_pdus,
            0,
            count,
        ),
        len(sense).to_bytes(2, "big") + sense if sense else b"",
    )


def _send_data(
    connection: Connection,
    lun: int,
    itt: int,
    data: Sequence[Buffer],
    length: int,
    status_inside: bool,
    flag: int,
    count: int,
) -> int:
    """Send `length` bytes of `data` as Data-In PDUs; returns how many. Without A bits (ERL 0)."""
    negotiated = connection.negotiated
    burst_limit = negotiated.max_burst_length
    offset = burst = data_sn = 0
    pieces = _pieces(data, length, negotiated.max_recv_data_segment_length, burst_limit)
    for piece in pieces:
        size = len(piece)
        last = offset + size == length
        burst += size
        flags = 0
        if last or burst >= burst_limit:
            flags = pdu.FINAL
            burst = 0
        with_status = last and status_inside
        if with_status:
            flags |= pdu.DATA_IN_STATUS | flag
        connection.out.send(
            pdu.DATA_IN.pack(
                TargetOpcode.DATA_IN,
                flags,
                0,
                size,
                lun,
                itt,
                pdu.RESERVED_TAG,
                *connection.out.numbers(status=with_status),
                data_sn,
                offset,
                count if with_status else 0,
            ),
            piece,
        )
        offset += size
        data_sn += 1
    return data_sn


def _pieces(data: Sequence[Buffer], length: int, segment: int, burst: int) -> Iterator[memoryview]:
    """The first `length` bytes, cut where a segment, a burst or a buffer ends."""
    left_in_burst = burst
    for buffer in data:
        view = memoryview(buffer)
        start, end = 0, min(len(view), length)
        length -= end
        while start < end:
            size = min(end - start, segment, left_in_burst)
            yield view[start : start + size]
            start += size
            left_in_burst = left_in_burst - size or burst
