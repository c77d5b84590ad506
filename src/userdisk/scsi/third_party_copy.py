"""What the copy manager can do: the third-party copy VPD page, operating parameters.

SPC-5 6.22, 7.7.18. Windows copies with tokens only if the page's first descriptor is the block
device ROD token limits (SBC-4 6.6.9.3), which is also where ascending order puts it.
"""

from __future__ import annotations

import struct

from userdisk.scsi.opcodes import Opcode, ThirdPartyCopyIn, ThirdPartyCopyOut

PAGE = 0x8F

#: Descriptor type codes: block device to block device; logical unit by designation descriptor.
BLOCK_TO_BLOCK, IDENTIFICATION = 0x02, 0xE4
#: CSCD descriptor IDs above those of the list: what a ROD token names; the unit addressed.
ROD_PRODUCER, ADDRESSED_UNIT = 0xF800, 0xFFFF
#: ROD types: point in time copies that a write cancels, or any; blocks of zeros (SBC-4 4.28.4).
CHANGE_VULNERABLE, POINT_IN_TIME_ANY, ZEROS = 0x00800001, 0x0080FFFF, 0xFFFF0001

#: Limits of an EXTENDED COPY parameter list.
MAX_CSCDS, MAX_SEGMENTS = 16, 256
CSCD_LENGTH, SEGMENT_LENGTH = 32, 28
MAX_LIST_LENGTH = MAX_CSCDS * CSCD_LENGTH + MAX_SEGMENTS * SEGMENT_LENGTH
#: Copies that one nexus may have under way, or their results kept, at one unit.
MAX_COPIES = 64

#: Limits of tokens: ranges in a list, bytes, seconds without use.
MAX_RANGES = 64
MAX_TOKEN_BYTES = 64 << 20  # a few seconds' work: status comes when all is done
MAX_INACTIVITY, DEFAULT_INACTIVITY = 300, 30

_DESCRIPTORS = bytes([BLOCK_TO_BLOCK, IDENTIFICATION])
_TOKEN_IN, _TOKEN_OUT = 0x02, 0x01


def page_body(block_length: int) -> bytes:
    """The third-party copy page of a unit, without its header."""
    most = MAX_TOKEN_BYTES // block_length
    return b"".join(
        (
            _descriptor(
                0x0000,
                struct.pack(">6xHIIQQ", MAX_RANGES, MAX_INACTIVITY, DEFAULT_INACTIVITY, most, most),
            ),
            _descriptor(0x0001, _counted(">B", _commands())),
            _descriptor(
                0x0004, struct.pack(">4xHHII12x", MAX_CSCDS, MAX_SEGMENTS, MAX_LIST_LENGTH, 0)
            ),
            _descriptor(0x0008, _counted(">B", _DESCRIPTORS)),
            _descriptor(0x000C, _counted(">H", struct.pack(">HH", ROD_PRODUCER, ADDRESSED_UNIT))),
            _descriptor(0x0106, _token_features()),
            _descriptor(0x0108, _rod_types()),
            _descriptor(0x8001, struct.pack(">IIIBB18x", MAX_COPIES, MAX_COPIES, 0, 0, 0)),
        )
    )


def operating_parameters() -> bytes:
    """RECEIVE COPY OPERATING PARAMETERS data; nothing is held, segments may have any length."""
    body = struct.pack(
        ">B3xHHIIIII2xHBBBB3x",
        1,  # SNLID
        MAX_CSCDS,
        MAX_SEGMENTS,
        MAX_LIST_LENGTH,
        0,
        0,
        0,
        0,
        MAX_COPIES,
        MAX_COPIES,
        0,
        0,
        0,
    )
    body += _counted(">B", _DESCRIPTORS)
    return struct.pack(">I", len(body)) + body


def _descriptor(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(">HH", kind, len(body)) + body


def _counted(length: str, body: bytes) -> bytes:
    return struct.pack(length, len(body)) + body


def _commands() -> bytes:
    """Operation codes, each with its service actions."""
    return b"".join(
        bytes([opcode, len(actions), *sorted(actions)])
        for opcode, actions in (
            (Opcode.THIRD_PARTY_COPY_OUT, ThirdPartyCopyOut),
            (Opcode.THIRD_PARTY_COPY_IN, ThirdPartyCopyIn),
        )
    )


def _token_features() -> bytes:
    """Tokens of this target device only; they last while they are used."""
    block = struct.pack(
        ">BxH2xHQQQQ8x",
        0,
        0x2C,
        0,
        MAX_TOKEN_BYTES,
        MAX_TOKEN_BYTES,
        MAX_TOKEN_BYTES,
        MAX_TOKEN_BYTES,
    )
    return struct.pack(">B11xIII18x", 0, 1, (1 << 32) - 1, MAX_INACTIVITY) + _counted(">H", block)


def _rod_types() -> bytes:
    types = ((CHANGE_VULNERABLE, _TOKEN_IN | _TOKEN_OUT), (ZEROS, _TOKEN_IN))
    body = b"".join(struct.pack(">IBxH56x", kind, flags, 0) for kind, flags in types)
    return b"\0\0" + _counted(">H", body)
