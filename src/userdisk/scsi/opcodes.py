"""Operation codes and service actions (SPC-6 annex F, SBC-4 table 33)."""

from __future__ import annotations

import enum


class Opcode(enum.IntEnum):
    """Byte 0 of a CDB, for the commands that a logical unit runs."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    READ_6 = 0x08
    WRITE_6 = 0x0A
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    RESERVE_6 = 0x16
    RELEASE_6 = 0x17
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    WRITE_AND_VERIFY_10 = 0x2E
    VERIFY_10 = 0x2F
    PRE_FETCH_10 = 0x34
    SYNCHRONIZE_CACHE_10 = 0x35
    READ_DEFECT_DATA_10 = 0x37
    WRITE_SAME_10 = 0x41
    UNMAP = 0x42
    SANITIZE = 0x48
    LOG_SENSE = 0x4D
    MODE_SELECT_10 = 0x55
    RESERVE_10 = 0x56
    RELEASE_10 = 0x57
    MODE_SENSE_10 = 0x5A
    PERSISTENT_RESERVE_IN = 0x5E
    PERSISTENT_RESERVE_OUT = 0x5F
    THIRD_PARTY_COPY_OUT = 0x83
    THIRD_PARTY_COPY_IN = 0x84
    READ_16 = 0x88
    COMPARE_AND_WRITE = 0x89
    WRITE_16 = 0x8A
    ORWRITE_16 = 0x8B
    WRITE_AND_VERIFY_16 = 0x8E
    VERIFY_16 = 0x8F
    PRE_FETCH_16 = 0x90
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    WRITE_ATOMIC_16 = 0x9C
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    MAINTENANCE_IN = 0xA3
    MAINTENANCE_OUT = 0xA4
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    WRITE_AND_VERIFY_12 = 0xAE
    VERIFY_12 = 0xAF
    READ_DEFECT_DATA_12 = 0xB7


class MaintenanceIn(enum.IntEnum):
    """Byte 1, bits 4 to 0, of MAINTENANCE IN."""

    REPORT_TARGET_PORT_GROUPS = 0x0A
    REPORT_SUPPORTED_OPERATION_CODES = 0x0C
    REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS = 0x0D


class MaintenanceOut(enum.IntEnum):
    """Byte 1, bits 4 to 0, of MAINTENANCE OUT."""

    SET_TARGET_PORT_GROUPS = 0x0A


class ServiceActionIn16(enum.IntEnum):
    """Byte 1, bits 4 to 0, of SERVICE ACTION IN(16)."""

    READ_CAPACITY_16 = 0x10
    GET_LBA_STATUS = 0x12


class Sanitize(enum.IntEnum):
    """Byte 1, bits 4 to 0, of SANITIZE."""

    OVERWRITE = 0x01
    BLOCK_ERASE = 0x02
    CRYPTOGRAPHIC_ERASE = 0x03
    EXIT_FAILURE_MODE = 0x1F


class ThirdPartyCopyOut(enum.IntEnum):
    """Byte 1, bits 4 to 0, of commands that begin a copy."""

    EXTENDED_COPY_LID1 = 0x00
    POPULATE_TOKEN = 0x10
    WRITE_USING_TOKEN = 0x11


class ThirdPartyCopyIn(enum.IntEnum):
    """Byte 1, bits 4 to 0, of commands that ask about copies."""

    RECEIVE_COPY_STATUS_LID1 = 0x00
    RECEIVE_COPY_OPERATING_PARAMETERS = 0x03
    RECEIVE_COPY_FAILURE_DETAILS_LID1 = 0x04
    RECEIVE_COPY_STATUS_LID4 = 0x05
    RECEIVE_ROD_TOKEN_INFORMATION = 0x07
