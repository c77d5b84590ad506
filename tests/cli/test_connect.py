"""The commands that are printed for other machines."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from userdisk.cli.connect import Offer, connect_text

NAME = "iqn.2026-11.io.userdisk:disk.img"
PLAIN = Offer(NAME, "192.0.2.7", 3260, units=2)


def commands(offer: Offer, title: str) -> list[str]:
    paragraphs = dict(part.split("\n", 1) for part in connect_text([offer]).split("\n\n") if part)
    found = next(text for name, text in paragraphs.items() if name.startswith(title))
    return [line.strip() for line in found.splitlines()]


def test_plain() -> None:
    assert commands(PLAIN, "Linux") == [
        "iscsiadm -m discovery -t sendtargets -p 192.0.2.7:3260",
        f"iscsiadm -m node -T {NAME} -p 192.0.2.7:3260 --login",
    ]
    windows = commands(PLAIN, "Windows")
    assert "New-IscsiTargetPortal -TargetPortalAddress 192.0.2.7 -TargetPortalPortNumber 3260" in (
        windows
    )
    assert f"Connect-IscsiTarget -NodeAddress {NAME}" in windows
    qemu = commands(PLAIN, "QEMU")
    assert qemu[0] == f"qemu-img info iscsi://192.0.2.7:3260/{NAME}/0"
    assert f"-drive file=iscsi://192.0.2.7:3260/{NAME}/1,format=raw,if=virtio" in qemu[1]


def test_ipv6_has_brackets_in_urls_and_none_for_windows() -> None:
    offer = Offer(NAME, "2001:db8::1", 3260)
    assert offer.url(0) == f"iscsi://[2001:db8::1]:3260/{NAME}/0"
    assert "-p [2001:db8::1]:3260" in commands(offer, "Linux")[0]
    assert "-TargetPortalAddress 2001:db8::1 " in commands(offer, "Windows")[1]


@pytest.mark.parametrize("user", ["alice", "o'hara; rm -rf $HOME", 'a "b" c'])
def test_names_reach_a_shell_as_they_are(user: str) -> None:
    offer = Offer(NAME, "192.0.2.7", 3260, user=user, mutual_user=user)
    lines = commands(offer, "Linux")
    update = next(line for line in lines if "session.auth.username " in line)
    assert shlex.split(update)[-1] == user
    export = next(line for line in commands(offer, "QEMU") if "LIBISCSI_CHAP_USERNAME" in line)
    script = f"LIBISCSI_CHAP_PASSWORD=x; {export}; printenv LIBISCSI_CHAP_USERNAME"
    assert subprocess.check_output(["bash", "-c", script], text=True) == user + "\n"
    windows = "\n".join(commands(offer, "Windows"))
    assert "MUTUALCHAP -ChapUsername '" + user.replace("'", "''") + "' " in windows


def test_one_way_chap_sets_one_secret() -> None:
    text = connect_text([Offer(NAME, "192.0.2.7", 3260, user="alice")])
    assert "ONEWAYCHAP" in text and "username_in" not in text and "TARGET_PASSWORD" not in text


def test_several_targets_share_what_is_asked_and_found_once() -> None:
    other = Offer(NAME + "-2", "192.0.2.7", 3260, units=1)
    text = connect_text([PLAIN, other])
    for once in ("sendtargets", "New-IscsiTargetPortal", "qemu-img info"):
        assert text.count(once) == 1
    for offer in (PLAIN, other):
        assert f"-m node -T {offer.name} -p 192.0.2.7:3260 --login\n" in text
        assert f"Connect-IscsiTarget -NodeAddress {offer.name}\n" in text
        assert f"-drive file={offer.url(0)},format=raw" in text
    assert f"TargetNodeAddress -in {NAME},{NAME}-2 |" in text


def test_qemu_is_given_no_secret_that_it_would_not_check() -> None:
    lines = commands(Offer(NAME, "192.0.2.7", 3260, user="alice", mutual_user="disk"), "QEMU")
    assert not any("CHAP_TARGET" in line for line in lines)
    assert "# QEMU does not check the target's secret" in lines
