"""Units that come with userdisk, and `open_unit`, which makes any unit from what a person writes.

`ram:SIZE`, an image file, a block device, `nbd:URI`, `iscsi:URL`, `spd:PATH`,
`module:Class` or `file.py:Class`. A further kind is a row in `_SCHEMES` and a module, imported
when it is used.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from userdisk.backend.size import format_size, parse_size
from userdisk.errors import UsageError, UserdiskError
from userdisk.unit import StorageUnit

__all__ = ["format_size", "open_unit", "parse_size"]


@dataclass(frozen=True, slots=True)
class _Request:
    """What `open_unit` was asked for."""

    spec: str
    rest: str  # of the spec, without the scheme
    size: int | None
    block_length: int | None
    physical_block_length: int | None
    read_only: bool
    product_id: str | None
    product_revision: str | None
    removable: bool
    thick: bool
    soft_threshold: int | None
    options: Mapping[str, str]
    new_guid: bool
    timeout: float | None

    def common(self) -> dict[str, Any]:
        return {
            "block_length": self.block_length,
            "physical_block_length": self.physical_block_length,
            "product_id": self.product_id,
            "product_revision": self.product_revision,
            "removable": self.removable or None,
            "unmap_supported": False if self.thick else None,
            "soft_threshold": self.soft_threshold,
        }

    def stored(self) -> dict[str, Any]:
        """For disks that are somewhere already."""
        return {
            "size": self.size,
            "read_only": self.read_only,
            "new_guid": self.new_guid,
            "guid": _guid(self),
            **self.common(),
        }

    def remote(self) -> dict[str, Any]:
        """For disks that somebody else has."""
        return self.stored() | ({} if self.timeout is None else {"timeout": self.timeout})


def open_unit(
    spec: str,
    *,
    size: int | None = None,
    block_length: int | None = None,
    physical_block_length: int | None = None,
    read_only: bool = False,
    product_id: str | None = None,
    product_revision: str | None = None,
    removable: bool = False,
    thick: bool = False,
    soft_threshold: int | None = None,
    options: Mapping[str, str] | None = None,
    new_guid: bool = False,
    timeout: float | None = None,
) -> StorageUnit:
    """Make a unit from `spec`. Sizes and lengths are in bytes; None means the unit's default.

    `removable`: the medium can be ejected and loaded again. `thick`: unmap is not offered.
    `soft_threshold`: percent, see `StorageUnit`.

    Images and devices are opened and locked at once, until the unit is closed. A `ram:` disk
    starts empty and so is a new disk each time; everything else keeps its identity
    (`userdisk.identity`), unless `new_guid` is set. The option `guid` sets it outright.

    Blocks while files are looked at, the user's code is imported, and another program's disk is
    connected (for `timeout` seconds at most, 10 by default). Raises `UsageError`.
    """
    scheme, colon, rest = spec.partition(":")
    make = _SCHEMES.get(scheme) if colon else None
    if make is None:
        make, rest = _maker(spec), spec
    request = _Request(
        spec=spec,
        rest=rest,
        size=size,
        block_length=block_length,
        physical_block_length=physical_block_length,
        read_only=read_only,
        product_id=product_id,
        product_revision=product_revision,
        removable=removable,
        thick=thick,
        soft_threshold=soft_threshold,
        options=options or {},
        new_guid=new_guid,
        timeout=timeout,
    )
    try:
        return make(request)
    except UsageError:
        raise
    except UserdiskError as error:  # what was named cannot be had
        raise UsageError(str(error)) from error


def _maker(spec: str) -> Callable[[_Request], StorageUnit]:
    """Who makes a unit of something that has no scheme: a class, a device or an image."""
    if not spec:
        raise UsageError("a unit is ram:SIZE, an image, a block device or file.py:Class, not ''")
    try:
        mode = os.stat(spec).st_mode
    except ValueError:
        raise UsageError(f"{spec!r} is not a path") from None
    except OSError:
        mode = 0
    if mode == 0 and _CLASS.fullmatch(spec):
        return _class
    if spec.endswith((".py", ".py:")):
        raise UsageError(f"{spec}: name the class as well, {spec.rstrip(':')}:Class")
    if mode == 0 and spec == "ram":
        raise UsageError("ram: needs a size, as in ram:1G")
    if mode == 0 and (dotted := _DOTTED.fullmatch(spec)):
        module, name = dotted.groups()
        raise UsageError(f"{spec}: a class is written {module}.py:{name}, an image ./{spec}")
    return _device if stat.S_ISBLK(mode) else _image


_CLASS: Final = re.compile(r"(?:.+\.py|[^\W\d]\w*(?:\.[^\W\d]\w*)*):[^\W\d]\w*", re.DOTALL)
#: what looks like a class as Python names it: its last word has capitals and small letters
_DOTTED: Final = re.compile(r"([^\W\d]\w*)\.([A-Z]\w*[a-z]\w*)")


def _ram(request: _Request) -> StorageUnit:
    from userdisk.backend.ram import RamUnit

    if request.rest:
        try:
            size = parse_size(request.rest)
        except UsageError as error:
            raise UsageError(f"{request.spec}: {error}") from None
        if request.size not in (None, size):
            raise UsageError(f"{request.spec}: another size was given as well, {request.size}")
    elif request.size is not None:
        size = request.size
    else:
        raise UsageError("ram: needs a size, as in ram:1G")
    return RamUnit(
        size=size,
        write_protected=request.read_only,
        **request.common(),
        guid=_guid(request),
    )


def _image(request: _Request) -> StorageUnit:
    from userdisk.backend.file import FileUnit

    return FileUnit(request.spec, **request.stored())


def _device(request: _Request) -> StorageUnit:
    from userdisk.backend.block import BlockDeviceUnit

    return BlockDeviceUnit(request.spec, **request.stored())


def _nbd(request: _Request) -> StorageUnit:
    from userdisk.backend.nbd import NbdUnit
    from userdisk.nbd.uri import is_uri, parse_uri

    uri = parse_uri(request.rest if is_uri(request.rest) else request.spec)
    return NbdUnit(uri, **request.remote())


def _iscsi(request: _Request) -> StorageUnit:
    from userdisk.backend.iscsi import IscsiUnit

    url = request.rest if request.rest.startswith("iscsi:") else request.spec
    return IscsiUnit(url, **request.remote())


def _spd(request: _Request) -> StorageUnit:
    from userdisk.backend.spd import SpdUnit

    if not request.rest:
        raise UsageError("spd: needs the path of a device's socket, as in spd:/run/disk.sock")
    return SpdUnit(request.rest, **request.remote())


def _class(request: _Request) -> StorageUnit:
    from userdisk import identity
    from userdisk.backend import python

    where, _, name = request.spec.rpartition(":")
    unit = python.create(
        python.import_class(where, name),
        size=request.size,
        parameters={**request.common(), "write_protected": request.read_only or None},
        options=request.options,
    )
    if unit.guid is None and not isinstance(unit._identity, identity.Identity):
        # The options say which disk of the class it is: the same ones, the same disk.
        key = os.path.realpath(where) if where.endswith(".py") else where
        parts = [f"{key}:{name}", *(f"{k}={v}" for k, v in sorted(request.options.items()))]
        identity.identify(unit, identity.named(" ".join(parts)), new_guid=request.new_guid)
    elif request.new_guid:
        raise UsageError(f"{request.spec}: the class sets its guid itself, so it cannot be new")
    return unit


def _guid(request: _Request) -> str | None:
    """The only option that ram, images, devices and exports have."""
    for name in request.options:
        if name != "guid":
            raise UsageError(f"{request.spec}: has no option {name}")
    return request.options.get("guid")


_SCHEMES: Final[Mapping[str, Callable[[_Request], StorageUnit]]] = {
    "ram": _ram,
    "iscsi": _iscsi,  # iscsi://..., also with another iscsi: in front
    # nbd:URI, and a URI as it is
    **dict.fromkeys(
        ("nbd", "nbds", "nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock"),
        _nbd,
    ),
    "spd": _spd,
}
