"""Options one by one: libnbd in option mode, and by hand what it has no call for."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.libnbd import NEEDS_LIBNBD, libnbd
from tests.kit.nbd_server import nbd_server
from tests.kit.units import InlineRamUnit, RamUnit

SIZE = 1 << 20
OPTION = struct.Struct(">8sII")
REPLY = struct.Struct(">QIII")
ABORT, STARTTLS, GO, STRUCTURED, LIST_CONTEXTS, SET_CONTEXTS = 2, 5, 7, 8, 9, 10
ACK, CONTEXT = 1, 4
UNSUP, INVALID, UNKNOWN = ((1 << 31) + each for each in (1, 3, 6))

OPTIONS = """
def begun(name=""):
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.add_meta_context("base:allocation")
    h.connect_uri(each[0])
    assert h.aio_is_negotiating() and h.get_protocol() == "newstyle-fixed"
    h.set_export_name(name)
    return h
h = begun()
found = []
assert h.opt_list(lambda name, description: found.append((name, description))) == 3
names = [("first", "disk first"), ("second", "disk second"), ("third", "disk third")]
assert found == names, found
for name, size, read_only in ("first", 1 << 20, 0), ("second", 2 << 20, 0), ("third", 1 << 20, 1):
    h.set_export_name(name)
    h.opt_info()
    assert (h.get_size(), h.is_read_only()) == (size, read_only), name
    assert h.can_meta_context("base:allocation")
    assert h.get_block_size(nbd.SIZE_MINIMUM) == (4096 if name == "second" else 512)
h.set_export_name("fourth")
fails(errno.ENOENT, h.opt_info)
fails(errno.EINVAL, h.get_size)
assert h.aio_is_negotiating()
fails(errno.ENOENT, h.opt_go)
assert h.aio_is_negotiating()

def contexts(*queries):
    h.clear_meta_contexts()
    for query in queries:
        h.add_meta_context(query)
    seen = []
    assert h.opt_list_meta_context(seen.append) == len(seen)
    return seen
h.set_export_name("second")
assert contexts() == ["base:allocation"]
assert contexts("base:") == ["base:allocation"]
assert contexts("base:allocation") == ["base:allocation"]
assert contexts("base:allocation", "base:allocation", "base:") == ["base:allocation"]
assert contexts("base:other", "x-unknown:a", "qemu:dirty-bitmap:b") == []
assert contexts("x-unknown:", "base:allocation") == ["base:allocation"]
h.set_export_name("fourth")
try:
    h.opt_list_meta_context(lambda name: 0)
except nbd.Error as error:  # libnbd's own number differs by version
    assert error.errnum in (errno.ENOTSUP, errno.ENOENT), error
else:
    raise AssertionError("contexts of an export that does not exist")
assert h.aio_is_negotiating()

h.set_export_name("second")
h.clear_meta_contexts()
h.add_meta_context("x-unknown:a")
h.add_meta_context("base:allocation")
h.opt_go()
assert h.aio_is_ready() and h.get_size() == 2 << 20
assert h.can_meta_context("base:allocation") and not h.can_meta_context("x-unknown:a")
h.pwrite(b"a" * 4096, 4096)
assert h.pread(8192, 0) == bytes(4096) + b"a" * 4096
extents = []
h.block_status(2 << 20, 0, lambda name, at, entries, err: extents.append((name, sum(entries[::2]))))
assert extents == [("base:allocation", 2 << 20)], extents
h.shutdown()

h = begun("first")  # none was asked for at GO
h.clear_meta_contexts()
h.set_strict_mode(0)
h.opt_go()
assert not h.can_meta_context("base:allocation")
fails(errno.EINVAL, h.block_status, 512, 0, lambda *_: 0)
assert h.pread(512, 0) == bytes(512)
h.shutdown()

h = begun("first")
h.opt_abort()
assert h.aio_is_closed()

