"""Rules that libiscsi's tests check in versions after 1.19, through a real `userdisk serve`.

Each test is named after the one it stands for, and says its rule.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.kit.copies import copy_list, extended_copy, segment
from tests.kit.server import Served, serve
from userdisk.initiator_client import Initiator, ScsiError, sense_codes
from userdisk.iscsi import initiator as initiator_module
from userdisk.iscsi.initiator_login import LoginExchange, LoginRefused, Settings
from userdisk.scsi import inquiry, sense

NAME = "iqn.2026-11.io.userdisk:tester"
SECRET = "correct horse"
BLOCK = 512


@contextmanager
def session(served: Served, *, user: str | None = None) -> Iterator[Initiator]:
    url = served.address
    secret = b"" if user is None else SECRET.encode()
    settings = Settings(NAME, url.target, user=user, secret=secret)
    with Initiator((url.host, url.port), settings) as made:
        made.execute(bytes(6))
        yield made


@pytest.fixture(scope="module")
def two_disks() -> Iterator[Served]:
    """Two units behind two portal groups."""
    with serve("ram:64M", "ram:32M", options=("--listen", "127.0.0.1:0,2")) as served:
        yield served


@pytest.fixture
def initiator(two_disks: Served) -> Iterator[Initiator]:
    with session(two_disks) as made:
        yield made


# -- iSCSICHAP -----------------------------------------------------------------------------------


def serve_with_chap(user: str = "tester") -> AbstractContextManager[Served]:
    return serve("ram:1M", environment={"USERDISK_CHAP_USER": user, "USERDISK_CHAP_SECRET": SECRET})


@pytest.fixture(scope="module")
def secured() -> Iterator[Served]:
    with serve_with_chap() as served:
        yield served


@pytest.fixture
def altered(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[str], str]], None]:
    """Have the initiator send another value for a key of its login."""

    def alter(changed: str, change: Callable[[str], str]) -> None:
        class Altered(LoginExchange):
            def _request(
                self, keys: list[tuple[str, str]], *, transit: bool = True
            ) -> tuple[int, bytes]:
                keys = [(key, change(value) if key == changed else value) for key, value in keys]
                return super()._request(keys, transit=transit)

        monkeypatch.setattr(initiator_module, "LoginExchange", Altered)

    return alter


Alter = Callable[[str, Callable[[str], str]], None]


def test_chap_simple(secured: Served, altered: Alter) -> None:
    """Of the algorithms 5, 6, 7 and 8 that are offered, the first one known is chosen: MD5."""
    altered("CHAP_A", lambda _: "5,6,7,8")
    with session(secured, user="tester") as initiator:
        assert initiator.session.parameters.answers["CHAP_A"] == "5"
        assert initiator.read(0, 1) == bytes(BLOCK)


@pytest.mark.parametrize("offer", ["56", "", "5x", "05,", "0x5", "4,9"])
def test_chap_invalid(secured: Served, altered: Alter, offer: str) -> None:
    """An offer without an algorithm that we know is refused, also if it begins like one."""
    altered("CHAP_A", lambda _: offer)
    with pytest.raises(LoginRefused) as refused, session(secured, user="tester"):
        pass
    assert refused.value.status == 0x0201


@pytest.mark.parametrize("user", ["0x74657374", "0xzz", "0bdGVzdA==", "0b"])
def test_chap_hex_and_base64_names(user: str) -> None:
    """CHAP_N is text: a name that looks like a binary value is the name as it stands."""
    with serve_with_chap(user) as served:
        with session(served, user=user) as initiator:
            assert initiator.read(0, 1) == bytes(BLOCK)
        with pytest.raises(LoginRefused), session(served, user="test"):
            pass


def test_chap_base64(secured: Served, altered: Alter) -> None:
    """CHAP_R may be in base64."""
    altered("CHAP_R", lambda hexadecimal: encode(bytes.fromhex(hexadecimal[2:])))
    with session(secured, user="tester") as initiator:
        assert initiator.read(0, 1) == bytes(BLOCK)


@pytest.mark.parametrize("extra", [1, 16, 2000])
def test_chap_base64_oversize(secured: Served, altered: Alter, extra: int) -> None:
    """A CHAP_R that is longer than the hash is refused, though the hash is at its beginning."""
    altered("CHAP_R", lambda hexadecimal: encode(bytes.fromhex(hexadecimal[2:]) + bytes(extra)))
    with pytest.raises(LoginRefused) as refused, session(secured, user="tester"):
        pass
    assert refused.value.status == 0x0201


def encode(value: bytes) -> str:
    return "0b" + base64.b64encode(value).decode()


# -- iSCSISendTargets, iSCSINop, iSCSITMF --------------------------------------------------------


def test_sendtargets_simple(initiator: Initiator, two_disks: Served) -> None:
    """SendTargets=All in a normal session is answered, with the session's own target."""
    task = initiator.finish(initiator.session.text([("SendTargets", "All")]))
    assert not initiator.session.rejects
    lines = bytes(task.data).rstrip(b"\0").decode().split("\0")
    assert lines[0] == f"TargetName={two_disks.address.target}"
    assert [line.partition("=")[0] for line in lines[1:]] == ["TargetAddress"] * 2
    assert sorted(line[-2:] for line in lines[1:]) == [",1", ",2"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SendTargetsPlease", "All"),
        ("SendTargets", "Alle"),
        ("SendTargets", "A"),
        ("sENDtARGETS", "aLL"),
    ],
)
def test_sendtargets_invalid(initiator: Initiator, key: str, value: str) -> None:
    """Garbage that only begins like SendTargets=All ends in a Reject; then a right one works."""
    initiator.session.text([(key, value)])
    initiator.run(lambda: bool(initiator.session.rejects))
    ((_, header),) = initiator.session.rejects
    assert header[0] & 0x3F == 0x04, "the Text Request comes back"
    task = initiator.finish(initiator.session.text([("SendTargets", "All")]))
    assert bytes(task.data).startswith(b"TargetName=")


