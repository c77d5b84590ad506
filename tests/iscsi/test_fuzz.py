"""Random and mutated PDUs against the target's connection, with no socket.

Half of the inputs come before login, half in full feature phase after a real one. Whatever is sent,
nothing is raised, nothing loops, memory stays bounded, and another session of the same server goes
on. `python -m tests.fuzz_coverage iscsi` prints which lines of `userdisk.iscsi` this reaches.
FUZZ_EXAMPLES sets how many inputs each test makes; with FUZZ_RANDOM set they differ every time.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st

from tests.kit.link import INITIATOR, TARGET, Link, TargetEnd, close, environment_of, target_of
from userdisk.errors import MediumError
from userdisk.iscsi import pdu
from userdisk.iscsi.chap import Account, Credentials
from userdisk.iscsi.connection import Connection, Phase
from userdisk.iscsi.environment import Environment
from userdisk.unit import Inline, StorageUnit

_OTHER = "iqn.2026-11.io.userdisk:other"
_BLOCKS = 2048
_MEMORY = 24 << 20  #: bytes that one connection may make the server hold, whatever it sends
_NUMBER = 0xFFFFFFFF

# a time limit that strikes within coverage's own lock would hang the run
pytestmark = pytest.mark.timeout(900)

fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    deadline=None,
    phases=(Stage.generate, Stage.shrink),
    derandomize="FUZZ_RANDOM" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Disk(StorageUnit):
    """A RAM disk whose operations run inline, with a bad block and one that finds a bug."""

    block_count = _BLOCKS
    inline = Inline.ALL
    bad_block, bug = 260, 270

    def __init__(self) -> None:
        super().__init__()
        self.memory = bytearray(self.block_count * self.block_length)

    def _touch(self, lba: int, blocks: int) -> None:
        if lba <= self.bad_block < lba + blocks:
            raise MediumError(lba=self.bad_block)
        if lba == self.bug:
            raise ValueError("a bug in the unit")

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        self._touch(lba, blocks)
        return bytes(self.memory[lba * 512 : (lba + blocks) * 512])

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        assert len(data) % 512 == 0
        assert lba * 512 + len(data) <= len(self.memory)
        self._touch(lba, len(data) // 512)
        self.memory[lba * 512 : lba * 512 + len(data)] = data

    def flush(self) -> None:
        pass

    def unmap(self, extents: Any) -> None:
        for lba, blocks in extents:
            assert lba + blocks <= self.block_count
            self.memory[lba * 512 : (lba + blocks) * 512] = bytes(blocks * 512)


class Threaded(Disk):
    """The same with a thread of its own: commands are pending for a while."""

    inline = Inline.NONE


class Live(Disk):
    """The same, but reads are views of its memory."""

    live_reads = True

    def read(self, lba: int, blocks: int, fua: bool) -> memoryview:  # type: ignore[override]
        self._touch(lba, blocks)
        return memoryview(self.memory)[lba * 512 : (lba + blocks) * 512]


class World:
    """A server's shared state: a target that is fuzzed, another, and a session to each."""

    def __init__(self) -> None:
        self.targets = [target_of(Disk(), Threaded(), Live()), target_of(Disk(), name=_OTHER)]
        self.problems: list[Exception] = []
        self.environment: Environment = environment_of(
            *self.targets, report=self.problems.append, portals=12
        )
        self.neighbour = Link(self.environment, initiator=INITIATOR + "-2").login()
        self.stranger = Link(self.environment, initiator=INITIATOR + "-3", target=_OTHER).login()
        self.stranger.ready()
        self.pattern = bytes(range(256)) * 2
        self.stranger.command(_write10(5, 1), data_out=self.pattern)

    def check(self) -> None:
        """Nothing was reported as a bug, and the other sessions are as they were."""
        assert not self.problems, self.problems
        self.neighbour.end.settle()
        if not self.neighbour.end.reading:  # TARGET COLD RESET ends all sessions of its target
            self.neighbour.end.disconnect()
            self.neighbour = Link(self.environment, initiator=INITIATOR + "-2").login()
        assert self.neighbour.ready().status == 0
        task = self.stranger.command(_read10(5, 1), read_length=512)
        assert task.status == 0
        assert task.data == self.pattern

    def close(self) -> None:
        self.neighbour.end.disconnect()
        self.stranger.end.disconnect()
        for target in self.targets:
            assert not target.nexuses
            close(target)