h = nbd.NBD()
h.set_opt_mode(True)
h.set_tls(nbd.TLS_ALLOW)
h.connect_uri(each[0])
assert not h.get_tls_negotiated()
h.set_export_name("first")
h.opt_go()
assert h.pread(512, 0) == bytes(512)
h.shutdown()
"""


def units() -> dict[str, RamUnit]:
    return {
        "first": InlineRamUnit(),
        "second": InlineRamUnit(block_count=512, block_length=4096),
        "third": InlineRamUnit(write_protected=True),
    }


@NEEDS_LIBNBD
def test_libnbd_in_option_mode(tmp_path: Path) -> None:
    with nbd_server(tmp_path / "s", **units()):
        libnbd(OPTIONS, f"nbd+unix:///?socket={tmp_path / 's'}")


class _Client:
    """Sends options, and takes their answers."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(path))
        assert self.exactly(18)[:16] == b"NBDMAGICIHAVEOPT"
        self.sock.sendall(struct.pack(">I", 3))

    def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            assert more, "the connection has ended"
            data += more
        return data

    def ask(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """(type, data) of each answer; of an error without its message."""
        self.sock.sendall(OPTION.pack(b"IHAVEOPT", option, len(data)) + data)
        answers = []
        while True:
            magic, of, kind, length = REPLY.unpack(self.exactly(REPLY.size))
            assert (magic, of) == (0x3E889045565A9, option)
            payload = self.exactly(length)
            failed = kind >> 31
            answers.append((kind, b"" if failed else payload))
            if kind == ACK or failed:
                return answers


@contextmanager
def client(path: Path) -> Iterator[_Client]:
    opened = _Client(path)
    with opened.sock:
        yield opened


def queries(name: str, *wanted: str) -> bytes:
    data = struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", len(wanted))
    return data + b"".join(struct.pack(">I", len(each)) + each.encode() for each in wanted)


def test_contexts_by_hand(tmp_path: Path) -> None:
    allocation = b"base:allocation"
    chosen = [(CONTEXT, struct.pack(">I", 1) + allocation), (ACK, b"")]
    listed = [(CONTEXT, bytes(4) + allocation), (ACK, b"")]
    nothing = [(ACK, b"")]
    with nbd_server(tmp_path / "s", **units()), client(tmp_path / "s") as h:
        for option in (LIST_CONTEXTS, SET_CONTEXTS):
            assert h.ask(option, queries("first", "base:allocation")) == [(INVALID, b"")]
        assert h.ask(STRUCTURED) == nothing
        assert h.ask(STRUCTURED, b"x") == [(INVALID, b"")]
        assert h.ask(STRUCTURED) == nothing
        for name in ("first", "third", ""):
            assert h.ask(LIST_CONTEXTS, queries(name)) == listed
            assert h.ask(LIST_CONTEXTS, queries(name, "base:")) == listed
            assert h.ask(LIST_CONTEXTS, queries(name, "base:allocatio", "b", ":")) == nothing
            assert h.ask(SET_CONTEXTS, queries(name, "base:allocation", "x:y")) == chosen
            # a wildcard is for LIST only
            for wanted in ((), ("base:",), ("x:y",), ("base:allocation:", "", "*")):
                assert h.ask(SET_CONTEXTS, queries(name, *wanted)) == nothing
        good = queries("first", "base:allocation")
        for data in (b"", good[:-1], good + b"x", good[:13], queries("x" * 5000)):
            for option in (LIST_CONTEXTS, SET_CONTEXTS):
                assert h.ask(option, data) == [(INVALID, b"")], data
        for option in (LIST_CONTEXTS, SET_CONTEXTS):
            unknown = h.ask(option, queries("fourth", "base:allocation"))
            assert unknown == [(UNKNOWN, b"")]


@pytest.mark.parametrize("last", ["first", "second", "fourth", "nothing"])
def test_the_last_set_context_counts(tmp_path: Path, last: str) -> None:
    """BLOCK_STATUS works only if the export that was gone to is the one of the last SET."""
    with nbd_server(tmp_path / "s", **units()), client(tmp_path / "s") as h:
        assert h.ask(STRUCTURED) == [(ACK, b"")]
        h.ask(SET_CONTEXTS, queries("first", "base:allocation"))
        if last == "nothing":
            h.ask(SET_CONTEXTS, queries("first"))
        else:
            h.ask(SET_CONTEXTS, queries(last, "base:allocation"))
        assert h.ask(GO, struct.pack(">I5sH", 5, b"first", 0))[-1] == (ACK, b"")
        h.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 7, 1, 0, SIZE))
        magic, _, kind, cookie, length = struct.unpack(">IHHQI", h.exactly(20))
        assert (magic, cookie) == (0x668E33EF, 1)
        answer = h.exactly(length)
        if last == "first":
            assert (kind, answer) == (5, struct.pack(">III", 1, SIZE, 0))
        else:
            assert (kind, answer[:4]) == ((1 << 15) + 1, struct.pack(">I", 22))


def test_starttls_without_tls_and_abort(tmp_path: Path) -> None:
    with nbd_server(tmp_path / "s", **units()):
        with client(tmp_path / "s") as h:
            assert h.ask(STARTTLS) == [(UNSUP, b"")]
            assert h.ask(99) == [(UNSUP, b"")]
            assert h.ask(GO, struct.pack(">I5sH", 5, b"first", 0))[-1] == (ACK, b"")
            h.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, 512))
            assert h.exactly(528) == struct.pack(">IIQ", 0x67446698, 0, 1) + bytes(512)
        with client(tmp_path / "s") as h:
            assert h.ask(ABORT) == [(ACK, b"")]
            assert h.sock.recv(1) == b""
