"""What a desktop is told, piece by piece: the table of files that installing writes.

A file that is wholly ours says so in a remark. Without the remark it is somebody else's, and stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from userdisk.desktop import desktop_entry, mime_types, mimeapps, thunar
from userdisk.desktop.places import Places

REMARK: Final = "written by `userdisk desktop install`; `userdisk desktop uninstall` removes it"
OPENER: Final = "userdisk-open.desktop"

_NAME: Final = "Mount disk image"
_EJECT: Final = "Eject disk image"
_EJECT_COMMENT: Final = "Unmount a disk image and write what is not written yet"
#: What the Eject action is shown on: the folder of a disk, and its image.
_EJECT_TYPES: Final = ("inode/directory", "inode/mount-point", *mime_types.TYPES)


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file that is wholly ours."""

    what: str
    path: Path
    text: str
    mode: int = 0o644
    keep: bool = False  #: what somebody has changed in it stays


@dataclass(frozen=True, slots=True)
class Default:
    """Our lines of mimeapps.list."""

    path: Path
    what: str = "the default application"

    def has(self, text: str) -> bool:
        """Whether all is there."""
        return mimeapps.is_default(text, mime_types.TYPES, OPENER)

    def added(self, text: str) -> str:
        """The file's text with our part."""
        return mimeapps.with_default(text, mime_types.TYPES, OPENER)

    def removed(self, text: str) -> str:
        """The file's text without our part; empty if the file need not be there."""
        return mimeapps.without(text, OPENER)


@dataclass(frozen=True, slots=True)
class ThunarAction:
    """Our action in Thunar's list. A list that is not there begins as that of the system."""

    path: Path
    command: str
    template: str
    what: str = "Eject in Thunar"

    def has(self, text: str) -> bool:
        """Whether it is there."""
        return thunar.has_action(text, self.command)

    def added(self, text: str) -> str:
        """The file's text with our part."""
        return thunar.with_action(text or self.template, _EJECT, _EJECT_COMMENT, self.command)

    def removed(self, text: str) -> str:
        """The file's text without our part; empty if the file need not be there."""
        left = thunar.without_action(text)
        bare = thunar.without_action(thunar.with_action("", "", "", ""))
        return "" if left in (self.template, bare) else left


Shared = Default | ThunarAction  #: pieces of files that are not ours


def own_files(places: Places, program: Sequence[str], extensions: Sequence[str]) -> list[OwnFile]:
    """The files that are wholly ours. `program` starts userdisk."""
    data = places.data
    eject = desktop_entry.exec_value([*program, "desktop", "eject", "--"], "%F")
    action = {"Name": _EJECT, "Icon": "media-eject", "Exec": eject}
    found = [
        OwnFile(
            "the type of disk images",
            mime_types.package(data),
            mime_types.xml(extensions, REMARK),
        ),
        OwnFile("the opener", data / "applications" / OPENER, _opener(program, action)),
        OwnFile(
            "Eject in Dolphin",
            data / "kio" / "servicemenus" / "userdisk-eject.desktop",
            desktop_entry.entry(
                {
                    "Desktop Entry": {
                        "Type": "Service",
                        "X-KDE-ServiceTypes": "KonqPopupMenu/Plugin",
                        "MimeType": desktop_entry.strings(_EJECT_TYPES),
                        "Actions": "eject;",
                    },
                    "Desktop Action eject": action,
                },
                REMARK,
            ),
            0o755,  # Dolphin runs only what is executable
        ),
        OwnFile(
            "Eject in PCManFM",
            data / "file-manager" / "actions" / "userdisk-eject.desktop",
            desktop_entry.entry(
                {
                    "Desktop Entry": {
                        "Type": "Action",
                        "Name": _EJECT,
                        "Icon": "media-eject",
                        "Profiles": "eject;",
                    },
                    "X-Action-Profile eject": {
                        "MimeTypes": desktop_entry.strings(_EJECT_TYPES),
                        "Exec": eject,
                    },
                },
                REMARK,
            ),
        ),
    ]
    if not places.system:  # Nautilus looks for scripts in the home folder only
        found.append(
            OwnFile(
                "Eject in Nautilus",
                data / "nautilus" / "scripts" / _EJECT,
                _nautilus(program),
                0o755,
            )
        )
    return found


def image_class(folder: Path) -> OwnFile:
    """The class of disks that opens images, for the system's launcher.

    The unit's process has the rights of whoever opens the image, and so reads nobody else's files;
    what is mounted has no programs that give other rights, and no devices.
    """
    extensions = ", ".join(f'"{each}"' for each in mime_types.EXTENSIONS)
    text = (
        f"# {REMARK}, if nothing was changed\n"
        'description = "Disk images that are opened in a file manager"\n'
        'unit = "%1"\n'
        'user = "%u"\n'
        f"opens = [{extensions}]\n"
        'may-start = ["*"]\n'
        "iscsi = false\n"
        "\n"
        "[attach]\n"
        'mount = "/run/media/%u/%l"\n'
        'mount-options = ["nosuid", "nodev"]\n'
    )
    return OwnFile("the class of disks", folder / "image.toml", text, keep=True)


def thunar_action(places: Places, program: Sequence[str], template: str) -> ThunarAction:
    """Our action in the user's list of Thunar."""
    words = [thunar.shell_word(word) for word in (*program, "desktop", "eject", "--")]
    return ThunarAction(places.config / "Thunar" / "uca.xml", " ".join([*words, "%F"]), template)


def default(places: Places) -> Default:
    """Our lines of the user's, or the system's, mimeapps.list."""
    return Default(places.config / "mimeapps.list")


def _opener(program: Sequence[str], eject: dict[str, str]) -> str:
    return desktop_entry.entry(
        {
            "Desktop Entry": {
                "Type": "Application",
                "Name": _NAME,
                "Comment": "Mount disk images with userdisk and show what is on them",
                "Icon": "drive-harddisk",
                "TryExec": desktop_entry.string(program[0]),
                "Exec": desktop_entry.exec_value([*program, "open", "--"], "%F"),
                "Terminal": "false",
                "NoDisplay": "true",
                "MimeType": desktop_entry.strings(mime_types.TYPES),
                "Actions": "eject;",
            },
            "Desktop Action eject": eject,
        },
        REMARK,
    )


def _nautilus(program: Sequence[str]) -> str:
    words = " ".join("'" + word.replace("'", "'\\''") + "'" for word in program)
    return (
        "#!/bin/sh\n"
        f"# {REMARK}\n"
        "# Nautilus gives the selected files as arguments, relative to its folder.\n"
        f'exec {words} desktop eject -- "$@"\n'
    )
