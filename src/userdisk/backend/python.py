"""A user's own class as a disk: `module:Class` or `path/file.py:Class`, imported and created."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NoReturn

from userdisk.backend.size import parse_size
from userdisk.errors import UsageError
from userdisk.unit import StorageUnit

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")

#: What a class may be given although its __init__ does not take it: it is set afterwards.
_SETTABLE = (
    "write_protected",
    "product_id",
    "product_revision",
    "removable",
    "unmap_supported",
    "soft_threshold",
)

#: How the options are called on the command line.
_OPTION_NAMES = {
    "block_length": "--block-length",
    "physical_block_length": "--physical-block-length",
}


def import_class(where: str, name: str) -> type[StorageUnit]:
    """The class `name` in a module or a `.py` file.

    Runs the module's code. Raises `UsageError`: no such module or class, one that is not a
    `StorageUnit`, or code that raises (with the line).
    """
    module = _import_file(where) if _is_file(where) else _import_module(where)
    found = getattr(module, name, None)
    if found is None:
        classes = _classes(module)
        hint = f"; it has {', '.join(classes)}" if classes else ""
        raise UsageError(f"{where}: has no class {name}{hint}")
    if not inspect.isclass(found):
        raise UsageError(f"{where}: {name} is not a class")
    if not issubclass(found, StorageUnit):
        raise UsageError(f"{where}: class {name} is not a subclass of userdisk.StorageUnit")
    return found


def create(
    kind: type[StorageUnit],
    *,
    size: int | None = None,
    parameters: Mapping[str, Any],
    options: Mapping[str, str],
) -> StorageUnit:
    """Call the class with what its __init__ takes.

    `size`, in bytes, is given as `block_count` (or `size`, if that is what it takes); `options`
    are converted to the type that the argument is annotated with. Raises `UsageError`, naming
    what the class does not take or still needs, and the line where its __init__ raised.
    """
    takes = _takes(kind)
    given: dict[str, Any] = {}
    later: dict[str, Any] = {}
    for name, value in parameters.items():
        if value is None:
            continue
        if takes(name):
            given[name] = value
        elif name in _SETTABLE:
            later[name] = value
        else:
            raise UsageError(
                f"{kind.__name__} does not take {_OPTION_NAMES.get(name, name)}:"
                f" its __init__ has no {name}"
            )
    if size is not None:
        given.update(_size_argument(kind, takes, size, parameters.get("block_length")))
    annotations = _annotations(kind)
    for name, text in options.items():
        if not takes(name):
            raise UsageError(f"{kind.__name__} has no option {name}")
        given[name] = _convert(
            f"option {name}", text, annotations.get(name, inspect.Parameter.empty)
        )
    _check_call(kind, given)
    try:
        unit = kind(**given)
        unit.parameters  # noqa: B018 - checks them, also when __init__ did not
        if later:
            for name, value in later.items():
                setattr(unit, name, value)
            unit.identify(unit.parameters.guid)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        path = getattr(sys.modules.get(kind.__module__), "__file__", None)
        _refuse(f"{kind.__name__} cannot be created", error, path)
    if size is not None and unit.parameters.size != size:
        raise UsageError(
            f"{kind.__name__} made a disk of {unit.parameters.size} bytes instead of --size {size}"
        )
    return unit


# -- importing ---------------------------------------------------------------------------------


def _is_file(where: str) -> bool:
    return where.endswith(".py") or os.sep in where


def _import_file(path: str) -> ModuleType:
    full = os.path.realpath(path)
    # A name that no other module has, and the same for two units of one file.
    digest = hashlib.sha256(full.encode(errors="surrogateescape")).hexdigest()[:8]
    name = f"{os.path.splitext(os.path.basename(full))[0]}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    if not os.path.isfile(full):
        raise UsageError(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(name, full)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: is not a Python file")
    module = importlib.util.module_from_spec(spec)
    _look_in(os.path.dirname(full))  # as for a script: it may import its neighbours
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        _refuse(f"{path}: cannot be imported", error, full)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    _look_in(os.getcwd())  # as `python -m` does
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            raise UsageError(
                f"{name}: there is no such module here or among the installed packages"
            ) from None
        _refuse(f"{name}: cannot be imported", error, None)
    except (Exception, SystemExit) as error:
        _refuse(f"{name}: cannot be imported", error, None)


def _look_in(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _classes(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, StorageUnit)
        and value.__module__ == module.__name__
    ]


def _refuse(what: str, error: BaseException, path: str | None) -> NoReturn:
    """One line: what, which line of the user's code, and why."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    reason = " ".join(reason.split())
    where = ""
    if isinstance(error, SyntaxError) and error.lineno:
        reason = f"{type(error).__name__}: {error.msg}"
        where = f"{os.path.basename(error.filename or '?')} line {error.lineno}: "
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if path and frame.filename == path]
        if own or frames:
            frame = (own or frames)[-1]
            if not frame.filename.startswith("<") and frame.filename != __file__:
                where = f"{os.path.basename(frame.filename)} line {frame.lineno}: "
    raise UsageError(f"{what}: {where}{reason}") from None


