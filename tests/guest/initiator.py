"""Linux's initiator (open-iscsi and the kernel's iscsi_tcp) in a guest, as a test drives it.

Every record gets the portal by hand (the guest reaches the host under another address), a large
receive window (else QEMU's user network stalls reads for 5 s) and a long replacement timeout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tests.guest.session import Guest

INITIATOR_NAME = "iqn.2026-11.test:guest"

_RECORD: Mapping[str, str] = {
    "node.conn[0].tcp.window_size": "8388608",
    "node.session.timeo.replacement_timeout": "120",
    "node.session.initial_login_retry_max": "1",
}


class LinuxInitiator:
    """The initiator of one guest. Not thread-safe; raises GuestError when a command fails."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        guest.check(
            "mkdir -p /etc/iscsi /var/lib/iscsi /run/lock/iscsi &&"
            f" echo InitiatorName={INITIATOR_NAME} > /etc/iscsi/initiatorname.iscsi && iscsid"
        )

    def discover(self, portal: str, chap: Mapping[str, str] | None = None) -> Sequence[str]:
        """Lines of SendTargets: `ADDRESS:PORT,TAG IQN`."""
        record = f"iscsiadm -m discoverydb -t sendtargets -p {portal}"
        self.guest.run(f"{record} -o delete")
        commands = [f"{record} -o new >/dev/null"]
        for key, value in (chap or {}).items():
            key = key.replace("node.session.", "discovery.sendtargets.")
            commands.append(f"{record} -o update -n '{key}' -v '{value}'")
        commands.append(f"{record} --discover")
        return self.guest.check(" && ".join(commands)).splitlines()

    def add(self, name: str, portal: str, settings: Mapping[str, str] | None = None) -> None:
        """Make the record of a target anew, with these settings (CHAP, timers ...)."""
        node = f"iscsiadm -m node -T {name} -p {portal}"
        values = {**_RECORD, **(settings or {})}
        update = " ".join(f"-n '{key}' -v '{value}'" for key, value in values.items())
        self.guest.run(f"{node} -o delete")
        self.guest.check(f"{node} -o new && {node} -o update {update}")
        record = self.guest.check(f"{node} -S")
        for key, value in values.items():
            assert f"{key} = {value}" in record, f"{key}:\n{record}"

    def login(self, name: str, portal: str, units: int = 1) -> Sequence[str]:
        """Log in; the disks (`/dev/sdX`) of LUN 0 and on, ready to use."""
        self.guest.check(f"iscsiadm -m node -T {name} -p {portal} --login", 40)
        return self.disks(name, units)

    def disks(self, name: str, units: int = 1) -> Sequence[str]:
        """The disks of a session with a target, once each has its capacity."""
        found = (
            "for s in /sys/class/iscsi_session/session*; do"
            f' [ "$(cat $s/targetname)" = {name} ] || continue;'
            " ls -d $s/device/target*/*:*/block/sd* 2>/dev/null; done"
        )
        ready = (
            f"disks=$({found}); [ $(echo $disks | wc -w) = {units} ] &&"
            " for d in $disks; do [ -b /dev/${d##*/} ] && grep -qv '^0$' $d/size || exit 1; done &&"
            " echo $disks"
        )
        paths = self.guest.wait_until(f"( {ready} )").split()
        paths.sort(key=lambda path: int(path.split("/")[-3].rpartition(":")[2]))
        return ["/dev/" + path.rpartition("/")[2] for path in paths]

    def state(self, name: str) -> str:
        """The kernel's state of the session: LOGGED_IN, FAILED, FREE."""
        return self.guest.check(
            "for s in /sys/class/iscsi_session/session*; do"
            f' [ "$(cat $s/targetname)" = {name} ] && cat $s/state; done; true'
        )

    def counters(self, name: str) -> Mapping[str, int]:
        """The session's counters: noptx_pdus, tmfcmd_pdus, ..."""
        output = self.guest.check(f"iscsiadm -m node -T {name} --stats")
        return {key: int(value) for key, value in re.findall(r"(\w+): (\d+)", output)}

    def logout(self, name: str, portal: str) -> None:
        """Log out and wait until no session is left of it; forget the record."""
        node = f"iscsiadm -m node -T {name} -p {portal}"
        self.guest.check(f"{node} --logout && {node} -o delete", 40)

    def drop(self, name: str, portal: str) -> None:
        """Get rid of a session whatever its state, for the end of a test that failed."""
        node = f"iscsiadm -m node -T {name} -p {portal}"
        self.guest.run(f"{node} --logout; {node} -o delete", 60)
