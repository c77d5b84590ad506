"""A logical unit behind an iSCSI target, as a device."""

from __future__ import annotations

import time

from userdisk.errors import UserdiskError
from userdisk.initiator_url import parse_url, settings_for
from userdisk.iscsi_client import Client
from userdisk.scsitool.device import DeviceError, Result


class IscsiDevice:
    """A session of its own with the target that a URL names.

    The constructor blocks for `timeout` seconds at most. Raises `UserdiskError`.
    """

    def __init__(self, name: str, timeout: float) -> None:
        url = parse_url(name)
        self.name = str(url)
        self._timeout = timeout
        self._client = Client(url.address, settings_for(url), lun=url.lun, timeout=timeout)

    def execute(self, cdb: bytes, read_length: int = 0, data_out: bytes = b"") -> Result:
        """See `Device.execute`."""
        began = time.monotonic()
        try:
            task = self._client.execute(cdb, data_out=data_out, read_length=read_length)
        except UserdiskError as error:
            if time.monotonic() - began >= self._timeout:
                late = f"{self.name}: no answer in {self._timeout:g} seconds"
                raise DeviceError(late) from error
            raise DeviceError(str(error)) from error
        data = bytes(task.data)
        if task.residual > 0:  # the rest of the room was not used
            data = data[: max(0, read_length - task.residual)]
        return Result(task.status, bytes(task.sense), data)

    def close(self) -> None:
        """Log out."""
        self._client.close()