@pytest.mark.parametrize("data", [b"nopping\0", b"", b"x", bytes(range(256)) * 16])
def test_nop_simple(initiator: Initiator, data: bytes) -> None:
    """The data of a NOP-Out comes back in the NOP-In, all of it and nothing else."""
    assert initiator.finish(initiator.session.ping(data)).data == data


def test_logout_during_io_async(two_disks: Served) -> None:
    """A logout that comes behind commands under way is answered; the disk goes on for others."""
    with session(two_disks) as initiator:
        cdb = struct.pack(">BxIxHx", 0x2A, 0, 128)
        writes = [initiator.session.command(cdb, data_out=bytes(128 * BLOCK)) for _ in range(64)]
        logout = initiator.session.logout()
        assert initiator.finish(logout).response == 0
        assert all(write.status == 0 for write in writes if write.done)
        initiator.session.closed = True
    with session(two_disks) as another:
        assert another.read(0, 128) == bytes(128 * BLOCK)


# -- SCSI ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 255, BLOCK - 1, BLOCK, 2 * BLOCK - 1])
def test_compare_and_write_miscompare_sense(initiator: Initiator, offset: int) -> None:
    """INFORMATION of a miscompare is the offset of the first byte that differs."""
    initiator.write(0, b"A" * BLOCK * 2)
    compared = bytearray(b"A" * BLOCK * 2)
    compared[offset] = compared[-1] = ord("x")
    task = initiator.finish(
        initiator.session.command(
            struct.pack(">BxQ3xBxx", 0x89, 0, 2), data_out=compared + b"B" * BLOCK * 2
        )
    )
    found = sense.decode(task.sense)
    assert (found.key, found.code, found.information) == (0xE, 0x1D00, offset)
    assert initiator.read(0, 2) == b"A" * BLOCK * 2


