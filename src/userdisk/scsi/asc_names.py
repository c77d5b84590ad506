"""Additional sense codes in words (SPC-6 annex F): those that a direct access device may answer.

A line is ASC and ASCQ in hexadecimal, and what they mean. `name` puts any code into words.
"""

from __future__ import annotations

_NAMES = """\
0000 no additional sense information
0005 end-of-data detected
0006 I/O process terminated
0007 programmable early warning detected
0016 operation in progress
001b set capacity operation in progress
001c verify operation in progress
001d ATA pass through information available
001f logical unit transitioning to another power condition
0020 extended copy information available
0021 atomic command aborted due to ACA
0022 deferred microcode is pending
0200 no seek complete
0300 peripheral device write fault
0301 no write current
0302 excessive write errors
0400 logical unit not ready, cause not reportable
0401 logical unit is in process of becoming ready
0402 logical unit not ready, initializing command required
0403 logical unit not ready, manual intervention required
0404 logical unit not ready, format in progress
0405 logical unit not ready, rebuild in progress
0406 logical unit not ready, recalculation in progress
0407 logical unit not ready, operation in progress
0408 logical unit not ready, long write in progress
0409 logical unit not ready, self-test in progress
040a logical unit not accessible, asymmetric access state transition
040b logical unit not accessible, target port in standby state
040c logical unit not accessible, target port in unavailable state
040d logical unit not ready, structure check required
0411 logical unit not ready, notify (enable spinup) required
0412 logical unit not ready, offline
0414 logical unit not ready, space allocation in progress
0416 logical unit not ready, configuration required
0419 logical unit not ready, operating in sequential mode
041a logical unit not ready, start stop unit command in progress
041b logical unit not ready, sanitize in progress
041c logical unit not ready, additional power use not yet granted
041d logical unit not ready, configuration in progress
041e logical unit not ready, microcode activation required
041f logical unit not ready, microcode download required
0420 logical unit not ready, logical unit reset required
0421 logical unit not ready, hard reset required
0422 logical unit not ready, power cycle required
0423 logical unit not ready, affiliation required
0424 depopulation in progress
0425 depopulation restoration in progress
0500 logical unit does not respond to selection
0800 logical unit communication failure
0801 logical unit communication time-out
0802 logical unit communication parity error
0904 head select fault
0a00 error log overflow
0b00 warning
0b01 warning - specified temperature exceeded
0b03 warning - background self-test failed
0b06 warning - non-volatile cache now volatile
0b07 warning - degraded power to non-volatile cache
0b08 warning - power loss expected
0b09 warning - device statistics notification active
0b0a warning - high critical temperature limit exceeded
0b0b warning - low critical temperature limit exceeded
0b0c warning - high operating temperature limit exceeded
0b0d warning - low operating temperature limit exceeded
0b0e warning - high critical humidity limit exceeded
0b0f warning - low critical humidity limit exceeded
0b10 warning - high operating humidity limit exceeded
0b11 warning - low operating humidity limit exceeded
0b13 warning - microcode digital signature validation failure
0c00 write error
0c01 write error - recovered with auto reallocation
0c02 write error - auto reallocation failed
0c03 write error - recommend reassignment
0c07 write error - recovery needed
0c08 write error - recovery failed
0c0a write error - padding blocks added
0c0c write error - unexpected unsolicited data
0c0d write error - not enough unsolicited data
0c0e multiple write errors
0c0f defects in error window
0c10 incomplete multiple atomic write operations
0d00 error detected by third party temporary initiator
0d01 third party device failure
0d02 copy target device not reachable
0d03 incorrect copy target device type
0d04 copy target device data underrun
0d05 copy target device data overrun
0e00 invalid information unit
0e01 information unit too short
0e02 information unit too long
0e03 invalid field in command information unit
1000 ID CRC or ECC error
1001 logical block guard check failed
1002 logical block application tag check failed
1003 logical block reference tag check failed
1004 logical block protection error on recover buffered data
1005 logical block protection method error
1100 unrecovered read error
1101 read retries exhausted
1102 error too long to correct
1103 multiple read errors
1107 data re-synchronization error
1108 incomplete block read
110a miscorrected error
110b unrecovered read error - recommend reassignment
110c unrecovered read error - recommend rewrite the data
1113 read error - failed retransmission request
1114 read error - LBA marked bad by application client
1115 write after sanitize required
1401 record not found
1403 end-of-data not found
1404 block sequence error
1405 record not found - recommend reassignment
1600 data synchronization mark error
1601 data sync error - data rewritten
1602 data sync error - recommend rewrite
1604 data sync error - recommend reassignment
1700 recovered data with no error correction applied
1701 recovered data with retries
1702 recovered data with positive head offset
1703 recovered data with negative head offset
1705 recovered data using previous sector id
1707 recovered data without ECC - recommend reassignment
1708 recovered data without ECC - recommend rewrite
1709 recovered data without ECC - data rewritten
1800 recovered data with error correction applied
1801 recovered data with error corr. & retries applied
1805 recovered data - recommend reassignment
1806 recovered data - recommend rewrite
1807 recovered data with ECC - data rewritten
1900 defect list error
1901 defect list not available
1902 defect list error in primary list
1903 defect list error in grown list
1a00 parameter list length error
1b00 synchronous data transfer error
1c00 defect list not found
1c01 primary defect list not found
1c02 grown defect list not found
1d00 miscompare during verify operation
1d01 miscompare verify of unmapped LBA
1e00 recovered id with ECC correction
1f00 partial defect list transfer
2000 invalid command operation code
2002 access denied - no access rights
2004 illegal command while in write capable state
2009 access denied - invalid LU identifier
2100 logical block address out of range
2102 invalid address for write
2104 unaligned write command
2105 write boundary violation
2106 attempt to read invalid data
2107 read boundary violation
2108 misaligned write command
2200 illegal function (use 20 00, 24 00, or 26 00)
2300 invalid token operation, cause not reportable
2301 invalid token operation, unsupported token type
2302 invalid token operation, remote token usage not supported
2304 invalid token operation, token unknown
2305 invalid token operation, token corrupt
2306 invalid token operation, token revoked
2307 invalid token operation, token expired
2308 invalid token operation, token cancelled
2309 invalid token operation, token deleted
230a invalid token operation, invalid token length
2400 invalid field in CDB
2406 nonce not unique
2407 nonce timestamp out of range
2408 invalid XCDB
2409 invalid fast format
2500 logical unit not supported
2600 invalid field in parameter list
2601 parameter not supported
2602 parameter value invalid
2603 threshold parameters not supported
2604 invalid release of persistent reservation
2606 too many target descriptors
2607 unsupported target descriptor type code
2608 too many segment descriptors
2609 unsupported segment descriptor type code
260a unexpected inexact segment
260b inline data length exceeded
260c invalid operation for copy source or destination
260d copy segment granularity violation
260f invalid data-out buffer integrity check value
2615 copy source or copy destination not authorized
2700 write protected
2701 hardware write protected
2702 logical unit software write protected
2703 associated write protect
2704 persistent write protect
2705 permanent write protect
2706 conditional write protect
2707 space allocation failed write protect
2800 not ready to ready change, medium may have changed
2900 power on, reset, or bus device reset occurred
2901 power on occurred
2902 SCSI bus reset occurred
2903 bus device reset function occurred
2904 device internal reset
2907 I_T nexus loss occurred
2a00 parameters changed
2a01 mode parameters changed
2a02 log parameters changed
2a03 reservations preempted
2a04 reservations released
2a05 registrations preempted
2a06 asymmetric access state changed
2a07 implicit asymmetric access state transition failed
2a08 priority changed
2a09 capacity data has changed
2a0a error history I_T nexus cleared
2a0b error history snapshot released
2a10 timestamp changed
2b00 copy cannot execute since host cannot disconnect
2c05 illegal power condition request
2c06 persistent prevent conflict
2c07 previous busy status
2c08 previous task set full status
2c09 previous reservation conflict status
2c0b not reserved
2c0c ORWRITE generation does not match
2c0d reset write pointer not allowed
2c11 descriptor format sense data required
2c13 well known logical unit access required
2e01 command timeout before processing
2e02 command timeout during processing
2e03 command timeout during processing due to error recovery
2f00 commands cleared by another initiator
2f01 commands cleared by power loss notification
2f02 commands cleared by device server
2f03 some commands cleared by queuing layer event
3000 incompatible medium installed
3001 cannot read medium - unknown format
3002 cannot read medium - incompatible format
3004 cannot write medium - unknown format
3005 cannot write medium - incompatible format
3006 cannot format medium - incompatible medium
3008 cannot write - application code mismatch
3010 medium not formatted
3100 medium format corrupted
3101 format command failed
3103 sanitize command failed
3104 depopulation failed
3105 depopulation restoration failed
3200 no defect spare location available
3201 defect list update failure
3700 rounded parameter
3807 thin provisioning soft threshold reached
3808 depopulation interrupted
3900 saving parameters not supported
3a00 medium not present
3a03 medium not present - loadable
3b09 read past end of medium
3b0a read past beginning of medium
3b0f end of medium reached
3b1a data transfer device removed
3b1b data transfer device inserted
3d00 invalid bits in identify message
3e00 logical unit has not self-configured yet
3e01 logical unit failure
3e02 timeout on logical unit
3e03 logical unit failed self-test
3e04 logical unit unable to update self-test log
3f00 target operating conditions have changed
3f01 microcode has been changed
3f02 changed operating definition
3f03 inquiry data has changed
3f05 device identifier changed
3f08 spare created or modified
3f09 spare deleted
3f0e reported LUNs data has changed
3f0f echo buffer overwritten
3f10 medium loadable
3f12 iSCSI IP address added
3f13 iSCSI IP address removed
3f14 iSCSI IP address changed
3f15 inspect referrals sense descriptors
3f16 microcode has been changed without reset
3f18 bind completed
3f19 bind redirected
4100 data path failure (should use 40 nn)
4200 power-on or self-test failure (should use 40 nn)
4300 message error
4400 internal target failure
4401 persistent reservation information lost
4471 ATA device failed Set Features
4500 select or reselect failure
4600 unsuccessful soft reset
4700 SCSI parity error
4701 data phase CRC error detected
4702 SCSI parity error detected during st data phase
4703 information unit iuCRC error detected
4704 asynchronous information protection error detected
4705 protocol service CRC error
4706 phy test function in progress
477f some commands cleared by iSCSI protocol event
4800 initiator detected error message received
4900 invalid message error
4a00 command phase error
4b00 data phase error
4b01 invalid target port transfer tag received
4b02 too much write data
4b03 ack/nak timeout
4b04 nak received
4b05 data offset error
4b06 initiator response timeout
4b07 connection lost
4b08 data-in buffer overflow - data buffer size
4b09 data-in buffer overflow - data buffer descriptor area
4b0a data-in buffer error
4b0b data-out buffer overflow - data buffer size
4b0c data-out buffer overflow - data buffer descriptor area
4b0d data-out buffer error
4c00 logical unit failed self-configuration
4e00 overlapped commands attempted
5302 medium removal prevented
5309 data transfer device error - load failed
530a data transfer device error - unload failed
530b data transfer device error - unload missing
530d data transfer device error - library communication failed
5400 SCSI to host system interface failure
5500 system resource failure
5501 system buffer full
5502 insufficient reservation resources
5503 insufficient resources
5504 insufficient registration resources
5505 insufficient access control resources
5507 quota error
550a data currently unavailable
550b insufficient power for operation
550d insufficient resources to create rod token
5511 insufficient resources to bind
5700 unable to recover table-of-contents
5800 generation does not exist
5900 updated block read
5a00 operator request or state change input
5a01 operator medium removal request
5a02 operator selected write protect
5a03 operator selected write permit
5b00 log exception
5b01 threshold condition met
5b02 log counter at maximum
5b03 log list codes exhausted
5c00 rpl status change
5d00 failure prediction threshold exceeded
5d01 media failure prediction threshold exceeded
5d02 logical unit failure prediction threshold exceeded
5e00 low power condition on
5e01 idle condition activated by timer
5e02 standby condition activated by timer
5e03 idle condition activated by command
5e04 standby condition activated by command
5e05 idle_b condition activated by timer
5e06 idle_b condition activated by command
5e07 idle_c condition activated by timer
5e08 idle_c condition activated by command
5e09 standby_y condition activated by timer
5e0a standby_y condition activated by command
6600 automatic document feeder cover up
6601 automatic document feeder lift up
6602 document jam in automatic document feeder
6603 document miss feed automatic in document feeder
6700 configuration failure
6701 configuration of incapable logical units failed
6702 add logical unit failed
6703 modification of logical unit failed
6704 exchange of logical unit failed
6705 remove of logical unit failed
6706 attachment of logical unit failed
6707 creation of logical unit failed
6708 assign failure occurred
6709 multiply assigned logical unit
670a set target port groups command failed
670b ATA device feature not enabled
6800 logical unit not configured
6900 data loss on logical unit
6901 multiple logical unit failures
6902 parity/data mismatch
6a00 informational, refer to log
6b00 state change has occurred
6c00 rebuild failure occurred
6d00 recalculate failure occurred
6f03 read of scrambled sector without authentication
6f06 insufficient block count for binding nonce recording
6f07 conflict in binding nonce recording
6f08 insufficient permission
6f09 invalid drive-host pairing server
6f0a drive-host pairing suspended
7206 RMZ extension is not allowed
7304 program memory area update failure
7305 program memory area is full
7317 RDZ is full
7404 cryptographic integrity validation failed
7408 digital signature validation failure
7412 invalid SA usage
7440 authentication failed
7471 logical unit access not authorized
"""

NAMES: dict[int, str] = {int(line[:4], 16): line[5:] for line in _NAMES.splitlines()}


def name(code: int) -> str:
    """What a code (ASC in the high byte) means; for an unknown one, what is known of it."""
    known = NAMES.get(code)
    if known is not None:
        return known
    asc, ascq = code >> 8, code & 0xFF
    if asc >= 0x80 or ascq >= 0x80:
        return f"vendor specific code {asc:02X}/{ascq:02X}"
    family = NAMES.get(asc << 8)
    if family is not None:
        return f"{family} (qualifier {ascq:02X})"
    return f"unknown code {asc:02X}/{ascq:02X}"
