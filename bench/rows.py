"""What is measured: loads, the servers that bear them, and the goals that they are held to."""

from __future__ import annotations

from dataclasses import dataclass, replace

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop of requests. `operation` is rr, rw, sr or sw; `length` is in bytes."""

    operation: str
    length: int
    depth: int
    one_cpu: bool = False  #: both ends on one CPU, or the scheduler is what is measured


@dataclass(frozen=True, slots=True)
class Subject:
    """Who bears the load: a kind of server (see `servers.KINDS`), or "echo" (iSCSI's messages)."""

    name: str
    server: str
    connections: int = 1  #: each with the whole depth of the load
    words: tuple[str, ...] = ()  #: for blkload: "digest", CRC32C data digests; "structured" replies
    beside: int = 0  #: a neighbour on a connection of its own, at this depth


@dataclass(frozen=True, slots=True)
class Start:
    """A server that is started, and used a little: `userdisk serve` with this unit, or tgt."""

    name: str
    unit: str = ""  #: what to serve; "" for tgt
    image: int = 0  #: make `unit` a sparse file of so many bytes first


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a metric of a subject, or for its ratio to that of another."""

    metric: str
    subject: str
    over: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool | None:
        """None: there is no bound, it is only shown."""
        if self.at_least is not None:
            return value >= self.at_least
        return value <= self.at_most if self.at_most is not None else None


@dataclass(frozen=True, slots=True)
class Row:
    """One table of the report. `load` is None where the subjects are `Start`."""

    key: str
    title: str
    load: Load | None
    subjects: tuple[Subject | Start, ...]
    goals: tuple[Goal, ...]
    columns: tuple[str, ...]


_LOAD_COLUMNS = ("iops", "mib_s", "p50_us", "p99_us", "server_cpu", "client_cpu")
_START_COLUMNS = ("start_s", "idle_mib", "used_mib")

#: over NBD, without its protocol in the name: no row has both
NBD, MEMORY = Subject("userdisk", "userdisk nbd"), Subject("nbdkit memory", "nbdkit memory")
PYTHON = Subject("nbdkit python", "nbdkit python")
QEMU, SERVER = Subject("qemu-nbd", "qemu-nbd"), Subject("nbd-server", "nbd-server")
UNIX = Subject("userdisk", "userdisk unix")
MEMORY_UNIX = Subject("nbdkit memory", "nbdkit memory unix")
STRUCTURED = ("structured",)

USERDISK, TGT = Subject("userdisk", "userdisk"), Subject("tgt", "tgt")
ECHO, FILE = Subject("echo", "echo"), Subject("userdisk file", "userdisk file")
EIGHT = Subject("userdisk x8", "userdisk", connections=8)
BUSY = Subject("userdisk, busy", "userdisk", beside=32)
DIGEST = Subject("userdisk, digest", "userdisk", words=("digest",))


def _against_tgt(times: float, subject: str = "userdisk") -> Goal:
    return Goal("iops", subject, "tgt", at_least=times)


_READ = Load("rr", 4 * KIB, 32)
_WRITE = Load("rw", 4 * KIB, 32)
_CPU = Goal("server_cpu", "userdisk", "tgt", at_most=0.3)
_ECHO = Goal("iops", "userdisk", "echo")
_ALL = (USERDISK, TGT, ECHO)
_NBD_ALL = (NBD, MEMORY, PYTHON, QEMU, SERVER)


def _against_nbd(memory: float, python: float | None = None) -> tuple[Goal, ...]:
    """Bounds of the ratios to nbdkit; those to the others are only shown."""
    return (
        Goal("iops", "userdisk", "nbdkit memory", at_least=memory),
        Goal("iops", "userdisk", "nbdkit python", at_least=python),
        Goal("iops", "userdisk", "qemu-nbd"),
        Goal("iops", "userdisk", "nbd-server"),
    )


_NBD_CPU = Goal("server_cpu", "userdisk", "nbdkit memory", at_most=0.5)
_UNIX_GOALS = (
    Goal("iops", "userdisk", "nbdkit memory", at_least=1.2),
    Goal("server_cpu", "userdisk", "nbdkit memory"),
)

ROWS = (
    Row(
        "read-32", "4 KiB random reads, depth 32", _READ, _ALL,
        (_against_tgt(4), Goal("iops", "userdisk", "echo", at_least=0.5), _CPU), _LOAD_COLUMNS,
    ),
    Row(
        "write-32", "4 KiB random writes, depth 32", _WRITE, _ALL,
        (_against_tgt(4), _ECHO, _CPU), _LOAD_COLUMNS,
    ),
    Row(
        "read-1", "4 KiB random reads, depth 1, both ends on one CPU",
        Load("rr", 4 * KIB, 1, one_cpu=True), _ALL, (_against_tgt(1.3), _ECHO), _LOAD_COLUMNS,
    ),
    Row(
        "write-1", "4 KiB random writes, depth 1, both ends on one CPU",
        Load("rw", 4 * KIB, 1, one_cpu=True), _ALL, (_against_tgt(1.3), _ECHO), _LOAD_COLUMNS,
    ),
    Row(
        "read-1m", "1 MiB sequential reads, depth 8",
        Load("sr", MIB, 8), _ALL, (_against_tgt(1.5), _ECHO), _LOAD_COLUMNS,
    ),
    Row(
        "write-1m", "1 MiB sequential writes, depth 8",
        Load("sw", MIB, 8), _ALL, (_against_tgt(1.5), _ECHO), _LOAD_COLUMNS,
    ),
    Row(
        "file-read-32", "4 KiB random reads of a file, depth 32", _READ, (FILE, TGT),
        (_against_tgt(2, "userdisk file"),), _LOAD_COLUMNS,
    ),
    Row(
        "file-write-32", "4 KiB random writes to a file, depth 32", _WRITE, (FILE, TGT),
        (_against_tgt(2, "userdisk file"),), _LOAD_COLUMNS,
    ),
    Row(
        "connections-8", "4 KiB random reads, eight connections at depth 32 each", _READ,
        (EIGHT, USERDISK, Subject("tgt x8", "tgt", connections=8), TGT),
        (Goal("iops", "userdisk x8", "userdisk", at_least=0.9), Goal("iops", "tgt x8", "tgt")),
        _LOAD_COLUMNS,
    ),
    Row(
        "beside", "4 KiB random reads, depth 1, beside a connection at depth 32",
        Load("rr", 4 * KIB, 1),
        (BUSY, USERDISK, Subject("tgt, busy", "tgt", beside=32), TGT),
        (Goal("p99_us", "userdisk, busy", "tgt, busy"),
         Goal("p99_us", "userdisk, busy", "userdisk")),
        _LOAD_COLUMNS,
    ),
    Row(
        "digest-read-32", "4 KiB random reads, depth 32, with data digests", _READ,
        (DIGEST, USERDISK, Subject("tgt, digest", "tgt", words=("digest",))),
        (Goal("iops", "userdisk, digest", "userdisk"),
         Goal("iops", "userdisk, digest", "tgt, digest")), _LOAD_COLUMNS,
    ),
    Row(
        "digest-write-32", "4 KiB random writes, depth 32, with data digests", _WRITE,
        (DIGEST, USERDISK, Subject("tgt, digest", "tgt", words=("digest",))),
        (Goal("iops", "userdisk, digest", "userdisk"),
         Goal("iops", "userdisk, digest", "tgt, digest")), _LOAD_COLUMNS,
    ),
    Row(
        "nbd-read-32", "NBD: 4 KiB random reads, depth 32", _READ, _NBD_ALL,
        (*_against_nbd(2, 4), _NBD_CPU), _LOAD_COLUMNS,
    ),
    Row(
        "nbd-write-32", "NBD: 4 KiB random writes, depth 32", _WRITE, _NBD_ALL,
        (*_against_nbd(2, 4), _NBD_CPU), _LOAD_COLUMNS,
    ),
    Row(
        "nbd-read-1", "NBD: 4 KiB random reads, depth 1, both ends on one CPU",
        Load("rr", 4 * KIB, 1, one_cpu=True), _NBD_ALL, _against_nbd(0.9), _LOAD_COLUMNS,
    ),
    Row(
        "nbd-write-1", "NBD: 4 KiB random writes, depth 1, both ends on one CPU",
        Load("rw", 4 * KIB, 1, one_cpu=True), _NBD_ALL, _against_nbd(0.9), _LOAD_COLUMNS,
    ),
    Row(
        "nbd-read-1m", "NBD: 1 MiB sequential reads, depth 8",
        Load("sr", MIB, 8), _NBD_ALL, _against_nbd(0.9), _LOAD_COLUMNS,
    ),
    Row(
        "nbd-write-1m", "NBD: 1 MiB sequential writes, depth 8",
        Load("sw", MIB, 8), _NBD_ALL, _against_nbd(0.9), _LOAD_COLUMNS,
    ),
    Row(
        "nbd-structured-32", "NBD: 4 KiB random reads, depth 32, structured replies", _READ,
        (replace(NBD, words=STRUCTURED), replace(MEMORY, words=STRUCTURED)),
        (Goal("iops", "userdisk", "nbdkit memory"),
         Goal("server_cpu", "userdisk", "nbdkit memory")), _LOAD_COLUMNS,
    ),
    Row(
        "nbd-unix-read-32", "NBD on a Unix socket: 4 KiB random reads, depth 32", _READ,
        (UNIX, MEMORY_UNIX), _UNIX_GOALS, _LOAD_COLUMNS,
    ),
    Row(
        "nbd-unix-write-32", "NBD on a Unix socket: 4 KiB random writes, depth 32", _WRITE,
        (UNIX, MEMORY_UNIX), _UNIX_GOALS, _LOAD_COLUMNS,
    ),
    Row(
        "start", "From start to listening; memory when idle and after a short load", None,
        (Start("ram:1G", "ram:1G"), Start("ram:64T", "ram:64T"),
         Start("1 GiB file", "small.img", GIB), Start("10 TiB file", "large.img", 10 * TIB),
         Start("tgt")),
        (Goal("start_s", "ram:1G", at_most=0.4), Goal("idle_mib", "ram:1G", at_most=50),
         Goal("idle_mib", "ram:64T", "ram:1G", at_most=1.02),
         Goal("idle_mib", "10 TiB file", "1 GiB file", at_most=1.02)), _START_COLUMNS,
    ),
)  # fmt: skip
