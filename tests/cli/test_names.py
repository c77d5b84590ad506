"""Names and addresses as people type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.cli import names
from userdisk.cli.unit_options import unit_name
from userdisk.errors import UsageError


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("ram:1G", "ram"),
        ("disk.img", "disk.img"),
        ("/srv/disks/My Disk.img", "My Disk.img"),
        ("/dev/sdb", "sdb"),
        ("examples/rawdisk.py:RawDisk", "RawDisk"),
        ("package.module:Class", "Class"),
        ("module:Class", "Class"),
        ("C:\\disks\\a.img", "a.img"),
        ("folder/", "folder"),
        ("iscsi://192.0.2.1/iqn.2026-11.com.example:disk/0", "disk"),
        ("iscsi:iscsi://anna@[::1]:3261/iqn.2026-11.com.example:disk/3?chap-file=/a/b", "disk-3"),
        ("iscsi://h/eui.0123456789abcdef/0", "eui.0123456789abcdef"),
    ],
)
def test_unit_name(spec: str, name: str) -> None:
    assert unit_name(spec) == name


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("disk.img", "iqn.2026-11.io.userdisk:disk.img"),
        ("/srv/My  Disk_1.img", "iqn.2026-11.io.userdisk:my-disk-1.img"),
        ("x.py:RawDisk", "iqn.2026-11.io.userdisk:rawdisk"),
        ("Платформа", "iqn.2026-11.io.userdisk:disk"),
    ],
)
def test_default_target_name(spec: str, name: str) -> None:
    assert names.target_names([spec], (), each=False) == [name]


@given(st.text(min_size=1, max_size=400))
def test_a_default_name_is_a_name(spec: str) -> None:
    made = names.target_names([spec, spec], (), each=True)
    assert [names.checked_name("--name", name) for name in made] == made
    assert len(set(made)) == 2
    assert names.target_names([spec, spec], (), each=True) == made


def test_names_of_several_targets() -> None:
    specs = ["a.img", "ram:1G", "ram:2G", "ram-2"]
    assert names.target_names(specs, (), each=False) == ["iqn.2026-11.io.userdisk:a.img"]
    made = [name.rpartition(":")[2] for name in names.target_names(specs, (), each=True)]
    assert made == ["a.img", "ram", "ram-2", "ram-2-2"]
    given = ["iqn.2026-11.x:B", "iqn.2026-11.x:a"]
    assert names.target_names(specs[:2], given, each=True) == ["iqn.2026-11.x:b", given[1]]
    with pytest.raises(UsageError, match="--name: given 2 times, each of the 4 units needs one"):
        names.target_names(specs, given, each=True)
    with pytest.raises(UsageError, match="--each"):
        names.target_names(specs, given, each=False)


@pytest.mark.parametrize(
    "text",
    [
        "iqn.2001-04.com.example",
        "iqn.2001-04.com.example:storage.disk2.sys1.xyz",
        "iqn.1993-08.org.debian:01:abcdef",
        "iqn.1991-05.com.microsoft:pc-1",
        "eui.02004567a425678d",
        "naa.52004567ba64678d",
        "naa.62004567ba64678d0123456789abcdef",
    ],
)
def test_names_of_rfc_7143_are_taken(text: str) -> None:
    assert names.checked_name("--name", text) == text
    assert names.checked_name("--name", text.upper()) == text


@pytest.mark.parametrize(
    "text",
    ["", "disk", "iqn.2026-13.io.x:a", "iqn.2026-11.io.x:", "iqn.2026-11.io.x:a b",
     "iqn.2026-11.io.x:a_b", "eui.0200", "naa.5", "iqn.2026-11.io.x:" + "a" * 210],
)  # fmt: skip
def test_other_names_are_refused_with_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        names.checked_name("--name", text)


@pytest.mark.parametrize(
    ("text", "portal"),
    [
        ("127.0.0.1", ("127.0.0.1", 3260, 1)),
        ("0.0.0.0:13260", ("0.0.0.0", 13260, 1)),
        ("[::]:3260", ("::", 3260, 1)),
        ("[fe80::1%eth0]", ("fe80::1%eth0", 3260, 1)),
        ("localhost:0", ("localhost", 0, 1)),
        ("127.0.0.1:0,2", ("127.0.0.1", 0, 2)),
        ("10.0.0.1,65535", ("10.0.0.1", 3260, 65535)),
        ("[::1]:3260,7", ("::1", 3260, 7)),
    ],
)
def test_portal(text: str, portal: tuple[str, int, int]) -> None:
    assert names.parse_portal("--listen", text) == portal


@pytest.mark.parametrize(
    "text",
    ["", ":3260", "::1", "a:b", "a:65536", "a:", "[::1", "[]:1", "a:1:2", "a:٣", "a:1,", "a,b",
     "a:1,2,3", "a:1,-1", "a,1:1", "[a,1]", "a:1,0", "a:1,65536", "a:1,70000"],
)  # fmt: skip
def test_bad_portals_are_refused_with_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="--listen"):
        names.parse_portal("--listen", text)


def test_an_ipv6_address_without_brackets_is_told_so() -> None:
    with pytest.raises(UsageError, match=r"brackets, \[::1\]:3260"):
        names.parse_portal("--listen", "fe80::1")


@given(st.integers(0, 2**63))
def test_size_text_is_right_to_one_in_a_hundred(size: int) -> None:
    number, unit = names.size_text(size).split()
    power = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit)
    assert abs(float(number) * 1024**power - size) <= max(size, 1) / 100


@pytest.mark.parametrize(
    ("size", "text"),
    [(512, "512 bytes"), (1 << 30, "1 GiB"), (64 << 40, "64 TiB"), (1536, "1.50 KiB")],
)
def test_size_text(size: int, text: str) -> None:
    assert names.size_text(size) == text
