"""A LUN reset beside a write, with two sessions: what iSCSITMF.LUNResetSimpleAsync is about.

That test of libiscsi 1.19 asks for the answer right after it has queued the request.
"""

from __future__ import annotations

from tests.kit.server import serve
from userdisk.initiator_client import Initiator, sense_codes
from userdisk.iscsi.initiator_login import Settings


def test_lun_reset() -> None:
    """One of the two orders, then 29/xx once on every session."""
    with serve("ram:64M") as served:
        url = served.address
        address = (url.host, url.port)
        with (
            Initiator(address, Settings("iqn.2026-11.example:one", url.target)) as first,
            Initiator(address, Settings("iqn.2026-11.example:two", url.target)) as second,
        ):
            for initiator in (first, second):
                initiator.execute(bytes(6))
            write = first.session.command(b"\x2a" + bytes(7) + b"\x08\0", data_out=bytes(4096))
            reset = first.session.task_management(5)
            assert first.finish(reset).response == 0
            assert not write.done or write.status == 0
            for initiator in (first, second):
                task = initiator.finish(initiator.session.command(bytes(6)))
                assert sense_codes(task.sense)[:2] == (6, 0x29)
                assert initiator.finish(initiator.session.command(bytes(6))).status == 0