@contextmanager
def a_world() -> Iterator[World]:
    """A world for one example: what one input breaks, no other sees."""
    made = World()
    yield made
    made.close()


def _read10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)


def _write10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x2A, 0, lba, 0, blocks, 0)


# -- what is sent --------------------------------------------------------------------------------

small = st.integers(0, 300)
word = st.one_of(st.sampled_from([0, 1, 512, 4096, 65536, 1 << 20, 1 << 31, _NUMBER]), small)
quad = st.one_of(
    st.sampled_from([0, 1 << 48, 2 << 48, 0x4001 << 48, 1, 1 << 63, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)
luns = st.sampled_from([0, 1 << 48, 2 << 48])
itt = st.one_of(st.integers(0, 6), st.sampled_from([_NUMBER, 0x80000000]))
lba = st.one_of(
    st.integers(0, _BLOCKS + 2),
    st.integers(253, 272),
    st.sampled_from([Disk.bad_block, Disk.bug, 1 << 31, _NUMBER]),
)
blocks = st.one_of(st.integers(0, 260), st.just(0xFFFF))

_KEYS = (
    "InitiatorName=iqn.2026-11.io.userdisk:fuzz|SessionType=Normal|SessionType=Discovery"
    f"|TargetName={TARGET}|TargetName=iqn.x:none|AuthMethod=None|AuthMethod=CHAP,None|CHAP_A=5"
    "|CHAP_A=7,5|CHAP_I=1|CHAP_C=0xab|CHAP_N=anna|CHAP_R=0x00112233445566778899aabbccddeeff"
    "|CHAP_R=0bAAAA|HeaderDigest=CRC32C,None|DataDigest=None|DataDigest=CRC32C"
    "|MaxRecvDataSegmentLength=512|MaxRecvDataSegmentLength=16777215|MaxBurstLength=512"
    "|FirstBurstLength=65536|InitialR2T=Yes|InitialR2T=No|ImmediateData=No|MaxConnections=8"
    "|MaxOutstandingR2T=4|ErrorRecoveryLevel=2|DefaultTime2Wait=0|DefaultTime2Retain=20"
    "|DataPDUInOrder=No|DataSequenceInOrder=Yes|IFMarker=Yes|OFMarkInt=1~2|TaskReporting=FastAbort"
    "|X-org.example=1|iSCSIProtocolLevel=2|SendTargets=All|SendTargets=|SendTargets=iqn.x"
    "|InitiatorAlias=me|TargetAlias=you|Nonsense=?|NoValue|=|MaxBurstLength=Reject"
).split("|")
key = st.one_of(
    st.sampled_from(_KEYS).map(str.encode),
    st.binary(max_size=40),
    st.builds(lambda name, value: name + b"=" + value, st.binary(max_size=70), st.binary()),
)
text = st.lists(key, max_size=8).map(lambda keys: b"".join(item + b"\0" for item in keys))

cdb = st.one_of(
    st.builds(_read10, lba, blocks),
    st.builds(_write10, lba, blocks),
    st.builds(
        lambda op, first, where, count: struct.pack(">BBQIxx", op, first, where, count),
        st.sampled_from([0x88, 0x8A, 0x91, 0x93, 0x8F, 0x9E]),
        st.sampled_from([0, 0x08, 0x10, 0x12, 0xFF]),
        st.one_of(lba, st.integers(0, (1 << 64) - 1)),
        st.one_of(blocks, word),
    ),
    st.builds(
        lambda op, tail: bytes([op]) + tail,
        st.sampled_from([0x00, 0x03, 0x12, 0x1A, 0x25, 0x42, 0x55, 0x5A, 0x5E, 0x5F, 0xA0, 0xA3]),
        st.one_of(st.just(bytes(9)), st.binary(min_size=15, max_size=15)),
    ),
    st.binary(min_size=16, max_size=16),
)
payload = st.one_of(
    st.just(b""),
    st.binary(max_size=64),
    st.integers(0, 9000).map(bytes),
    st.sampled_from([bytes(512), bytes(4096), bytes(20000), bytes(65536), bytes(70000)]),
    text,
)

#: How far a number is from the one that is right; most are right, so that more is reached.
drift = st.one_of(st.just(0), st.just(0), st.just(0), st.sampled_from([1, -1, 5, 200, 1 << 31]))

Maker = Callable[[Connection], bytes]


def _wire(header: bytes, data: bytes, lie: int = 0) -> bytes:
    """A PDU; `lie` is added to the length in its header."""
    length = (len(data) + lie) & 0xFFFFFF
    header = header[:5] + length.to_bytes(3) + header[8:]
    return header + data + pdu.PADDING[len(data) % 4]


@st.composite
def requests(draw: st.DrawFn) -> Maker:
    """A PDU that a connection in full feature phase may get, made when its turn comes."""
    opcode = draw(
        st.one_of(
            st.sampled_from([0x00, 0x01, 0x01, 0x01, 0x02, 0x04, 0x05, 0x05, 0x06, 0x10, 0x03]),
            st.integers(0, 0x3F),
        )
    )
    opcode |= draw(st.sampled_from([0, 0, 0x40, 0x80]))
    flags = draw(
        st.one_of(st.sampled_from([0x80, 0x81, 0xC1, 0xA1, 0x21, 0xE1]), st.integers(0, 255))
    )
    lun, tag, ahead = draw(quad), draw(itt), draw(drift)
    data = draw(payload)
    word20 = draw(st.one_of(word, st.just(len(data)), st.integers(0, 6)))
    tail = draw(cdb).ljust(16, b"\0")[:16]
    ahs = draw(st.sampled_from([b""] * 9 + [bytes(4), b"\x00\x05\x02" + bytes(5)]))
    lie = draw(st.sampled_from([0] * 12 + [1, -1, 512, 1 << 20]))
    if opcode & 0x3F == 0x05 and draw(st.booleans()):
        data_sn, offset = draw(st.integers(0, 4)), draw(st.one_of(word, st.integers(0, 200)))
        tail = struct.pack(">4xII4x", data_sn, offset)

    def make(connection: Connection) -> bytes:
        cmd_sn = (connection.out.exp_cmd_sn + ahead) & _NUMBER
        stat_sn = connection.out.stat_sn
        header = pdu.GENERIC.pack(opcode, flags, 0, lun, tag, word20, cmd_sn, stat_sn, tail)
        header = header[:4] + bytes([len(ahs) // 4]) + header[5:]
        whole = _wire(header, data, lie)
        return whole[:48] + ahs + whole[48:]

    return make


@st.composite
def writes(draw: st.DrawFn) -> Maker:
    """A write whose data follows in all ways, right or nearly so."""
    count, tag, lie = (
        draw(st.one_of(st.integers(1, 8), st.integers(1, 600))),
        draw(st.integers(0, 6)),
        draw(drift),
    )
    size = count * 512
    announced = draw(st.sampled_from([size, size, size, size - 512, size + 512, 10]))
    immediate = min(draw(st.sampled_from([0, 512, 4096, 65536, 100000])), size)
    final = draw(st.booleans())
    answer = draw(st.booleans())
    fua = draw(st.sampled_from([0, 0, 8]))
    lun = draw(luns)

    def make(connection: Connection) -> bytes:
        flags = 0xA1 if final else 0x21
        command = struct.pack(">BBQIxx", 0x8A, fua, 0, count)
        numbers = (lun, tag, announced, connection.out.exp_cmd_sn, 0, command)
        sent = _wire(pdu.GENERIC.pack(0x01, flags, 0, *numbers), bytes(immediate))
        if answer:  # the tag that the target's first R2T is likely to have
            ttt = connection.tasks._bursts._ttt + 1 if final else _NUMBER
            offset = immediate
            for number in range(5):
                length = max(0, min(65536, announced - offset))
                last = 0x80 if number == 4 or offset + length >= announced else 0
                ids = (lun, tag, ttt, 0, number, (offset + lie) & _NUMBER)
                sent += _wire(pdu.DATA_OUT.pack(0x05, last, 0, *ids), bytes(length))
                offset += length
        return sent

    return make


@st.composite
def reads(draw: st.DrawFn) -> Maker:
    """A read that is right, or nearly so: of the fast path, and beside it."""
    lun, tag, where = draw(luns), draw(st.integers(0, 6)), draw(lba)
    count = draw(st.one_of(st.integers(1, 8), st.integers(0, 300)))
    announced = draw(st.sampled_from([count * 512] * 9 + [512, 0, 100000]))
    flags = draw(st.sampled_from([0xC1] * 8 + [0xC0, 0x81]))
    command = draw(
        st.sampled_from(
            [
                _read10(where, count),
                _read10(where, count),
                struct.pack(">BBQIxx", 0x88, 0, where, count),
                struct.pack(">BBQIxx", 0x88, 0, where, count),
                struct.pack(">BBQIxx", 0x88, 8, where, count),
                struct.pack(">BBIIxx", 0xA8, 0, where, count),
                struct.pack(">BBQIxx", 0x91, 0, where, count),
            ]
        )
    ).ljust(16, b"\0")

    def make(connection: Connection) -> bytes:
        numbers = (lun, tag, announced, connection.out.exp_cmd_sn, 0, command)
        return _wire(pdu.GENERIC.pack(0x01, flags, 0, *numbers), b"")

    return make


@st.composite
def managements(draw: st.DrawFn) -> Maker:
    """A task management function about a task that may exist."""
    function = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 5]))
    lun = draw(luns)
    reference = draw(st.integers(0, 6))

    def make(connection: Connection) -> bytes:
        numbers = (lun, 99, reference, connection.out.exp_cmd_sn, 0, bytes(16))
        return _wire(pdu.GENERIC.pack(0x42, 0x80 | function, 0, *numbers), b"")

    return make


@st.composite
def logins(draw: st.DrawFn) -> bytes:
    """A Login Request, with keys that make sense or not."""
    flags = draw(
        st.one_of(st.sampled_from([0x81, 0x87, 0x83, 0x00, 0x04, 0x40]), st.integers(0, 255))
    )
    port = draw(st.sampled_from([0x80 << 56, 0x80 << 56 | 7, 0]))
    tag, cmd_sn = draw(st.sampled_from([0, 0, 0, 1])), draw(st.sampled_from([1, 1, 1, 2]))
    opcode = draw(st.sampled_from([0x43] * 9 + [0x03, 0x41, 0x00]))
    version = draw(st.sampled_from([0] * 9 + [1, 0x0100]))
    data = draw(st.one_of(text, text, st.just(_good_keys()), st.binary(max_size=100)))
    header = struct.pack(">BBHI Q II II 16x", opcode, flags, version, 0, port, tag, 0, cmd_sn, 0)
    return _wire(header, data, draw(st.sampled_from([0] * 12 + [1, 9000, 1 << 23])))


def _good_keys() -> bytes:
    name = "iqn.2026-11.io.userdisk:fuzz"
    return f"InitiatorName={name}\0TargetName={TARGET}\0AuthMethod=None\0".encode()


@st.composite
def mutations(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Changes to a stream: bits turned, bytes taken out, put in, doubled, the end cut off."""
    changes = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["flip", "cut", "insert", "double", "end"]), st.floats(0, 1), small
            ),
            min_size=1,
            max_size=6,
        )
    )

    def mutate(data: bytes) -> bytes:
        stream = bytearray(data)
        for kind, where, amount in changes:
            at = int(where * max(0, len(stream) - 1))
            if kind == "flip" and stream:
                stream[at] ^= 1 << amount % 8
            elif kind == "cut":
                del stream[at : at + amount]
            elif kind == "insert":
                stream[at:at] = bytes([amount % 256]) * amount
            elif kind == "double":
                stream[at:at] = stream[at : at + amount]
            elif kind == "end":
                del stream[at:]
        return bytes(stream)

    return mutate


pieces = st.sampled_from([1 << 30, 1 << 30, 4096, 49, 7])
digests = st.sampled_from([(False, False), (False, False), (True, False), (True, True)])


# -- the tests -----------------------------------------------------------------------------------


def _feed(end: TargetEnd, data: bytes, piece: int) -> None:
    """Deliver bytes in pieces, but in no more than 300 of them."""
    end.feed(data, max(piece, len(data) // 300))


def _ends_well(world: World, end: TargetEnd) -> None:
    """After whatever was sent: the connection is in a phase, bounded, and leaves nothing behind."""
    connection = end.connection
    assert connection.tasks.count <= 256
    assert len(connection.incoming.buffer) <= 1 << 20
    end.disconnect()
    assert connection.tasks.count == 0
    world.check()
    attached = {nexus.initiator for target in world.targets for nexus in target.nexuses}
    assert attached == {INITIATOR + "-2", INITIATOR + "-3"}


@fuzz
@given(data=st.binary(max_size=2000), piece=pieces)
def test_random_bytes_before_login(data: bytes, piece: int) -> None:
    with a_world() as world:
        end = TargetEnd(world.environment)
        _feed(end, data, piece)
        _ends_well(world, end)


@fuzz
@given(pdus=st.lists(logins(), max_size=6), piece=pieces)
def test_login_requests(pdus: list[bytes], piece: int) -> None:
    with a_world() as world:
        end = TargetEnd(world.environment)
        for item in pdus:
            _feed(end, item, piece)
        _ends_well(world, end)


@fuzz
@given(mutate=mutations(), piece=pieces)
def test_a_mutated_login(mutate: Callable[[bytes], bytes], piece: int) -> None:
    with a_world() as world:
        end = TargetEnd(world.environment)
        _feed(end, mutate(_recorded_login()), piece)
        _ends_well(world, end)


def _recorded_login() -> bytes:
    """What an initiator sends to log in in two rounds, as one stream."""
    first = struct.pack(">BBHIQIIII16x", 0x43, 0x81, 0, 0, 0x80 << 56, 0, 0, 1, 0)
    second = struct.pack(">BBHIQIIII16x", 0x43, 0x87, 0, 0, 0x80 << 56, 0, 0, 1, 1)
    keys = b"HeaderDigest=None\0MaxRecvDataSegmentLength=65536\0InitialR2T=No\0ImmediateData=Yes\0"
    command = pdu.GENERIC.pack(0x01, 0xC1, 0, 0, 1, 36, 1, 3, b"\x12\0\0\0\x24".ljust(16, b"\0"))
    return _wire(first, _good_keys()) + _wire(second, keys) + command


def _logged_in(world: World, digest: tuple[bool, bool], **offer: Any) -> Link:
    link = Link(world.environment, header_digest=digest[0], data_digest=digest[1], **offer)
    return link.login()


def _with_digests(connection: Connection, made: bytes) -> bytes:
    """Put the digests into a stream of well-formed PDUs, as far as it is one."""
    if not connection.out.header_digest:
        return made
    from userdisk.iscsi.digest import digest

    out, rest = b"", made
    while len(rest) >= 48:
        header = 48 + 4 * rest[4]
        length = pdu.padded(int.from_bytes(rest[5:8]))
        segment = rest[header : header + length]
        out += rest[:header] + digest(rest[:header]) + segment
        if connection.out.data_digest and segment:
            out += digest(segment)
        rest = rest[header + length :]
    return out + rest


@fuzz
@given(
    makers=st.lists(st.one_of(requests(), requests(), writes()), max_size=12),
    digest=digests,
    immediate=st.booleans(),
    initial_r2t=st.booleans(),
    ready=st.booleans(),
    again=st.booleans(),
    spoil=st.booleans(),
    piece=pieces,
)
def test_requests_after_login(
    makers: list[Maker],
    digest: tuple[bool, bool],
    immediate: bool,
    initial_r2t: bool,
    ready: bool,
    again: bool,
    spoil: bool,
    piece: int,
) -> None:
    with a_world() as world:
        link = _logged_in(world, digest, immediate_data=immediate, initial_r2t=initial_r2t)
        if ready:
            link.ready()
        for make in makers:
            connection = link.end.connection
            made = _with_digests(connection, make(connection))
            if spoil and digest[0]:
                made = made[:-1] + bytes([made[-1] ^ 1])
            _feed(link.end, made, piece)
        if again:
            _log_in_again(world, link)
        _ends_well(world, link.end)


@fuzz
@given(
    makers=st.lists(
        st.one_of(writes(), writes(), reads(), reads(), managements()), min_size=6, max_size=24
    ),
    digest=digests,
    offer=st.fixed_dictionaries(
        {
            "immediate_data": st.booleans(),
            "initial_r2t": st.booleans(),
            "first_burst_length": st.sampled_from([512, 65536]),
            "max_burst_length": st.sampled_from([65536, 1 << 20]),
            "max_recv_segment": st.sampled_from([4096, 262144]),
        }
    ),
    spoil=st.booleans(),
    piece=pieces,
)
def test_commands(
    makers: list[Maker], digest: tuple[bool, bool], offer: dict[str, Any], spoil: bool, piece: int
) -> None:
    """Reads, writes and task management that are right or nearly so, on units of all kinds."""
    with a_world() as world:
        link = _logged_in(world, digest, **offer)
        for lun in range(3):
            link.ready(lun=lun)
        for number, make in enumerate(makers):
            made = _with_digests(link.end.connection, make(link.end.connection))
            if spoil and digest[0] and number == len(makers) - 1:
                made = made[:-1] + bytes([made[-1] ^ 1])
            _feed(link.end, made, piece)
        _ends_well(world, link.end)


def _log_in_again(world: World, link: Link) -> None:
    """The same initiator port logs in again: its first session ends, then the second is there."""
    other = Link(world.environment)
    other.pump()
    link.end.settle()
    link.end.disconnect()
    other.pump()
    other.end.settle()
    assert other.session.logged_in or not other.end.reading
    other.end.disconnect()


@fuzz
@given(mutate=mutations(), digest=digests, piece=pieces)
def test_a_mutated_session(
    mutate: Callable[[bytes], bytes], digest: tuple[bool, bool], piece: int
) -> None:
    with a_world() as world:
        link = _logged_in(world, digest)
        link.ready()
        session = link.session
        session.command(_read10(0, 8), read_length=4096)
        session.command(_write10(0, 8), data_out=bytes(4096))
        session.command(_write10(0, 250), data_out=bytes(128000))
        session.command(b"\x12\0\0\0\xff\0", read_length=255)
        session.ping(b"hello")
        session.text([("SendTargets", "All")])
        session.task_management(5)
        session.command(_read10(100, 200), read_length=102400)
        session.logout()
        _feed(link.end, mutate(b"".join(bytes(part) for part in session.take_output())), piece)
        _ends_well(world, link.end)


_ANNA = Account("anna", b"a secret of anna")
_CHAP = {
    "user": _ANNA.name,
    "secret": _ANNA.secret,
    "mutual_user": "disk",
    "mutual_secret": b"the disk's secret",
}


@fuzz
@given(
    mutate=st.one_of(st.none(), mutations()),
    more=st.lists(logins(), max_size=2),
    mutual=st.booleans(),
    piece=pieces,
)
def test_chap(
    mutate: Callable[[bytes], bytes] | None, more: list[bytes], mutual: bool, piece: int
) -> None:
    """A login with CHAP, sent again to a target with the same challenge, changed or not."""
    with a_world() as world:
        proof = Account("disk", b"the disk's secret") if mutual else None
        credentials = Credentials((_ANNA,), proof)
        environment = environment_of(*world.targets, credentials=credentials)
        offer = {key: value for key, value in _CHAP.items() if mutual or "mutual" not in key}
        link = Link(environment, isid=0x80_0000_0000_09, **offer).login()
        link.end.disconnect()
        login = b"".join(link.sent)
        end = TargetEnd(environment)
        _feed(end, login if mutate is None else mutate(login), piece)
        if mutate is None:
            assert end.connection.phase is Phase.FULL_FEATURE
        for item in more:
            _feed(end, item, piece)
        _ends_well(world, end)


@fuzz
@given(
    makers=st.lists(requests(), max_size=6),
    first=st.booleans(),
    segment=st.sampled_from([512, 8192]),
)
def test_a_discovery_session(makers: list[Maker], first: bool, segment: int) -> None:
    with a_world() as world:
        link = Link(world.environment, target=None, max_recv_segment=segment).login()
        if first:
            assert TARGET.encode() in link.run(link.session.text([("SendTargets", "All")])).data
        for make in makers:
            link.end.feed(make(link.end.connection))
        _ends_well(world, link.end)


@fuzz
@given(makers=st.lists(st.one_of(requests(), writes()), max_size=6), seconds=st.integers(0, 200))
def test_time_passes(makers: list[Maker], seconds: int) -> None:
    """Pings, their time limit, a login that is never finished, and an asked-for logout."""
    with a_world() as world:
        link = _logged_in(world, (False, False))
        waiting = TargetEnd(world.environment)
        for number, make in enumerate(makers):
            link.end.connection.tick(float(number * seconds))
            link.end.feed(make(link.end.connection))
            waiting.connection.tick(float(number * seconds))
            waiting.feed(b"\x43")
        link.end.connection.request_end(5)
        link.end.settle()
        waiting.connection.tick(1000.0)
        assert not waiting.reading
        waiting.disconnect()
        _ends_well(world, link.end)


def test_memory_stays_bounded() -> None:
    """A window of large writes that never send their data, and reads that are never taken."""
    with a_world() as world:
        flood = []
        for number in range(2000):
            write = struct.pack(">BBQIxx", 0x8A, 0, 0, 16384 if number % 2 else 2048)
            size = struct.unpack_from(">I", write, 10)[0] * 512
            flood.append((0x21 if number % 3 else 0xA1, number + 1, size, write))
        tracemalloc.start()
        try:
            links = []
            for _ in range(4):
                link = Link(world.environment, isid=0x80_0000_0000_00 + len(links)).login()
                link.ready()
                links.append(link)
                for flags, tag, size, command in flood:
                    connection = link.end.connection
                    numbers = (0, tag, size, connection.out.exp_cmd_sn, 0, command)
                    link.end.feed(_wire(pdu.GENERIC.pack(0x01, flags, 0, *numbers), bytes(4096)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < len(links) * _MEMORY
        for link in links:
            _ends_well_later(link.end)
        world.check()


def _ends_well_later(end: TargetEnd) -> None:
    assert end.connection.tasks.count <= 256
    end.disconnect()
    assert end.connection.tasks.count == 0
