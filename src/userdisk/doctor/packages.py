"""The command that installs something, by the package manager that a machine has."""

from __future__ import annotations

import re
from typing import Final

from userdisk.doctor.machine import Machine

#: Package manager -> how it installs. The first that is there is the machine's.
_MANAGERS: Final = {
    "apt-get": "apt-get install",
    "dnf": "dnf install",
    "zypper": "zypper install",
    "pacman": "pacman -S",
    "apk": "apk add",
    "brew": "brew install",
}

#: What is wanted -> package manager -> package.
_PACKAGES: Final[dict[str, dict[str, str]]] = {
    "iscsiadm": {
        "apt-get": "open-iscsi",
        "dnf": "iscsi-initiator-utils",
        "zypper": "open-iscsi",
        "pacman": "open-iscsi",
        "apk": "open-iscsi",
    },
    "nbd-client": {
        "apt-get": "nbd-client",
        "dnf": "nbd",
        "zypper": "nbd",
        "pacman": "nbd",
        "apk": "nbd-client",
    },
    "qemu": {
        "apt-get": "qemu-system",
        "dnf": "qemu",
        "zypper": "qemu",
        "pacman": "qemu-full",
        "apk": "qemu-system-x86_64",
        "brew": "qemu",
    },
    "targetcli": {
        "apt-get": "targetcli-fb",
        "dnf": "targetcli",
        "zypper": "python3-targetcli-fb",
        "pacman": "targetcli-fb",
    },
}

#: What a kernel's release looks like -> what installs the drivers that its package leaves out.
_KERNELS: Final = (
    (r"-cloud-(amd64|arm64)$", r"apt-get install linux-image-\1"),
    (r"-(generic|aws|azure|gcp|kvm|oracle)$", "apt-get install linux-modules-extra-{release}"),
    (r"\.(fc|el)\d+", "dnf install kernel-modules-extra"),
)


def installing(machine: Machine, program: str) -> str | None:
    """The command; None if the machine's package manager is not known, or has no such package."""
    for manager, command in _MANAGERS.items():
        if machine.which(manager) is not None:
            package = _PACKAGES.get(program, {}).get(manager)
            return None if package is None else f"{command} {package}"
    return None


def installing_drivers(machine: Machine) -> str | None:
    """The command for drivers that the running kernel has not; None if no package brings them."""
    for pattern, command in _KERNELS:
        found = re.search(pattern, machine.release)
        if found is not None:
            return found.expand(command).format(release=machine.release)
    return None
