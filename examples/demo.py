"""The main job, from start to end: a Python class becomes a disk, and gives back every byte.

    make demo                       or: python examples/demo.py [--without-root] [--stay]

With root on Linux: the class of examples/file_disk.py is attached as a block device, formatted and
mounted; this repository is copied in; after detaching and attaching again every byte is compared.
Without root: mke2fs makes the file system, and the disk is written and read over iSCSI.
`make demo STAY=1` then has a launcher keep the disk, and prints the address of its console.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from userdisk.initiator_client import Initiator

ROOT = Path(__file__).resolve().parents[1]
DISK = f"{Path(__file__).with_name('file_disk.py')}:FileDisk"
SKIPPED = {".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
MIB = 1 << 20
BEGAN = time.monotonic()

#: relative path -> SHA-256 of a file, or the target of a symbolic link
Tree = dict[str, str]


class Failed(Exception):
    """A step went wrong; the message is for the person who watches."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGAN:5.1f} s] {text}", flush=True)


def find(program: str) -> str | None:
    return shutil.which(program, path=PATH)


def short(text: str) -> str:
    """Paths without the folders that everything is in."""
    return re.sub(r"/[^ ]*/userdisk-demo-[^/ ]+/", "", text.replace(f"{ROOT}/", ""))


def show_command(command: Sequence[str]) -> None:
    print(f"          $ {short(shlex.join(command))}", flush=True)


