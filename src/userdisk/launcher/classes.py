"""Classes of disks: NAME.toml says how a kind of disk is started, by whom, and how it is attached.

They are read afresh at each start. A file that is wrong disables that class, and says why.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from userdisk.backend.size import parse_size
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import media, places
from userdisk.launcher.rights import Caller
from userdisk.launcher.spec import Attach, Limits, Policy, Restart, Spec
from userdisk.launcher.template import MAX_ARGUMENTS, Values

_SUFFIX: Final = ".toml"
_LARGEST: Final = 64 << 10  # bytes of a class file
_MAX_CLASSES: Final = 1000

Seconds = Annotated[float, Meta(ge=0, le=86400)]
Words = Annotated[list[str], Meta(max_length=100)]
Size = int | str


class LimitTable(Struct, forbid_unknown_fields=True, frozen=True, rename="kebab"):
    """`[limits]`."""

    memory: Size = 0
    cpu: Annotated[float, Meta(ge=0, le=4096)] = 0.0  #: in processors


class RestartTable(Struct, forbid_unknown_fields=True, frozen=True, rename="kebab"):
    """`[restart]`."""

    when: Restart = Restart.ON_FAILURE
    first_delay: Seconds = 0.2
    longest_delay: Seconds = 30.0
    starts: Annotated[int, Meta(ge=0, le=1_000_000)] = 100
    period: Seconds = 600.0


class AttachTable(Struct, forbid_unknown_fields=True, frozen=True, rename="kebab"):
    """`[attach]`: there is a device if the table is there."""

    mount: str = ""
    mount_options: Words = []
    format: str = ""
    partition: Annotated[int, Meta(ge=0, le=255)] | None = None


class OptionTable(
    Struct, forbid_unknown_fields=True, frozen=True, rename="kebab", omit_defaults=True
):
    """`[options]`: of the unit, as on the command line."""

    size: Size = ""
    block_length: int | str = ""
    physical_block_length: int | str = ""
    read_only: bool = False
    thick: bool = False
    removable: bool = False
    soft_threshold: Annotated[int, Meta(ge=1, le=99)] | None = None
    product_id: str = ""
    product_revision: str = ""
    option: Words = []

    def values(self, fields: Values) -> dict[str, Any]:
        """What is set, by the names of `UnitOptions`."""
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {
            name: [fields.expand(each) for each in value]
            if isinstance(value, list)
            else fields.expand(value)
            if isinstance(value, str)
            else str(value)
            if isinstance(value, int) and not isinstance(value, bool) and name in _SIZES
            else value
            for name, value in found.items()
            if value not in ("", None, False, [])
        }


_SIZES: Final = ("size", "block_length", "physical_block_length")  # are text there


class DiskClass(Struct, forbid_unknown_fields=True, frozen=True, rename="kebab"):
    """A class file. `unit` or `program`, one of them."""

    description: str = ""
    unit: str = ""
    program: Words = []
    speaks: Literal["spd", "nbd"] = "spd"
    options: OptionTable = OptionTable()
    opens: list[Annotated[str, Meta(pattern=r"^\.[^./]+$")]] = []
    directory: str = ""
    environment: dict[str, str] = {}
    user: str = ""
    iscsi: bool = True
    listen: str = "127.0.0.1"
    target: str = ""
    chap_file: str = ""
    initiators: Words = []
    persistent: bool = False
    may_start: Words = []
    may_stop: Words = []
    may_query: Words = []
    start_timeout: Seconds = 60.0
    stop_timeout: Seconds = 10.0
    log_size: Size = "1M"
    limits: LimitTable = LimitTable()
    restart: RestartTable = RestartTable()
    attach: AttachTable | None = None

    def check(self) -> None:
        """Raise `UsageError` for what the types cannot say."""
        if bool(self.unit) == bool(self.program and self.program[0]):
            raise UsageError("it needs a unit or a program, one of them")
        _bytes("limits.memory", self.limits.memory)
        _bytes("log-size", self.log_size)
        _listen(self.listen)
        if self.attach is not None and self.attach.format:
            from userdisk.attach.filesystem import FORMATS

            if self.attach.format not in FORMATS:
                raise UsageError(
                    f"attach.format {self.attach.format!r}: must be one of {', '.join(FORMATS)}"
                )
        if self.attach is not None and self.attach.format and not self.attach.mount:
            raise UsageError("attach.format: only what is mounted is formatted; give attach.mount")

    def spec(self, class_: str, name: str, arguments: list[str], caller: Caller) -> Spec:
        """What the shim of an instance is given. Raises `UsageError`."""
        if len(arguments) > MAX_ARGUMENTS:
            raise UsageError(f"{len(arguments)} arguments: {MAX_ARGUMENTS} at most")
        if any("\0" in text for text in (name, *arguments)):
            raise UsageError("arguments: cannot have a NUL in them")
        fields = {"n": name, "c": class_, "u": caller.name, "h": caller.home}
        values = Values(arguments, fields | {"l": media.label(name)})
        host, port = _listen(self.listen)
        attach = self.attach
        found = Spec(
            class_,
            name,
            places.instance_id(class_, name),
            unit=values.expand(self.unit),
            arguments=tuple(arguments),
            speaks=self.speaks,
            options=self.options.values(values),
            directory=values.expand(self.directory),
            environment={key: values.expand(text) for key, text in self.environment.items()},
            user=values.expand(self.user),
            limits=Limits(_bytes("limits.memory", self.limits.memory), self.limits.cpu),
            policy=Policy(
                self.restart.when,
                self.restart.first_delay,
                self.restart.longest_delay,
                self.restart.starts,
                self.restart.period,
            ),
            start_timeout=max(self.start_timeout, 0.1),
            stop_timeout=self.stop_timeout,
            log_bytes=_bytes("log-size", self.log_size),
            host=host,
            port=port,
            iscsi=self.iscsi,
            target=values.expand(self.target),
            chap_file=self.chap_file,
            initiators=tuple(self.initiators),
            attach=Attach()
            if attach is None
            else Attach(
                True,
                _mount(values, attach.mount, class_, name),
                tuple(attach.mount_options),
                attach.format,
                attach.partition,
                caller.uid,
            ),
            persistent=self.persistent,
            started_by=caller.uid,
        )
        found = replace(found, program=values.words(self.program))  # last, as it takes the rest
        values.check_all_used()
        return found


def names() -> list[str]:
    """All classes, also those whose file is wrong."""
    return sorted(dict.fromkeys(path.name.removesuffix(_SUFFIX) for path in _files()))


def load(name: str) -> DiskClass:
    """Read a class. Raises `UsageError` if there is none, `UserdiskError` if its file is wrong."""
    places.instance_id(name, "x")  # refuses what is no name of a class
    path = places.classes_folder() / f"{name}{_SUFFIX}"
    try:
        with open(path, "rb") as file:
            _check_owner(path, os.fstat(file.fileno()))
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        known = ", ".join(names()[:20]) or "none"
        raise UsageError(f"class {name}: there is no {path} (classes there: {known})") from None
    except OSError as error:
        raise UserdiskError(f"class {name}: {path}: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise UserdiskError(f"class {name}: {path}: it is longer than {_LARGEST >> 10} KiB")
    try:
        found = msgspec.toml.decode(content, type=DiskClass)
        found.check()
    except (msgspec.DecodeError, UsageError, UnicodeDecodeError, RecursionError) as error:
        raise UserdiskError(f"class {name}: {path}: {_in_words(str(error))}") from None
    return found


_TABLES: Final = {
    "options": OptionTable,
    "limits": LimitTable,
    "restart": RestartTable,
    "attach": AttachTable,
}


def _in_words(said: str) -> str:
    """What msgspec says of a file, for who wrote it."""
    said = said.replace(" - at `$.", " at `").replace("\n", " ")
    unknown = re.fullmatch(r"Object contains unknown field `([^`]*)`( at `([^`]*)`)?", said)
    if unknown is None:
        return said
    key, _, table = unknown.groups()
    places = [f"[{each}]" for each, kind in _TABLES.items() if key in kind.__struct_encode_fields__]
    if key in DiskClass.__struct_encode_fields__:
        places.append("the top of the file")
    where = f" in [{table}]" if table else ""
    hint = f"; it belongs to {' or '.join(places)}" if places else ""
    return f"there is no key {key}{where}{hint}"


def _files() -> Iterator[Path]:
    try:
        found = sorted(places.classes_folder().iterdir())[:_MAX_CLASSES]
    except OSError:
        return
    yield from (path for path in found if path.suffix == _SUFFIX and path.name != _SUFFIX)


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Nobody else may say what this user's service starts."""
    if status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022:
        raise UserdiskError(
            f"class {path.stem}: {path}: must belong to root or the launcher's user, and nobody"
            " else may write it"
        )


def _mount(values: Values, text: str, class_: str, name: str) -> str:
    """The folder to mount on: what users choose freely cannot lead elsewhere."""
    plain = places.instance_id(class_, name).removeprefix(f"{class_}.")
    path = Values((), {**values.names, "n": plain}).expand(text)
    if path and not os.path.isabs(path):
        raise UsageError(f"attach.mount {path!r}: must be an absolute path")
    return media.unused(path) if "%l" in text else path  # many images have one name


def _bytes(what: str, size: Size) -> int:
    if isinstance(size, int):
        if size < 0:
            raise UsageError(f"{what} {size}: must not be negative")
        return size
    try:
        return parse_size(size)
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from None


def _listen(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::([0-9]{1,5}))?", text)
    if match is None or int(match[3] or 0) > 65535:
        raise UsageError(f"listen {text!r}: write it as ADDRESS[:PORT]")
    return match[1] or match[2], int(match[3] or 0)
