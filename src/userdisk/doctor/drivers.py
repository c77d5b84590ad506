"""Kernel drivers: whether a machine's kernel has one (modules.builtin of kbuild, kernel config)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import Enum

from userdisk.doctor.machine import Machine

_MAX_CONFIG = 4 << 20  # bytes, unpacked


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver: the name of its module, and what switches it on in the kernel's configuration."""

    module: str
    option: str


class DriverState(Enum):
    """Where a driver is."""

    PRESENT = "present"  #: loaded, or built in
    LOADABLE = "loadable"
    ABSENT = "absent"


def driver_state(machine: Machine, driver: Driver) -> DriverState:
    """Look at what runs, then at what is built in, then ask modprobe, which loads nothing."""
    name = driver.module
    if machine.exists(f"/sys/module/{name}") or name in _loaded(machine):
        return DriverState.PRESENT
    if name in _built_in(machine) or f"{driver.option}=y" in _configuration(machine):
        return DriverState.PRESENT
    if machine.run(["modprobe", "-n", name])[0] == 0:
        return DriverState.LOADABLE
    return DriverState.ABSENT


def _loaded(machine: Machine) -> set[str]:
    return {line.split(" ")[0] for line in (machine.text("/proc/modules") or "").splitlines()}


def _built_in(machine: Machine) -> set[str]:
    listed = machine.text(f"/lib/modules/{machine.release}/modules.builtin") or ""
    files = (line.rpartition("/")[2].split(".")[0] for line in listed.splitlines())
    return {file.replace("-", "_") for file in files}


def _configuration(machine: Machine) -> set[str]:
    packed = machine.data("/proc/config.gz")
    if packed is None:
        text = machine.text(f"/boot/config-{machine.release}") or ""
    else:
        try:
            unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(packed, _MAX_CONFIG)
        except zlib.error:
            return set()
        text = unpacked.decode(errors="replace")
    return set(text.splitlines())
