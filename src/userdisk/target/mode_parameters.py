"""The mode parameters of a logical unit: current, default and saved values (SPC-5 6.12, 7.5).

SWP refuses what writes, D_SENSE is the format of sense data, and without WCE every write is on the
medium before it is answered. They are changed with nobody in the unit: the cache is flushed first
if it is switched off or the unit becomes protected, then what is to be saved is saved, then every
command sees the new values. A reset goes back to the saved values, or the default ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from userdisk.errors import HardwareError, UsageError, UserdiskError
from userdisk.operation import Exclusive, Kind, Operation, Sequel
from userdisk.scsi import mode, sense
from userdisk.scsi.sense import Asc
from userdisk.target.aspect import Aspect
from userdisk.target.command import CheckCondition, Command, Completion
from userdisk.target.mode_pages import MODE_PAGES, ModePage
from userdisk.target.row import Flags, Row

if TYPE_CHECKING:
    from userdisk.scsi.fields import Value
    from userdisk.target.logical_unit import LogicalUnit, Saved
    from userdisk.target.nexus import Nexus, Path

#: Page name -> field name -> value, of changeable fields.
Values: TypeAlias = Mapping[str, Mapping[str, int]]

_SAVED_AS = "mode_parameters"
_CACHING, _CONTROL = mode.CACHING.name, mode.CONTROL.name


class ModeParameters(Aspect):
    """The values that initiators may change, and what they do.

    Raises UsageError for saved values that are none.
    """

    def __init__(self, lu: LogicalUnit) -> None:
        self._lu = lu
        self.default: Values = {
            page.layout.name: {
                name: page.default(lu).get(name, 0)
                for name, may_change in page.changeable.items()
                if may_change(lu)
            }
            for page in MODE_PAGES
        }
        self.saved: Values = _restored(lu.saved, self.default)
        self.current: Values = self.saved
        self._take(self.saved)

    @property
    def durable(self) -> bool:
        """Values can be saved."""
        return self._lu.saved.path is not None

    def encode(self, page: ModePage, control: int) -> bytes:
        """A mode page with the values that PAGE CONTROL asks for."""
        name, layout = page.layout.name, page.layout
        may_change = self.default[name]
        header: dict[str, Value] = {"PS": int(self.durable and bool(may_change))}
        if control == mode.CHANGEABLE:
            bits = {field.name: field.bits for field in layout.fields}
            return layout.encode(header | {each: (1 << bits[each]) - 1 for each in may_change})
        chosen = {mode.CURRENT: self.current, mode.SAVED: self.saved}.get(control, self.default)
        return layout.encode(header | dict(page.default(self._lu)) | dict(chosen[name]))

    def differ(self, wanted: Values) -> bool:
        """Whether some of these values are not the current ones."""
        return _merged(self.current, wanted) != self.current

    def change(self, wanted: Values, nexus: Nexus, *, save: bool) -> Sequel:
        """Make these values current, and save all of them; the other nexuses are told.

        The steps of an `Exclusive`. When one of them fails, nothing has changed.
        """
        lu, new = self._lu, _merged(self.current, wanted)
        if not lu.parameters.write_protected and _restrict(self.current, new):
            yield Operation(Kind.FLUSH)
        if save:
            try:
                lu.saved.save(_SAVED_AS, {name: values for name, values in new.items() if values})
            except UserdiskError as error:
                raise HardwareError(str(error)) from None
            self.saved = new
        if new != self.current:
            lu.establish(Asc.MODE_PARAMETERS_CHANGED, but=nexus)  # told before it is felt
            self._take(new)
            lu.refresh()

    def _take(self, new: Values) -> None:
        lu, control = self._lu, new[_CONTROL]
        self.current = new
        lu.write_protected = lu.parameters.write_protected or bool(control["SWP"])
        lu.descriptor_sense = bool(control["D_SENSE"])
        if self._writes_through:
            lu.gate.write_through.add(lu)
        else:
            lu.gate.write_through.discard(lu)

    @property
    def _writes_through(self) -> bool:
        return not self.current[_CACHING].get("WCE", 1)  # what has no cache need not be told

    # -- what commands feel --------------------------------------------------------------------

    def restrains(self, path: Path) -> bool:
        """While writes are refused or have FUA, they do not go past the gate."""
        return bool(self.current[_CONTROL]["SWP"]) or self._writes_through

    def check(self, row: Row, command: Command) -> Completion | None:
        """Refuse what writes, if an initiator has set SWP."""
        if self.current[_CONTROL]["SWP"] and Flags.WRITES in row.flags:
            raise CheckCondition(sense.software_write_protected())
        return None

    def reset(self) -> None:
        """Back to the saved values. What the cache holds goes to the medium soon."""
        flush = _restrict(self.current, self.saved)
        self._take(self.saved)
        if flush and not self._lu.parameters.write_protected:
            self._lu.gate.call(Exclusive(self._flush), wait=False)

    def _flush(self) -> Sequel:
        """After the last batch that knew nothing of the new values."""
        self._lu.refresh()
        yield Operation(Kind.FLUSH)


def _merged(values: Values, wanted: Values) -> Values:
    return {name: {**known, **wanted.get(name, {})} for name, known in values.items()}


def _restrict(old: Values, new: Values) -> bool:
    """Whether the cache is switched off or the unit becomes protected: it is flushed first."""
    return new[_CACHING].get("WCE", 1) < old[_CACHING].get("WCE", 1) or (
        new[_CONTROL]["SWP"] > old[_CONTROL]["SWP"]
    )


# -- what was saved ----------------------------------------------------------------------------


def _restored(saved: Saved, default: Values) -> Values:
    """The saved values; those of fields that cannot be changed any more do not count."""
    found = saved.get(_SAVED_AS)
    if found is None:
        return default
    try:
        return {
            name: {field: values.get(field, known[field]) for field in known}
            for name, known in default.items()
            for values in (_checked(found).get(name, {}),)
        }
    except ValueError as error:
        raise UsageError(
            f"{saved.path}: its mode parameters are not valid ({error}): restore the file, or"
            f' remove "{_SAVED_AS}" from it'
        ) from None


def _checked(found: object) -> Values:
    """`found`, if it is what is saved; raises ValueError."""
    if not isinstance(found, dict):
        raise ValueError(f"not an object but {found!r}")
    known = {page.layout.name: page for page in MODE_PAGES if page.changeable}
    for name, values in found.items():
        if name not in known:
            raise ValueError(f"there is no page {name!r}")
        if not isinstance(values, dict):
            raise ValueError(f"{name}: not an object but {values!r}")
        bits = {field.name: field.bits for field in known[name].layout.fields}
        for field, value in values.items():
            if field not in known[name].changeable:
                raise ValueError(f"{name}: there is no {field!r}")
            if type(value) is not int or not 0 <= value < 1 << bits[field]:
                raise ValueError(f"{name}: {field} cannot be {value!r}")
    return found
