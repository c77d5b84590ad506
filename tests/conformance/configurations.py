"""The run matrix: the disks that the suite is run against, as data.

Each is a `userdisk serve` of its own. Between them every test of the suite finds the disk that it
asks for: block lengths, thin and thick, removable, write protected, several ports ...
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

#: name -> CHAP secret, for the configurations with a user. Two names look like binary values.
USERS = {"0xuser": "hex-secret-12", "0buser": "base64-secret", "alice": "plain-secret-1"}


@dataclass(frozen=True, slots=True)
class Configuration:
    """A served disk. `{folder}` in `unit` is an empty folder of the configuration's own."""

    number: str
    name: str
    what: str  #: for people
    unit: str
    options: tuple[str, ...] = ()
    listen: tuple[str, ...] = ("127.0.0.1:0",)  #: the suite gets a URL for each
    user: str | None = None
    suite: tuple[str, ...] = ()  #: options for the suite
    kept_from_writing: tuple[str, ...] = ()  #: patterns of SUITE.TEST that run without -d

    def may_lose_data(self, test: str) -> bool:
        """Whether the suite is told, by its option -d, that SUITE.TEST may write to the disk."""
        return not any(fnmatchcase(test, pattern) for pattern in self.kept_from_writing)

    def __str__(self) -> str:
        return f"{self.number} {self.name}"


_512E = ("--physical-block-length", "4096")
_UNITS = "tests/conformance/units.py"

#: The tests that write to the disk, or unmap, and that ask first whether they may lose data. The
#: others that ask for -d do not change a block: their commands are refused whatever the disk, or
#: are about persistent reservations, mode pages and such.
_WRITING = (
    "CompareAndWrite.* ExtendedCopy.Simple ExtendedCopy.ValidTgtDescr GetLBAStatus.UnmapSingle"
    " OrWrite.[!P]* ReceiveCopyResults.CopyStatus Unmap.* Write1?.[!W]* WriteSame1?.[!W]*"
    " WriteVerify1?.[!WD]* iSCSIResiduals.Write* iSCSITMF.*"
)

CONFIGURATIONS = (
    Configuration("1", "512n", "512-byte blocks, thin", "ram:64M"),
    Configuration(
        "2",
        "512e",
        "512-byte blocks on a medium of 4096, thin; an image file",
        "{folder}/disk.img",
        ("--size", "64M", *_512E),
    ),
    Configuration(
        "3",
        "4Kn",
        "4096-byte blocks, thin; an image file",
        "{folder}/disk.img",
        ("--size", "1G", "--block-length", "4096"),
    ),
    Configuration("4", "thick", "512e, no unmap", "ram:64M", ("--thick", *_512E)),
    Configuration("5", "removable", "512e, thin, removable", "ram:64M", ("--removable", *_512E)),
    Configuration(
        "6",
        "protected",
        "512e, write protected",
        "ram:64M",
        ("--read-only", *_512E),
        kept_from_writing=tuple(_WRITING.split()),
    ),
    Configuration("7a", "CHAP 0x", "512e, thin, CHAP user 0xuser", "ram:64M", _512E, user="0xuser"),
    Configuration("7b", "CHAP 0b", "512e, thin, CHAP user 0buser", "ram:64M", _512E, user="0buser"),
    Configuration("7c", "CHAP", "512e, thin, CHAP user alice", "ram:64M", _512E, user="alice"),
    Configuration(
        "8",
        "two paths",
        "512e, thin, two portals of one group",
        "ram:64M",
        _512E,
        listen=("127.0.0.1:0", "127.0.0.1:0"),
    ),
    Configuration(
        "9",
        "complete",
        "512e, thin, can erase, crypto erase and write atomically; -S",
        f"{_UNITS}:Complete",
        ("--size", "40M", *_512E),
        suite=("-S",),
    ),
    Configuration(
        "10",
        "two groups",
        "512e, thin, two portals in two target port groups",
        "ram:64M",
        _512E,
        listen=("127.0.0.1:0,1", "127.0.0.1:0,2"),
    ),
    Configuration(
        "11",
        "3 TiB",
        "512e, thin, 3 TiB (more than 2^32 blocks); a sparse image file",
        "{folder}/disk.img",
        ("--size", "3T", *_512E),
    ),
)

BY_NAME = {configuration.name: configuration for configuration in CONFIGURATIONS}
