"""A program that serves one disk from a file: WinSpd's sample `rawdisk`, with the same options.

    python examples/rawdisk.py -f disk.img

On a new file it writes a partition table with one partition, as the original does. It serves the
disk over iSCSI on this machine, port 3260; RAWDISK_LISTEN=ADDRESS:PORT in the environment changes
that. With -p it serves a pipe instead, for `userdisk stgtest spd:PIPE` or as the unit `spd:PIPE`.
Unlike the original, it gives the disk the same identity next time, refuses numbers that are none,
flushes when the operating system asks for it, and reports errors of unmap.
"""

from __future__ import annotations

import getopt
import itertools
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from userdisk import Inline, StorageError, UsageError, UserdiskError
from userdisk.backend.file import FileUnit
from userdisk.errors import from_exception
from userdisk.gate import Gate
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target

USAGE = """\
usage: rawdisk OPTIONS

options:
    -f FILE             file that holds the disk; made if there is none
    -c BLOCKCOUNT       size in blocks (default: 1048576)
    -l BLOCKLENGTH      bytes in a block (default: 512)
    -i PRODUCTID        1 to 16 characters (default: RawDisk)
    -r REVISION         1 to 4 characters (default: 1.0)
    -W 0|1              writes: not allowed, allowed (default: 1)
    -C 0|1              cache: each write goes to the medium, or waits for a flush (default: 1)
    -U 0|1              unmap: not offered, offered (default: 1)
    -d MASK             log requests: 2 read, 4 write, 8 flush, 16 unmap, -1 all (default: 0)
    -D FILE             append that log to a file; - is standard error (default: -)
    -p PIPE             serve on a pipe alone: a Unix socket, on Windows \\\\.\\pipe\\NAME
    -?                  this text"""

NAME = "iqn.2026-11.io.userdisk:rawdisk"
READ, WRITE, FLUSH, UNMAP = 2, 4, 8, 16  # bits of -d


@dataclass
class Options:
    """The command line, with WinSpd's defaults."""

    file: str = ""
    block_count: int = 1048576
    block_length: int = 512
    product_id: str = "RawDisk"
    product_revision: str = "1.0"
    write_allowed: bool = True
    cache: bool = True
    unmap: bool = True
    debug_mask: int = 0
    debug_file: str = "-"
    pipe: str = ""


class RawDisk(FileUnit):
    """A file as a disk. The `FileUnit` does the work; this adds rawdisk's options and its log."""

    max_transfer_length = 65536
    workers = 2

    def __init__(self, options: Options, log: TextIO, *, read_only: bool) -> None:
        self.cache_supported = options.cache
        self.unmap_supported = options.unmap
        if not options.cache:
            self.inline = Inline.READ  # each write waits for the medium
        self._mask = options.debug_mask
        self._log = log
        self._numbers = itertools.count(1)
        super().__init__(
            options.file,
            size=options.block_count * options.block_length,
            block_length=options.block_length,
            product_id=options.product_id,
            product_revision=options.product_revision,
            read_only=read_only,
        )

    def read(self, lba: int, blocks: int, fua: bool) -> Any:
        what = f"Read  BlockAddress={_high_low(lba)}, BlockCount={blocks}, FUA={fua:d}"
        return self._logged(READ, what, lambda: super(RawDisk, self).read(lba, blocks, fua))

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        blocks = len(data) // self.block_length
        what = f"Write BlockAddress={_high_low(lba)}, BlockCount={blocks}, FUA={fua:d}"
        through = fua or not self.cache_supported
        self._logged(WRITE, what, lambda: super(RawDisk, self).write(lba, data, through))

    def zero(self, lba: int, blocks: int, fua: bool) -> None:
        super().zero(lba, blocks, fua or not self.cache_supported)

    def flush(self) -> None:
        self._logged(FLUSH, "Flush", super().flush)

    def unmap(self, extents: Sequence[tuple[int, int]]) -> None:
        what = f"Unmap Count={len(extents)}"
        self._logged(UNMAP, what, lambda: super(RawDisk, self).unmap(extents))

    def _logged(self, bit: int, what: str, call: Callable[[], Any]) -> Any:
        if not self._mask & bit:
            return call()
        name = f"rawdisk[TID={threading.get_native_id():04x}]: {next(self._numbers)}:"
        print(name, f">>{what}", file=self._log, flush=True)
        status = "GOOD"
        try:
            return call()
        except (StorageError, OSError) as error:
            known = from_exception(error, writing=bit != READ)
            status = "{:x}/{:02x}/{:02x}".format(*known.sense)
            if known.lba is not None:
                status += f" Information={_high_low(known.lba)}"
            raise
        finally:
            print(name, f"<<{what[:5]} Status={status}", file=self._log, flush=True)