def run(*command: str, show: bool = True, accept: Sequence[int] = (0,)) -> str:
    """Show a command and run it; returns its output."""
    if show:
        show_command(command)
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": PATH, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode not in accept:
        raise Failed(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


def show(output: str, *, only: Sequence[str] = ()) -> None:
    """Lines of a command's output; `only` those that begin with one of these words."""
    for line in output.splitlines():
        if line.strip() and (not only or line.strip().startswith(tuple(only))):
            print(f"            {short(line.strip())}", flush=True)


# -- trees -------------------------------------------------------------------------------------


def copy_tree(source: Path, destination: Path) -> tuple[Tree, int]:
    """Copy files and links; returns what was copied, and how many bytes."""
    tree: Tree = {}
    size = 0
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        there = destination / Path(folder).relative_to(source)
        there.mkdir(parents=True, exist_ok=True)
        for name in sorted(
            files + [name for name in folders if (Path(folder) / name).is_symlink()]
        ):
            path = Path(folder) / name
            key = str(path.relative_to(source))
            try:
                if path.is_symlink():
                    tree[key] = f"link to {os.readlink(path)}"
                    os.symlink(os.readlink(path), there / name)
                elif path.is_file():
                    data = path.read_bytes()  # hashed as it was copied: others may edit the tree
                    (there / name).write_bytes(data)
                    tree[key] = hashlib.sha256(data).hexdigest()
                    size += len(data)
            except FileNotFoundError:
                tree.pop(key, None)  # a temporary file that has gone meanwhile
    return tree, size


def compare(tree: Tree, found: Path) -> None:
    """Check that the folder holds exactly the tree. Raises `Failed`, naming what differs."""
    names = set()
    for folder, folders, files in os.walk(found):
        folders[:] = [name for name in folders if name != "lost+found"]
        for name in files + [name for name in folders if (Path(folder) / name).is_symlink()]:
            path = Path(folder) / name
            key = str(path.relative_to(found))
            names.add(key)
            if path.is_symlink():
                is_now = f"link to {os.readlink(path)}"
            else:
                is_now = hashlib.sha256(path.read_bytes()).hexdigest()
            if tree.get(key) != is_now:
                raise Failed(f"{key} differs from what was copied in")
    if names != set(tree):
        raise Failed(f"missing on the disk: {', '.join(sorted(set(tree) - names)[:5])}")


def disk_size(size: int, files: int) -> int:
    """Enough for a file system with so much in it, in whole 32 MiB."""
    return -(-(2 * size + 8192 * files + 32 * MIB) // (32 * MIB)) * 32 * MIB


# -- iSCSI -------------------------------------------------------------------------------------


@contextmanager
def served(image: Path, size: int) -> Iterator[str]:
    """Serve the class while the block runs; gives the URL. Stops it as Ctrl-C does."""
    arguments = [DISK, "--option", f"path={image}", "--size", str(size)]
    command = ["userdisk", "serve", *arguments, "--listen", "127.0.0.1:0"]
    show_command(command)
    server = subprocess.Popen(
        command,
        env={**os.environ, "PATH": PATH, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert server.stdout is not None
    try:
        before = ""
        for line in server.stdout:
            before += line
            if line.startswith("iscsi://"):
                break
        else:
            raise Failed(f"the server did not start\n{before}")
        show(line)
        yield line.split()[0]
        server.send_signal(signal.SIGINT)
        output, _ = server.communicate(timeout=30)
        if server.returncode:
            raise Failed(f"the server ended with {server.returncode}\n{before}{output}")
        show(output[output.rindex("stopping") :] if "stopping" in output else "")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
        server.stdout.close()


def look_at(url: str, image: Path) -> None:
    """Show the disk with programs that are not ours, or with our initiator if there are none."""
    strangers = False
    if find("iscsi-inq"):
        show(run("iscsi-inq", url), only=("Vendor", "Product", "Revision"))
        strangers = True
    if find("qemu-img"):
        output = run("qemu-img", "info", url, accept=(0, 1))
        if "virtual size" in output:
            show(output, only=("virtual size",))
            output = run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), url)
            show(output, only=("Images",))
            strangers = True
    if not strangers:
        say("no other initiator is installed (libiscsi-bin, qemu-block-extra): this is our own")
        with connected(url) as initiator:
            capacity = initiator.capacity()
            print(f"            {capacity.block_count} blocks of {capacity.block_length} bytes")


@contextmanager
def connected(url: str) -> Iterator[Initiator]:
    """Our initiator, logged in."""
    from userdisk.initiator_client import DEFAULT_NAME, Initiator, parse_url
    from userdisk.iscsi.initiator_login import Settings

    where = parse_url(url)
    settings = Settings(DEFAULT_NAME, where.target)
    with Initiator((where.host, where.port), settings, lun=where.lun) as initiator:
        yield initiator


def write_disk(url: str, path: Path) -> None:
    from userdisk.initiator_client import write_image

    with connected(url) as initiator:
        write_image(initiator, str(path), progress=Progress("written", path.stat().st_size))


def read_disk(url: str, path: Path, size: int) -> None:
    from userdisk.initiator_client import read_image

    with connected(url) as initiator:
        read_image(initiator, str(path), progress=Progress("read", size))


class Progress:
    """Says how far a copy is, in quarters."""

    def __init__(self, verb: str, total: int) -> None:
        self._verb, self._total, self._next = verb, total, 1

    def __call__(self, done: int) -> None:
        while self._next <= 4 and done * 4 >= self._next * self._total:
            self._next = done * 4 // self._total + 1
            say(f"{self._verb} {done // MIB} of {self._total // MIB} MiB over iSCSI")


# -- with root ---------------------------------------------------------------------------------


@contextmanager
def attached(image: Path, size: int) -> Iterator[str]:
    """Attach the class as a block device while the block runs; gives the device."""
    arguments = [DISK, "--option", f"path={image}", "--size", str(size)]
    output = run("userdisk", "attach", *arguments)
    device = next(word for word in output.split() if word.startswith("/dev/"))
    show(f"{device}: {int(run('blockdev', '--getsize64', device, show=False)) // MIB} MiB")
    try:
        yield device
        run("userdisk", "eject", device)
    except BaseException:
        run("userdisk", "eject", "--force", device, show=False, accept=range(256))
        raise


@contextmanager
def mounted(device: str, folder: Path) -> Iterator[None]:
    """Mount a device while the block runs."""
    run("mount", device, str(folder))
    try:
        yield
    finally:
        run("umount", str(folder))


def with_root(work: Path) -> None:
    image, folder = work / "disk.img", work / "mnt"
    folder.mkdir()
    tree, size = copy_tree(ROOT, work / "count")
    shutil.rmtree(work / "count")
    total = disk_size(size, len(tree))
    say(f"attach: a Python class with read, write, flush and unmap becomes {total // MIB} MiB disk")
    with attached(image, total) as device:
        say("format it")
        run("mkfs.ext4", "-q", device)
        with mounted(device, folder):
            say("copy this repository in")
            tree, size = copy_tree(ROOT, folder)
            say(f"copied {len(tree)} files, {size / MIB:.1f} MiB")
        say("unmount it and take it away: the class flushes and closes")
    say("attach it again")
    with attached(image, total) as device, mounted(device, folder):
        compare(tree, folder)
        say(f"every byte is there: {len(tree)} files compared by SHA-256")
        show(run("userdisk", "list"))
    say("serve the same disk over iSCSI, to look at it with another initiator")
    with served(image, total) as url:
        look_at(url, image)
    say("check the file system once more, in the file that the class wrote")
    show(run("e2fsck", "-fn", str(image)).splitlines()[-1])
    left = run("userdisk", "list", show=False)
    if str(image) in left:
        raise Failed(f"something is still attached:\n{left}")


# -- without root ------------------------------------------------------------------------------


def without_root(work: Path) -> None:
    image, made, back = work / "disk.img", work / "made.img", work / "back.img"
    tree, size = copy_tree(ROOT, work / "tree")
    total = disk_size(size, len(tree))
    filesystem = find("mke2fs") is not None
    if filesystem:
        say(f"mke2fs makes a file system with this repository in it: {len(tree)} files")
        run("mke2fs", "-q", "-t", "ext4", "-d", str(work / "tree"), str(made), f"{total // MIB}M")
    else:
        say("mke2fs is not installed (e2fsprogs): a plain image instead, no file system to check")
        with made.open("wb") as file:
            for key in sorted(tree):
                if not tree[key].startswith("link to "):
                    file.write((work / "tree" / key).read_bytes())
            file.truncate(total)
    say(
        f"serve: a Python class with read, write, flush and unmap becomes a {total // MIB} MiB disk"
    )
    with served(image, total) as url:
        write_disk(url, made)
        look_at(url, made)
        say("stop it: the class flushes and closes")
    say("serve it again, and read all of it")
    with served(image, total) as url:
        read_disk(url, back, total)
    run("cmp", str(made), str(back)) if find("cmp") else None
    if hash_of(made) != hash_of(back):
        raise Failed("the disk gave back other bytes than were written")
    say(f"every byte is there: {total // MIB} MiB compared by SHA-256")
    if not filesystem:
        return
    show(run("e2fsck", "-fn", str(back)).splitlines()[-1])
    out = work / "out"
    out.mkdir()
    run("debugfs", "-R", f"rdump / {out}", str(back))
    compare(tree, out)
    say(f"and every file: {len(tree)} files, {size / MIB:.1f} MiB, compared by SHA-256")


# -- afterwards --------------------------------------------------------------------------------


def stay(work: Path, *, device: bool) -> None:
    """Have a launcher keep the disk until Ctrl-C, and say where its console is."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for name in ("RUN", "CLASSES", "STATE"):
        os.environ[f"USERDISK_{name}"] = str(work / name.lower())
    image = work / "disk.img"
    kind = ['description = "The disk of the demo"', f'unit = "{DISK}"', "[options]"]
    kind += [f'option = ["path={image}"]', f'size = "{image.stat().st_size}"']
    kind += ["[attach]", f'mount = "{work / "mnt"}"'] if device else []
    (work / "classes").mkdir()
    (work / "classes" / "demo.toml").write_text("\n".join(kind) + "\n")
    command = ["userdisk", "launcher", "run", "--console"]
    show_command(command)
    with open(work / "launcher.log", "wb") as log:
        launcher = subprocess.Popen(
            command,
            env={**os.environ, "PATH": PATH},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the disk first
        )
    try:
        wait_for_console(launcher, work / "launcher.log")
        show(run("userdisk", "start", "demo", "disk"))
        say(f"in another terminal: export USERDISK_RUN={work / 'run'}; Ctrl-C ends the demo")
        show(run("userdisk", "console"), only=("your console",))
        launcher.wait()
        raise Failed(f"the launcher has ended\n{(work / 'launcher.log').read_text()}")
    except KeyboardInterrupt:
        print()
    finally:
        run("userdisk", "stop", "--force", "demo", "disk", accept=range(256))
        launcher.terminate()
        launcher.wait()


def wait_for_console(launcher: subprocess.Popen[bytes], log: Path) -> None:
    from userdisk.errors import UserdiskError
    from userdisk.launcher.client import Client

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and launcher.poll() is None:
        with suppress(UserdiskError):
            if Client().get("/v1/service")["console"]:
                return
        time.sleep(0.1)
    raise Failed(f"the launcher does not start\n{log.read_text()}")


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lacking() -> list[str]:
    """What the demo with a block device lacks here."""
    from userdisk.attach import choose
    from userdisk.errors import UserdiskError

    lacks = [name for name in ("mkfs.ext4", "mount", "blockdev") if not find(name)]
    try:
        choose()
    except UserdiskError as error:
        lacks.append(str(error))
    return lacks


def main() -> int:
    parser = argparse.ArgumentParser(description="A Python class becomes a disk.")
    parser.add_argument(
        "--without-root", action="store_true", help="do not attach a block device, even as root"
    )
    parser.add_argument(
        "--stay", action="store_true", help="keep the disk until Ctrl-C, with a console to look at"
    )
    chosen = parser.parse_args()
    lacks = ["--without-root"] if chosen.without_root else lacking()
    with tempfile.TemporaryDirectory(prefix="userdisk-demo-") as name:
        try:
            if lacks:
                say(f"without a block device of this machine: {'; '.join(lacks)}")
                say("so the disk is written and read over iSCSI, which needs no root")
                without_root(Path(name))
            else:
                with_root(Path(name))
            if chosen.stay:
                say("a launcher keeps the disk, and has a console")
                stay(Path(name), device=not lacks)
        except Failed as error:
            say(f"FAILED: {error}")
            return 1
        except KeyboardInterrupt:
            say("interrupted")
            return 130
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