# -- creating ----------------------------------------------------------------------------------


def _takes(kind: type[StorageUnit]) -> Callable[[str], bool]:
    """Whether the class' __init__ takes an argument by that name."""
    found = inspect.signature(kind).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in found):
        return lambda name: True
    names = {
        each.name for each in found if each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)
    }
    return names.__contains__


def _size_argument(
    kind: type[StorageUnit], takes: Callable[[str], bool], size: int, block_length: int | None
) -> dict[str, int]:
    if takes("block_count"):
        length = block_length or _default(kind, "block_length") or kind.block_length
        if length <= 0 or size % length:
            raise UsageError(f"size {size} is not a multiple of the block length, {length}")
        return {"block_count": size // length}
    if takes("size"):
        return {"size": size}
    raise UsageError(
        f"{kind.__name__} does not take --size: its __init__ has neither block_count nor size"
    )


def _check_call(kind: type[StorageUnit], given: Mapping[str, Any]) -> None:
    for each in inspect.signature(kind).parameters.values():
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) or each.name in given:
            continue
        if each.default is each.empty:
            if each.kind is each.POSITIONAL_ONLY:
                raise UsageError(
                    f"{kind.__name__} cannot be created: {each.name} cannot be given by its name"
                )
            how = "--size" if each.name in ("size", "block_count") else f"--option {each.name}=..."
            raise UsageError(f"{kind.__name__} needs {each.name}: give it with {how}")


def _annotations(kind: type[StorageUnit]) -> dict[str, object]:
    try:
        found = inspect.signature(kind, eval_str=True)
    except Exception:  # an annotation that only a type checker can evaluate
        found = inspect.signature(kind)
    return {
        name: type(each.default)
        if each.annotation is each.empty and each.default not in (each.empty, None)
        else each.annotation
        for name, each in found.parameters.items()
    }


def _convert(name: str, text: str, annotation: object) -> Any:
    """An option's text as the type that the class wants; text, if that says nothing."""
    wanted = str(annotation) if not isinstance(annotation, type) else annotation.__name__
    kinds = {each.strip() for each in wanted.split("|")}
    if "bool" in kinds:
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise UsageError(f"{name}: must be yes or no, not {text!r}")
    if "int" in kinds and "str" not in kinds:
        try:
            return int(text, 0)
        except ValueError:
            pass
        if "float" not in kinds:
            try:
                return parse_size(text)
            except UsageError:
                raise UsageError(f"{name}: must be a whole number, not {text!r}") from None
    if "float" in kinds and "str" not in kinds:
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"{name}: must be a number, not {text!r}") from None
    return text


def _default(kind: type[StorageUnit], name: str) -> int | None:
    """The default of an argument of the class's __init__, if it is a number."""
    found = inspect.signature(kind).parameters.get(name)
    return found.default if found is not None and isinstance(found.default, int) else None