def partition_table(block_count: int, block_length: int, signature: int) -> bytes:
    """The first block of a new disk: a master boot record with one partition of type 7 (NTFS).

    It begins at 4 KiB and goes to the end. Empty for a disk that has more blocks than fit in 32
    bits, which such a table cannot describe.
    """
    first = 4096 // block_length
    count = block_count - first
    if count < 1 or block_count > 0xFFFFFFFF:
        return b""
    entry = struct.pack("<B3sB3sII", 0, _chs(first), 7, _chs(first + count - 1), first, count)
    # The code at the start halts a computer that boots from it.
    head = bytes.fromhex("cd18f4ebfd").ljust(440, b"\0") + struct.pack("<IH", signature, 0)
    return (head + entry.ljust(64, b"\0") + b"\x55\xaa").ljust(block_length, b"\0")


def _chs(lba: int) -> bytes:
    """Cylinder, head and sector of a block, on a disk with 255 heads and 63 sectors."""
    cylinder, head, sector = lba // 16065, lba // 63 % 255, lba % 63 + 1
    if cylinder > 1023:
        cylinder, head, sector = 1023, 254, 63
    return bytes((head, sector | cylinder >> 2 & 0xC0, cylinder & 0xFF))


def _high_low(lba: int) -> str:
    return f"{lba >> 32:x}:{lba & 0xFFFFFFFF:x}"


def open_disk(options: Options, log: TextIO) -> RawDisk:
    """The disk, with a partition table if it is new. Raises `UsageError`."""
    path = options.file
    new = not os.path.exists(path) or (os.path.isfile(path) and os.path.getsize(path) == 0)
    if not new:
        return RawDisk(options, log, read_only=not options.write_allowed)
    disk = RawDisk(options, log, read_only=False)
    signature = disk.parameters.guid.int & 0xFFFFFFFF or 1
    table = partition_table(options.block_count, options.block_length, signature)
    if table:
        FileUnit.write(disk, 0, memoryview(table), True)
    if options.write_allowed:
        return disk
    disk.close()
    return RawDisk(options, log, read_only=True)


def parse(arguments: Sequence[str]) -> Options | None:
    """The options; None asks for the usage text. Raises `UsageError`."""
    try:
        pairs, rest = getopt.getopt(list(arguments), "f:c:l:i:r:W:C:U:d:D:p:?")
    except getopt.GetoptError as error:
        raise UsageError(f"{error} (see rawdisk -?)") from None
    given = dict(pairs)
    if "-?" in given:
        return None
    if rest or "-f" not in given:
        what = f"{rest[0]}: not an option" if rest else "the option -f FILE is missing"
        raise UsageError(f"{what} (see rawdisk -?)")
    if given.get("-p") == "":
        raise UsageError("-p: needs the path of a socket")
    options = Options(
        given["-f"],
        _number(given, "-c", 1048576),
        _number(given, "-l", 512),
        given.get("-i", "RawDisk"),
        given.get("-r", "1.0"),
        bool(_number(given, "-W", 1, most=1)),
        bool(_number(given, "-C", 1, most=1)),
        bool(_number(given, "-U", 1, most=1)),
        _number(given, "-d", 0, least=-1),
        given.get("-D", "-"),
        given.get("-p", ""),
    )
    if options.block_count < 1:
        raise UsageError("-c 0: a disk has at least one block")
    return options


def _number(
    given: dict[str, str], option: str, default: int, *, least: int = 0, most: int = 1 << 63
) -> int:
    text = given.get(option)
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        raise UsageError(f"{option} {text}: not a number") from None
    if not least <= number <= most:
        raise UsageError(f"{option} {text}: must be from {least} to {most}")
    return number


def listen_address() -> tuple[str, int]:
    """Where to serve: this machine only, unless RAWDISK_LISTEN says otherwise."""
    host, _, port = os.environ.get("RAWDISK_LISTEN", "127.0.0.1:3260").rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError("RAWDISK_LISTEN: write it as ADDRESS:PORT")
    return host.strip("[]"), int(port)


def serve(disk: RawDisk, options: Options) -> None:
    """Serve the disk until Ctrl-C or SIGTERM; then flush and close it."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopping.set())
    gate = Gate(disk, "rawdisk")
    lu = LogicalUnit(gate)
    if options.pipe:
        server = Server([], listen=[], pipes={Path(options.pipe): gate})
        server.start()
        where = f"spd:{options.pipe}"
    else:
        server = Server([Target(NAME, [lu])], listen=[listen_address()])
        ((host, port),) = server.start()
        where = f"iscsi://{host}:{port}/{NAME}/0"
    print(
        f"rawdisk -f {options.file} -c {options.block_count} -l {options.block_length}"
        f" -i {options.product_id} -r {options.product_revision} -W {options.write_allowed:d}"
        f" -C {options.cache:d} -U {options.unmap:d}: {where}",
        flush=True,
    )
    try:
        while not stopping.wait(1):
            pass
    finally:
        server.stop()


def main() -> int:
    try:
        options = parse(sys.argv[1:])
        if options is None:
            print(USAGE)
            return 2
        if options.debug_file == "-":
            serve(open_disk(options, sys.stderr), options)
        else:
            with open(options.debug_file, "a", encoding="utf-8") as log:
                serve(open_disk(options, log), options)
    except UserdiskError as error:
        print(f"rawdisk: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        print(f"rawdisk: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
