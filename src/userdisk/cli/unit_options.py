"""What `userdisk.cli.units` takes on the command line, as a value; without click."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from userdisk.errors import UsageError

if TYPE_CHECKING:
    from userdisk.unit import StorageUnit


@dataclass(frozen=True, slots=True)
class UnitOptions:
    """The values of `SERVED_UNIT_OPTIONS`, as click gives them."""

    size: str | None = None
    block_length: str | None = None
    physical_block_length: str | None = None
    read_only: bool = False
    thick: bool = False
    removable: bool = False
    soft_threshold: int | None = None
    product_id: str | None = None
    product_revision: str | None = None
    new_guid: bool = False
    option: Sequence[str] = ()

    def open(self, spec: str, *, timeout: float | None = None) -> StorageUnit:
        """The unit that `spec` names; it is not opened yet. Raises `UsageError`.

        Blocks as `userdisk.backend.open_unit` does; `timeout` in seconds is for it.
        """
        from userdisk.backend import open_unit, parse_size

        def size(name: str, text: str | None) -> int | None:
            if text is None:
                return None
            try:
                return parse_size(text)
            except UsageError as error:
                raise UsageError(f"--{name}: {error}") from None

        options = {
            "size": size("size", self.size),
            "block_length": size("block-length", self.block_length),
            "physical_block_length": size("physical-block-length", self.physical_block_length),
        }
        pairs = _pairs(self.option)
        try:
            return open_unit(
                spec,
                **options,
                read_only=self.read_only,
                product_id=self.product_id,
                product_revision=self.product_revision,
                removable=self.removable,
                thick=self.thick,
                soft_threshold=self.soft_threshold,
                options=pairs,
                new_guid=self.new_guid,
                timeout=timeout,
            )
        except UsageError as error:
            if spec in str(error):
                raise
            raise UsageError(f"{spec}: {error}") from None


_ISCSI = re.compile(r"(?:iscsi:)?iscsi://[^/]*/([^/?]+)/([0-9]+)")


def unit_name(spec: str) -> str:
    """What a unit is called in messages and default names.

    The last part of a path, the class of `file.py:Class`, the scheme of `ram:1G`, or what is the
    target's own in `iscsi://host/iqn.2026-11.com.example:disk/0`.
    """
    if found := _ISCSI.match(spec):
        target, lun = found.groups()
        name = target.rpartition(":")[2] or target
        return name if lun == "0" else f"{name}-{lun}"
    scheme, colon, rest = spec.rpartition(":")
    if colon and rest.isidentifier():
        return rest
    if scheme == "spd":
        spec = rest
    elif colon and scheme.isidentifier() and len(scheme) > 1:
        return scheme
    return spec.replace("\\", "/").rstrip("/").rpartition("/")[2] or spec


def _pairs(items: Sequence[str]) -> Mapping[str, str]:
    pairs: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"--option {item}: write it as KEY=VALUE")
        if key in pairs:
            raise UsageError(f"--option {key}: given twice")
        pairs[key] = value
    return pairs
