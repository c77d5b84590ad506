"""What stgtest's journal says was flushed is on the medium: every crash, replayed and verified.

In the guest: images on media under dm-log-writes, the server over them, stgtest over iSCSI and NBD.
On the host: each log is replayed to every mark, flush and FUA write, the file system recovers, and
the image is verified against the journal, cut off where the crash came.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.guest.logged_media import QUIET, REPOSITORY, LoggedMedium, kill_server, serve
from tests.guest.session import Guest
from tests.kit.requires import requires
from userdisk.stgtest import journal
from userdisk.stgtest.journal import DONE, FAILED, Step, Writer
from userdisk.stgtest.targets import Wishes, open_port
from userdisk.stgtest.verify import verify

pytestmark = [
    pytest.mark.timeout(420),
    requires("dmsetup", "losetup", "mkfs.ext4", "e2fsck", "debugfs"),
]

NAME = "iqn.2026-11.test:stgtest-crash"
PORTAL, NBD = "127.0.0.1:3260", "127.0.0.1:10809"
FLUSHES = 16
FOLDER = "/run/stgtest"
UNITS = Path(__file__).with_name("stgtest_units.py")
MEDIA = {
    name: LoggedMedium(f"stgtest_{name}", f"{FOLDER}/{name}", size=16 << 20, image_size=1 << 20)
    for name in ("iscsi", "nbd", "nosync", "lies")
}
SERVED = {
    "iscsi": (MEDIA["iscsi"].image, f"iscsi://{PORTAL}/{NAME}/0"),
    "nbd": (MEDIA["nbd"].image, f"nbd://{NBD}/nbd"),
    "nosync": (f"{UNITS}:NoFdatasync", f"iscsi://{PORTAL}/{NAME}/2"),
    "lies": (f"{UNITS}:FlushLies", f"nbd://{NBD}/lies"),
}


@pytest.fixture(scope="module")
def runs(guest: Guest, guest_share: Path) -> Iterator[Path]:
    """A folder with the log and the journal of each medium."""
    folder = guest_share / "stgtest"
    folder.mkdir()
    guest.check(QUIET)
    try:
        for medium in MEDIA.values():
            medium.set_up(guest)
        _serve(guest)
        workload = [sys.executable, "-m", "tests.guest.stgtest_workload", str(FLUSHES), FOLDER]
        for name, (_, target) in SERVED.items():
            workload += [target, MEDIA[name].name]
        guest.check(f"cd {REPOSITORY} && DM_DISABLE_UDEV=1 {shlex.join(workload)}", 240)
    finally:
        kill_server(guest, FOLDER)
        for medium in MEDIA.values():
            medium.tear_down(guest)
    for name, medium in MEDIA.items():
        log, record = folder / f"{name}.log", folder / f"{name}.journal"
        medium.copy_log(guest, log)
        guest.check(f"cp {FOLDER}/{medium.name}.journal {record}; sync {record}")
    guest.check(f"rm -r {FOLDER}")
    yield folder
    shutil.rmtree(folder)


def _serve(guest: Guest) -> None:
    arguments = [unit for unit, _ in SERVED.values()]
    arguments += ["--name", NAME, "--listen", PORTAL, "--nbd", NBD]
    for name in SERVED:
        arguments += ["--export", name]
    serve(guest, arguments, FOLDER, NBD)


def _cut(path: Path, flushes: int) -> Path:
    """The journal for a crash between that flush's acknowledgement and the next one's.

    What begins in between may be on the medium; what ends there proves nothing yet.
    """
    record = journal.read(str(path))
    kept: list[Step] = []
    begun: set[int] = set()
    seen = 0
    for step in record.steps():
        ends = step.kind in (DONE, FAILED)
        if step.kind == "F":
            begun.add(step.number)
        if seen < flushes or not ends:
            kept.append(step)
        if step.kind == DONE and step.number in begun:
            seen += 1
            if seen > flushes:
                break
    cut = path.with_suffix(f".{flushes}")
    cut.unlink(missing_ok=True)
    writer = Writer(str(cut), record.head)
    writer.add(kept)
    writer.close()
    return cut


def _problems(path: Path, image: Path, flushes: int | None) -> list[str]:
    port = open_port(str(image), Wishes(20))
    try:
        return verify(str(path), port, str(image), 20, flushes=flushes).problems
    finally:
        port.close()


def _crash_everywhere(
    runs: Path, name: str, folder: Path, *, between: bool
) -> tuple[int, Mapping[int, list[str]]]:
    """Replay to every mark, and every flush and FUA write `between` them.

    How many crashes there were, and what was wrong, by the flushes acknowledged before.
    """
    medium, path = MEDIA[name], runs / f"{name}.journal"

    crashes = 0
    wrong: dict[int, list[str]] = {}
    for marks, mark, crashed in medium.crashes(runs / f"{name}.log", folder, FLUSHES + 1):
        if mark:
            problems = _problems(path, medium.recover(crashed), marks - 1)
        elif between:
            problems = _problems(_cut(path, marks - 1), medium.recover(crashed), None)
        else:
            continue
        crashes += 1
        if problems:
            wrong.setdefault(marks - 1, []).extend(problems)
    return crashes, wrong


@pytest.mark.parametrize("name", ["iscsi", "nbd"])
def test_every_crash_leaves_what_was_flushed(runs: Path, tmp_path: Path, name: str) -> None:
    crashes, wrong = _crash_everywhere(runs, name, tmp_path, between=True)
    assert wrong == {}
    assert crashes > FLUSHES + 1


@pytest.mark.parametrize("name", ["nosync", "lies"])
def test_a_disk_that_does_not_sync_is_found_out(runs: Path, tmp_path: Path, name: str) -> None:
    _, wrong = _crash_everywhere(runs, name, tmp_path, between=False)
    assert FLUSHES in wrong
    assert len(wrong) > FLUSHES // 2
    assert all(" holds " in problem for problems in wrong.values() for problem in problems)
