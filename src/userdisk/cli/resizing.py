"""What a process with units answers: which ones it has (`info`), and another size (`resize`).

`resize` with `check` only says whether it would be done. `restore` is for a process that takes the
place of one that was resized: a unit that cannot look how large it is takes the size again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from userdisk import control
from userdisk.backend.file import FileUnit
from userdisk.backend.size import format_size
from userdisk.control import Answer, Verb
from userdisk.errors import UsageError, UserdiskError
from userdisk.gate import Gate
from userdisk.unit import StorageUnit

_LOOK_SECONDS: Final = 5.0
_FOLLOW_SECONDS: Final = 660.0  # while a process resizes its disk, it does nothing else
_LARGEST: Final = 1 << 63  # bytes; what is asked of files and devices is less


@dataclass(frozen=True, slots=True)
class Served:
    """A unit of this process, and what people call it."""

    spec: str
    gate: Gate
    names: Sequence[str]  #: its own, and those of its target and export
    urls: Sequence[str] = ()  #: where it is offered


def verbs(served: Sequence[Served]) -> dict[str, Verb]:
    """The table of `Control`."""
    one_at_a_time = threading.Lock()
    where = os.getcwd()

    def info(request: Mapping[str, object]) -> Answer:
        return {
            "pid": os.getpid(),
            "folder": where,
            "units": [
                {
                    "unit": each.spec,
                    "names": list(each.names),
                    "urls": list(each.urls),
                    "size": each.gate.parameters.size,
                    "block_length": each.gate.parameters.block_length,
                    "read_only": each.gate.parameters.write_protected,
                }
                for each in served
            ],
        }

    def asked(request: Mapping[str, object]) -> tuple[Gate, int]:
        number, size = request.get("number"), request.get("size")
        if not isinstance(number, int) or not 0 <= number < len(served):
            raise UsageError("number: there is no such unit")
        if not isinstance(size, int):
            raise UsageError("size: must be a number of bytes")
        return served[number].gate, size

    def restore(request: Mapping[str, object]) -> Answer:
        gate, size = asked(request)
        with one_at_a_time:
            unit = gate.unit
            if not _overrides(unit, "measure") and _overrides(unit, "take_size"):
                check_size(gate, size, shrink=True)
                set_size(gate, size)
            return {"size": gate.parameters.size}

    def resize(request: Mapping[str, object]) -> Answer:
        gate, size = asked(request)
        with one_at_a_time:
            before = gate.parameters.size
            check_size(gate, size, shrink=request.get("shrink") is True)
            if request.get("check") is not True:
                set_size(gate, size)
            return {"before": before, "size": gate.parameters.size}

    return {"info": info, "resize": resize, "restore": restore}


def have_followed(gate: Gate) -> None:
    """From now on the process that attaches this unit hears of it when its size has changed."""
    news = threading.Event()
    threading.Thread(target=_tell, args=(news,), name="news", daemon=True).start()
    gate.resized.append(news.set)


def _tell(news: threading.Event) -> None:
    while news.wait():
        news.clear()
        for path in control.processes():
            with contextlib.suppress(UserdiskError, OSError):  # it says itself what went wrong
                if path.name == str(os.getpid()):
                    continue
                info = control.ask(path, {"verb": "info"}, _LOOK_SECONDS)
                if info.get("unit_pid") == os.getpid():
                    control.ask(path, {"verb": "follow"}, _FOLLOW_SECONDS)


def check_size(gate: Gate, size: int, *, shrink: bool) -> None:
    """Whether the unit may get a size, in bytes; changes nothing.

    Raises `UsageError` for a size that it cannot have, `UserdiskError` when it takes no other.
    """
    unit, before, block = gate.unit, gate.parameters.size, gate.parameters.block_length
    if size <= 0:
        raise UsageError(f"{gate.name}: {size} bytes is no size; a disk has a block at least")
    if size >= _LARGEST:
        raise UsageError(f"{gate.name}: {size} bytes is larger than a disk can be (less than 8E)")
    if size % block:
        raise UsageError(f"{gate.name}: {size} bytes is not a multiple of its {block}-byte blocks")
    if size < before and not shrink:
        raise UsageError(
            f"{gate.name}: it has {format_size(before)}; all beyond {format_size(size)} would be"
            " lost; --shrink does it"
        )
    if isinstance(unit, FileUnit):
        if gate.parameters.write_protected and _file_size(unit) != size:
            raise UserdiskError(f"{gate.name}: is read-only")
    elif not (_overrides(unit, "measure") or _overrides(unit, "take_size")):
        raise UserdiskError(
            f"{gate.name}: {type(unit).__name__} cannot be resized: it has neither take_size nor"
            " measure"
        )


def set_size(gate: Gate, size: int) -> None:
    """Give the unit a size that `check_size` allows; initiators are told. Blocks.

    Raises `UserdiskError`, and what the unit raises; it has the size then that it had.
    """
    unit = gate.unit
    if isinstance(unit, FileUnit) and _file_size(unit) != size:
        _cut_or_grow(unit, gate, size)
    elif _overrides(unit, "measure"):
        unit.measure()
        if gate.parameters.size != size:
            raise UserdiskError(
                f"{gate.name}: its storage has {format_size(gate.parameters.size)}, and has to be"
                " resized first"
            )
    else:
        unit.resized(size // gate.parameters.block_length)


def _overrides(unit: StorageUnit, name: str) -> bool:
    return getattr(type(unit), name) is not getattr(StorageUnit, name)


def _cut_or_grow(unit: FileUnit, gate: Gate, size: int) -> None:
    path, before = Path(unit.path), _file_size(unit)
    if size > before:
        _truncate(path, size)
        try:
            unit.resized(size // gate.parameters.block_length)
        except BaseException:
            _truncate(path, before)
            raise
    else:  # nobody may be beyond the new end when it is cut
        unit.resized(size // gate.parameters.block_length)
        _truncate(path, size)


def _file_size(unit: FileUnit) -> int:
    try:
        return os.stat(unit.path).st_size
    except OSError as error:
        raise UserdiskError(f"{unit.path}: {error.strerror}") from None


def _truncate(path: Path, size: int) -> None:
    try:
        os.truncate(path, size)
    except OSError as error:
        raise UserdiskError(
            f"{path}: cannot be made {format_size(size)} large: {error.strerror}"
        ) from None
