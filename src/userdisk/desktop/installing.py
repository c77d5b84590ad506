"""Installing and removing what a desktop is told.

Theory of operation. Before the first file is written, a record says which folders will be made; it
is removed last. So an interrupted run can be repeated, and removing takes away exactly what
installing added: files with our remark, our parts of shared files, and folders that were not there
before and are empty again.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from userdisk.desktop import files, mime_types, pieces
from userdisk.desktop.pieces import OwnFile, Shared
from userdisk.desktop.places import Places
from userdisk.errors import UserdiskError

_RECORD: Final = "desktop.json"
_SECONDS: Final = 60.0

#: What the tools make beside what they read; worthless without it.
_MIME_DATABASE: Final = (
    "XMLnamespaces", "aliases", "generic-icons", "globs", "globs2", "icons", "magic", "mime.cache",
    "subclasses", "treemagic", "types", "version",
)  # fmt: skip
_APPLICATION_CACHE: Final = "mimeinfo.cache"

State = Literal["installed", "missing", "different", "not ours"]


@dataclass(frozen=True, slots=True)
class Status:
    """One piece as it is now."""

    what: str
    path: Path
    state: State
    optional: bool = False  #: some do without, or have their own

    @property
    def well(self) -> bool:
        """Whether it is as it should be."""
        return self.state == "installed" or (self.optional and self.state != "not ours")


@dataclass(frozen=True, slots=True)
class Installer:
    """Installs and removes for one user, or (places.system) for all.

    `program` starts userdisk: absolute path and arguments. All methods block, and raise
    `UserdiskError` for what cannot be read or written.
    """

    places: Places
    program: Sequence[str]
    extensions: Sequence[str] = ()  #: more endings of images, each with its dot
    classes: Path | None = None  #: where a class that opens images is added, too

    def install(self, *, default: bool = False) -> list[str]:
        """Write everything; returns remarks. `default`: be the first to open the types.

        Nothing is written if a file of one of our names is not ours.
        """
        own = self._own()
        strangers = [each.path for each in own if self._state(each) == "not ours"]
        if strangers:
            raise UserdiskError(f"{strangers[0]} is not userdisk's; move it away first")
        shared = self._shared(default)
        texts = {}
        for piece in shared:
            text = files.read(piece.path) or ""
            try:
                if not text or not piece.has(text):
                    texts[piece] = piece.added(text)
            except UserdiskError as error:
                raise UserdiskError(f"{piece.path}: {error}") from None
        self._remember([piece.path for piece in (*own, *shared)])
        for each in own:
            state = self._state(each)
            if state == "missing" or (state == "different" and not each.keep):
                files.replace(each.path, each.text, each.mode)
        for piece, text in texts.items():
            files.replace(piece.path, text)
        return [*self._update(), *self._skipped()]

    def uninstall(self) -> list[str]:
        """Remove everything that `install` wrote; returns remarks, one for what could not be."""
        remarks = []
        for piece in self._own():
            state = self._state(piece)
            if state == "not ours":
                remarks.append(f"{piece.path} is not userdisk's; left as it is")
            elif state == "different" and piece.keep:
                remarks.append(f"{piece.path} was changed; left as it is")
            elif state != "missing":
                files.remove(piece.path)
        for each in self._shared(True):
            try:
                self._withdraw(each)
            except UserdiskError as error:
                remarks.append(f"{each.path}: {error}")
        remarks += self._update()
        self._forget()
        return remarks

    def status(self) -> list[Status]:
        """Each piece, in the order of installing."""
        found = [Status(each.what, each.path, self._state(each), each.keep) for each in self._own()]
        for piece in self._shared(True):
            text = files.read(piece.path) or ""
            state: State = "missing"
            try:
                if text and piece.has(text):
                    state = "installed"
                elif text and piece.removed(text) != text:
                    state = "different"
            except UserdiskError:
                state = "not ours"
            optional = isinstance(piece, pieces.Default)
            found.append(Status(piece.what, piece.path, state, optional))
        return found

    def _own(self) -> list[OwnFile]:
        folders = [*self.places.other_data, self.places.data]
        before = mime_types.extensions_in(files.read(mime_types.package(self.places.data)) or "")
        # A launcher that does not run now may have classes for what was installed before.
        wanted = [*before, *self.extensions]
        extensions = sorted(mime_types.own_extensions(wanted, folders))
        found = pieces.own_files(self.places, self.program, extensions)
        return found if self.classes is None else [*found, pieces.image_class(self.classes)]

    def _shared(self, default: bool) -> list[Shared]:
        found: list[Shared] = [pieces.default(self.places)] if default else []
        if not self.places.system:  # Thunar reads one list, and the user's is the last
            found.append(pieces.thunar_action(self.places, self.program, self._thunar_template()))
        return found

    def _thunar_template(self) -> str:
        for folder in self.places.other_config:
            if (text := files.read(folder / "Thunar" / "uca.xml")) is not None:
                return text
        return ""

    def _state(self, piece: OwnFile) -> State:
        text = files.read(piece.path)
        if text is None:
            return "missing"
        if pieces.REMARK not in text:
            return "not ours"
        same = text == piece.text and piece.path.stat().st_mode & 0o777 == piece.mode
        return "installed" if same else "different"

    def _withdraw(self, piece: Shared) -> None:
        text = files.read(piece.path)
        if text is None or (left := piece.removed(text)) == text:
            return
        if left:
            files.replace(piece.path, left)
        else:
            files.remove(piece.path)

    def _skipped(self) -> list[str]:
        folders = [*self.places.other_data, self.places.data]
        remarks = [
            f"*{each} stays {kind}: open such files with `userdisk open`"
            for each, kind in mime_types.taken(self.extensions, folders).items()
        ]
        if self.places.system:
            remarks.append(
                "Nautilus and Thunar look for actions in each user's home folder only;"
                " there `userdisk desktop install` adds Eject"
            )
        return remarks

    # -- the databases that desktops read instead of the files

    def _update(self) -> list[str]:
        data = self.places.data
        remarks = []
        for program, folder, source in (
            ("update-mime-database", data / "mime", data / "mime" / "packages"),
            ("update-desktop-database", data / "applications", data / "applications"),
        ):
            if not source.is_dir():
                continue
            if shutil.which(program) is None:
                remarks.append(f"{program} is not installed; run `{program} {folder}` later")
                continue
            try:
                done = subprocess.run(
                    [program, str(folder)],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=_SECONDS,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                remarks.append(f"{program}: {error}")
                continue
            if done.returncode != 0:
                said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
                remarks.append(f"{program}: {said[-1]}")
        return remarks

    # -- the record

    @property
    def _record(self) -> Path:
        return self.places.state / _RECORD

    def _recorded(self) -> list[Path]:
        try:
            folders = json.loads(files.read(self._record) or "{}").get("folders", [])
            return [Path(each) for each in folders]
        except (ValueError, TypeError, AttributeError):
            raise UserdiskError(f"{self._record}: cannot be understood; remove it") from None

    def _remember(self, paths: Sequence[Path]) -> None:
        folders = dict.fromkeys(self._recorded())
        for path in (*paths, self._record):
            folders |= dict.fromkeys(files.missing_folders(path))
        text = json.dumps({"folders": [str(each) for each in folders]}, indent=2) + "\n"
        files.replace(self._record, text)

    def _forget(self) -> None:
        recorded = self._recorded()
        mime = self.places.data / "mime"
        if mime in recorded and not _holds(mime / "packages", ".xml"):
            for name in _MIME_DATABASE:
                files.remove(mime / name)
            if mime.is_dir():
                recorded += [each for each in mime.iterdir() if each.is_dir()]
        applications = self.places.data / "applications"
        if applications in recorded and not _holds(applications, ".desktop"):
            files.remove(applications / _APPLICATION_CACHE)
        _remove_empty([each for each in recorded if each not in self._record.parents])
        files.remove(self._record)
        _remove_empty([self.places.state, *recorded])


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def _holds(folder: Path, suffix: str) -> bool:
    return folder.is_dir() and any(each.suffix == suffix for each in folder.iterdir())