def test_inquiry_vpd_page_codes_sorted(initiator: Initiator) -> None:
    """The supported pages are in strictly ascending order, and each can be read."""
    data = vpd(initiator, 0)
    pages = list(data[4:])
    assert pages == sorted(set(pages)) and len(pages) == data[3]
    assert {0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2} <= set(pages)
    for page in pages:
        assert vpd(initiator, page)[1] == page


def vpd(initiator: Initiator, page: int) -> bytes:
    cdb = struct.pack(">BBBHx", 0x12, 1, page, 1024)
    return initiator.execute(cdb, read_length=1024)


def report_groups(initiator: Initiator, length: int) -> bytes:
    cdb = struct.pack(">BB4xI2x", 0xA3, 0x0A, length)
    return initiator.execute(cdb, read_length=length)


def test_report_target_port_groups_simple(initiator: Initiator) -> None:
    """Four bytes say how long the report is; read whole, it has a group that is active."""
    assert initiator.execute(bytes.fromhex("12 00 00 00 24 00"), read_length=36)[5] >> 4 & 3
    (length,) = struct.unpack(">I", report_groups(initiator, 4))
    data = report_groups(initiator, 4 + length)
    assert len(data) == 4 + length
    states, at = [], 4
    while at < len(data):
        states.append(data[at] & 0xF)
        at += 8 + 4 * data[at + 7]
    assert at == len(data)
    assert len(states) == 2 and set(states) & {0, 1}


def test_report_target_port_groups_alloc_length(initiator: Initiator) -> None:
    """Cut off anywhere, the report is the same as far as it goes, its length field included."""
    whole = report_groups(initiator, 1024)
    for length in range(1, len(whole) + 1):
        assert report_groups(initiator, length) == whole[:length]


def test_report_luns_simple(initiator: Initiator) -> None:
    """Each logical unit is listed once."""
    cdb = struct.pack(">BBB3xI2x", 0xA0, 0, 0, 4096)
    data = initiator.execute(cdb, read_length=4096)
    (length,) = struct.unpack_from(">I", data)
    luns = [data[at : at + 8] for at in range(8, 8 + length, 8)]
    assert len(luns) == len(set(luns)) == 2


def test_extended_copy_large(initiator: Initiator) -> None:
    """One segment copies as many blocks as its descriptor can say, and all of them arrive.

    A descriptor type with a longer length (0Ah) is refused as unknown where it is not listed.
    """
    cdb = struct.pack(">BB8xI2x", 0x84, 3, 1024)
    parameters = initiator.execute(cdb, read_length=1024)
    listed = parameters[44 : 44 + parameters[43]]
    assert 0x02 in listed
    blocks = 0xFFFF
    step = 512
    for lba in range(0, blocks, step):
        initiator.write(lba, b"".join(struct.pack(">Q", lba + n) * 64 for n in range(step)))
    end = initiator.capacity().block_count - blocks
    names = inquiry.Designator.decode_all(vpd(initiator, 0x83)[4:])
    name = next(each for each in names if each.association == 0 and each.kind == 3)
    cscd = struct.pack(">BBH24sI", 0xE4, 0, 0, name.encode(), BLOCK)
    copy = copy_list([cscd], [segment(0, 0, blocks, 0, end)])
    initiator.execute(extended_copy(len(copy)), data_out=copy)
    for lba in (0, 1, blocks // 2, blocks - 1):
        assert initiator.read(end + lba, 1) == struct.pack(">Q", lba) * 64
    if 0x0A not in listed:
        longer = struct.pack(">BBHHHIQQ2x", 0x0A, 0, 28, 0, 0, BLOCK, 0, end)
        unknown = copy_list([cscd], [longer])
        with pytest.raises(ScsiError) as refused:
            initiator.execute(extended_copy(len(unknown)), data_out=unknown)
        assert sense_codes(refused.value.sense)[1:] == (0x26, 0x09)
