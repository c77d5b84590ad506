"""What a serving process answers: which units it has (`info`), and another size (`resize`)."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from userdisk.backend.file import FileUnit
from userdisk.backend.size import format_size
from userdisk.control import Answer, Verb
from userdisk.errors import UsageError, UserdiskError
from userdisk.gate import Gate
from userdisk.unit import StorageUnit


@dataclass(frozen=True, slots=True)
class Served:
    """A unit of this process, and what people call it."""

    spec: str
    gate: Gate
    names: Sequence[str]  #: of its target and export


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
                    "size": each.gate.parameters.size,
                    "block_length": each.gate.parameters.block_length,
                }
                for each in served
            ],
        }

    def resize(request: Mapping[str, object]) -> Answer:
        number, size = request.get("number"), request.get("size")
        if not isinstance(number, int) or not 0 <= number < len(served):
            raise UsageError("number: there is no such unit")
        if not isinstance(size, int):
            raise UsageError("size: must be a number of bytes")
        gate = served[number].gate
        with one_at_a_time:
            before = gate.parameters.size
            set_size(gate, size, shrink=request.get("shrink") is True)
            return {"before": before, "size": gate.parameters.size}

    return {"info": info, "resize": resize}


def set_size(gate: Gate, size: int, *, shrink: bool) -> None:
    """Give the unit another size, in bytes; initiators are told. Blocks.

    Raises `UsageError` for a size that it cannot have, `UserdiskError` when it takes no other.
    """
    unit, before, block = gate.unit, gate.parameters.size, gate.parameters.block_length
    if size <= 0 or size % block:
        raise UsageError(f"{gate.name}: {size} bytes is not a multiple of its {block}-byte blocks")
    if size < before and not shrink:
        raise UsageError(
            f"{gate.name}: it has {format_size(before)}; all beyond {format_size(size)} would be"
            " lost; --shrink does it"
        )
    kind = type(unit)
    if isinstance(unit, FileUnit):
        _cut_or_grow(unit, gate, size)
    elif kind.measure is not StorageUnit.measure:
        unit.measure()
        if gate.parameters.size != size:
            raise UserdiskError(
                f"{gate.name}: its storage has {format_size(gate.parameters.size)}, and has to be"
                " resized first"
            )
    elif kind.take_size is not StorageUnit.take_size:
        unit.resized(size // block)
    else:
        raise UserdiskError(
            f"{gate.name}: {kind.__name__} cannot be resized: it has neither take_size nor measure"
        )


def _cut_or_grow(unit: FileUnit, gate: Gate, size: int) -> None:
    if gate.parameters.write_protected:
        raise UserdiskError(f"{gate.name}: is read-only")
    path = Path(unit.path)
    before = path.stat().st_size
    if size > before:
        os.truncate(path, size)
        try:
            unit.resized(size // gate.parameters.block_length)
        except BaseException:
            os.truncate(path, before)
            raise
    else:  # nobody may be beyond the new end when it is cut
        unit.resized(size // gate.parameters.block_length)
        os.truncate(path, size)
