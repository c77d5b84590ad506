"""Registrations and the persistent reservation of a logical unit, as a value (SPC-5 5.14).

A `State` is never changed: each service action makes the next one. Its saved form is what APTPL
keeps over a restart; PRGENERATION starts at zero again then.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from userdisk.scsi.reservation import ALL_REGISTRANTS, Type, checked_name
from userdisk.target.nexus import NexusName

#: I_T nexuses that may be registered with one logical unit.
MOST = 2048

_KEY_MAX = (1 << 64) - 1
_ISID_MAX = (1 << 48) - 1
_PORT_MAX = (1 << 16) - 1

#: in a saved registration: the name, and the JSON type
_FIELDS: dict[str, type] = {"initiator": str, "isid": str, "port": int, "key": str}


class State(NamedTuple):
    """Who is registered with which key, and who holds what."""

    keys: Mapping[NexusName, int] = MappingProxyType({})
    kind: Type | None = None  #: of the persistent reservation; None: there is none
    holder: NexusName | None = None  #: None if all registrants hold it
    generation: int = 0
    through_power_loss: bool = False  #: APTPL, the last that was given

    def holds(self, nexus: NexusName) -> bool:
        """Whether the nexus is a persistent reservation holder (5.14.10)."""
        if self.kind in ALL_REGISTRANTS:
            return nexus in self.keys
        return self.kind is not None and nexus == self.holder

    def to_json(self) -> Any:
        """What is saved."""
        names = list(self.keys)
        return {
            "type": self.kind,
            "holder": None if self.holder is None else names.index(self.holder),
            "registrations": [
                {
                    "initiator": name.initiator,
                    "isid": f"{name.isid:012x}",
                    "port": name.port,
                    "key": f"{key:016x}",
                }
                for name, key in self.keys.items()
            ],
        }

    @classmethod
    def from_json(cls, saved: Any) -> State:
        """The state that `to_json` gave; ValueError says what is wrong with any other value."""
        kind, holder, listed = _members(saved, "type", "holder", "registrations")
        if not isinstance(listed, list) or len(listed) > MOST:
            raise ValueError(f"registrations: not a list of at most {MOST}")
        keys: dict[NexusName, int] = {}
        for number, entry in enumerate(listed):
            try:
                name, key = _registration(entry)
                if name in keys:
                    raise ValueError("registered twice")
            except ValueError as error:
                raise ValueError(f"registration {number}: {error}") from None
            keys[name] = key
        if kind is None:
            if holder is not None:
                raise ValueError("a holder without a reservation")
            return cls(keys, through_power_loss=True)
        if type(kind) is not int or kind not in tuple(Type) or not keys:
            raise ValueError(f"type: {kind!r}")
        if kind in ALL_REGISTRANTS:
            if holder is not None:
                raise ValueError("a holder of what all registrants hold")
        elif type(holder) is not int or not 0 <= holder < len(keys):
            raise ValueError(f"holder: {holder!r}")
        owner = None if holder is None else list(keys)[holder]
        return cls(keys, Type(kind), owner, through_power_loss=True)


def _members(value: Any, *names: str) -> list[Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise ValueError(f"not an object of {', '.join(names)}")
    return [value[name] for name in names]


def _registration(entry: Any) -> tuple[NexusName, int]:
    values = _members(entry, *_FIELDS)
    for (name, kind), value in zip(_FIELDS.items(), values, strict=True):
        if type(value) is not kind:
            raise ValueError(f"{name}: {value!r}")
    initiator, isid, port, key = values
    checked_name(initiator)
    if not 0 < port <= _PORT_MAX:
        raise ValueError(f"port: {port}")
    isid, key = _hex("isid", isid, _ISID_MAX), _hex("key", key, _KEY_MAX)
    if not key:
        raise ValueError("key: zero")
    return NexusName(initiator, isid, port), key


def _hex(name: str, text: str, most: int) -> int:
    digits = len(f"{most:x}")
    if len(text) != digits or text.strip("0123456789abcdef"):
        raise ValueError(f"{name}: {text!r} is not {digits} hexadecimal digits")
    return int(text, 16)
