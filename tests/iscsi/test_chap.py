"""CHAP: published vectors, the exchange, its failures, and the secrets file (RFC 1994, 7143)."""

from __future__ import annotations

import base64
import hashlib
import itertools
import traceback
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.errors import UsageError
from userdisk.iscsi.chap import (
    Account,
    ChapError,
    ChapTarget,
    Credentials,
    parse_secrets,
    response,
)

SECRET = b"initiatorsecret"
MUTUAL = b"targetsecret1234"
CREDENTIALS = Credentials((Account("user", SECRET),), Account("disk", MUTUAL))


def counting() -> Callable[[int], bytes]:
    """Bytes 1, 2, 3 ... instead of random ones."""
    numbers = itertools.count(1)
    return lambda length: bytes(next(numbers) & 0xFF for _ in range(length))


def challenge(target: ChapTarget, algorithm: str = "5") -> tuple[int, bytes]:
    answers = dict(target.answer({"CHAP_A": algorithm}))
    return int(answers["CHAP_I"]), bytes.fromhex(answers["CHAP_C"][2:])


def proof(target: ChapTarget, secret: bytes = SECRET) -> dict[str, str]:
    identifier, value = challenge(target)
    return {"CHAP_N": "user", "CHAP_R": "0x" + response(5, identifier, secret, value).hex()}


@pytest.mark.parametrize(
    ("identifier", "challenge_hex", "response_hex", "secret"),
    [
        (0, "cc7e5247514551acdcbf782c4027bfb1", "fdfdad5277812ae40956a66f3db23308", b"password"),
        (0, "81a49cb700e8c2ee9bc3852a506406c3", "8876e228962a999637eecc2423f55f07", b"password"),
        (0, "e270954e7d84f99535dce2e5d7340a7d", "4d64f587c7b5248406b939e1e9abeb74", b"bar"),
        (2, "d7ec2fff2ada437f9dcd4e3b0df44d50", "1ffc6c2659bc5bb94144fd01eb756e37", b"beaVIs"),
    ],
)
def test_recorded_md5_exchanges(
    identifier: int, challenge_hex: str, response_hex: str, secret: bytes
) -> None:
    """Captured iSCSI and EAP-MD5 exchanges, as published with John the Ripper's chap format."""
    found = response(5, identifier, secret, bytes.fromhex(challenge_hex))
    assert found.hex() == response_hex


@pytest.mark.parametrize(("offer", "chosen", "length"), [
    ("5", 5, 16), ("5,6,7,8", 5, 16), ("8,7,5", 8, 32), ("99,7", 7, 32), ("6", 6, 20),
])  # fmt: skip
def test_the_first_algorithm_that_we_know(offer: str, chosen: int, length: int) -> None:
    target = ChapTarget(CREDENTIALS, counting())
    answers = dict(target.answer({"CHAP_A": offer}))
    assert answers["CHAP_A"] == str(chosen)
    value = bytes.fromhex(answers["CHAP_C"][2:])
    assert len(value) == length
    names = {5: hashlib.md5, 6: hashlib.sha1, 7: hashlib.sha256, 8: hashlib.sha3_256}
    digest = names[chosen](bytes([int(answers["CHAP_I"])]) + SECRET + value).hexdigest()
    assert target.answer({"CHAP_N": "user", "CHAP_R": "0x" + digest}) == []
    assert target.done


@pytest.mark.parametrize("offer", ["", "56", "0", "5 ", "MD5", "1,2,3", "05"])
def test_no_algorithm(offer: str) -> None:
    with pytest.raises(ChapError):
        ChapTarget(CREDENTIALS, counting()).answer({"CHAP_A": offer})


@pytest.mark.parametrize("prefix", ["0x", "0X", "0b", "0B"])
def test_hexadecimal_and_base64_responses(prefix: str) -> None:
    target = ChapTarget(CREDENTIALS, counting())
    identifier, value = challenge(target)
    digest = response(5, identifier, SECRET, value)
    text = digest.hex() if prefix in "0x0X" else base64.b64encode(digest).decode()
    assert target.answer({"CHAP_N": "user", "CHAP_R": prefix + text}) == []
    assert target.done


@pytest.mark.parametrize("name", ["0x75736572", "0b74", "user"])
def test_the_name_is_plain_text(name: str) -> None:
    target = ChapTarget(Credentials((Account(name, SECRET),)), counting())
    keys = proof(target) | {"CHAP_N": name}
    target.answer(keys)
    assert target.done


def test_mutual_authentication() -> None:
    target = ChapTarget(CREDENTIALS, counting())
    theirs = bytes(range(100, 116))
    answers = target.answer(proof(target) | {"CHAP_I": "0x7", "CHAP_C": "0x" + theirs.hex()})
    digest = hashlib.md5(b"\x07" + MUTUAL + theirs).hexdigest()
    assert answers == [("CHAP_N", "disk"), ("CHAP_R", "0x" + digest)]


@pytest.mark.parametrize("change", [
    {"CHAP_N": "other"},
    {"CHAP_N": "USER"},
    {"CHAP_N": ""},
    {"CHAP_R": "0x" + "00" * 16},
    {"CHAP_R": "0x00"},
    {"CHAP_R": "0x" + "00" * 17},
    {"CHAP_R": "0b" + base64.b64encode(bytes(1000)).decode()},
    {"CHAP_R": ""},
    {"CHAP_R": "secret"},
    {"CHAP_I": "1"},
    {"CHAP_C": "0x01020304"},
    {"CHAP_I": "256", "CHAP_C": "0x01020304"},
    {"CHAP_I": "one", "CHAP_C": "0x01020304"},
    {"CHAP_I": "1", "CHAP_C": "0b"},
    {"CHAP_I": "1", "CHAP_C": "0x" + "01" * 1025},
    {"CHAP_A": "5"},
    {"CHAP_X": "5"},
])  # fmt: skip
def test_refused(change: dict[str, str]) -> None:
    target = ChapTarget(CREDENTIALS, counting())
    with pytest.raises(ChapError) as caught:
        target.answer(proof(target) | change)
    assert not target.done
    assert SECRET.decode() not in str(caught.value)


def test_a_wrong_secret_is_not_asked_again() -> None:
    target = ChapTarget(CREDENTIALS, counting())
    with pytest.raises(ChapError):
        target.answer(proof(target, b"another secret"))
    assert not target.done


def test_our_challenge_reflected() -> None:
    target = ChapTarget(CREDENTIALS, counting())
    identifier, value = challenge(target)
    keys = {
        "CHAP_N": "user",
        "CHAP_R": "0x" + response(5, identifier, SECRET, value).hex(),
        "CHAP_I": str(identifier),
        "CHAP_C": "0x" + value.hex(),
    }
    with pytest.raises(ChapError, match="reflects"):
        target.answer(keys)
    assert not target.done


def test_mutual_without_a_secret_for_it() -> None:
    target = ChapTarget(Credentials((Account("user", SECRET),)), counting())
    with pytest.raises(ChapError, match="mutual"):
        target.answer(proof(target) | {"CHAP_I": "1", "CHAP_C": "0x0102"})


@pytest.mark.parametrize("keys", [{"CHAP_N": "user", "CHAP_R": "0x00"}, {"CHAP_A": "5",
                                  "CHAP_N": "user"}, {"CHAP_C": "0x00"}])  # fmt: skip
def test_steps_out_of_order(keys: dict[str, str]) -> None:
    with pytest.raises(ChapError, match="unexpected"):
        ChapTarget(CREDENTIALS, counting()).answer(keys)


def test_nothing_after_the_end() -> None:
    target = ChapTarget(CREDENTIALS, counting())
    keys = proof(target)
    target.answer(keys)
    with pytest.raises(ChapError, match="unexpected"):
        target.answer(keys)


def test_secrets_file() -> None:
    text = (
        "# who may log in\n\n"
        "user alice correct horse 1\r\n"
        "  user bob   another-secret  \n"
        "mutual disk0 yet-another-one\n"
    )
    found = parse_secrets(text, "secrets")
    assert found.secret("alice") == b"correct horse 1"
    assert found.secret("bob") == b"another-secret"
    assert found.secret("disk0") is None
    assert found.mutual == Account("disk0", b"yet-another-one")


@pytest.mark.parametrize(("text", "message"), [
    ("", "no user"),
    ("mutual disk yet-another-one", "no user"),
    ("user alice", "line 1: write"),
    ("\nalice correct-horse-1", "line 2: write"),
    ("user alice short", "secret of alice: must be 12 to 255 bytes"),
    ("user alice " + "x" * 256, "must be 12 to 255"),
    ("user a correct-horse-1\nuser a correct-horse-2", "user a: given twice"),
    ("user a correct-horse-1\nmutual b correct-horse-1", "same secret"),
    ("user a correct-horse-1\nmutual b xxxxxxxxxxxx\nmutual c yyyyyyyyyyyy", "line 3"),
])  # fmt: skip
def test_bad_secrets_file(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_secrets(text, "--chap-file f")
    shown = "".join(traceback.format_exception(caught.value))
    assert str(caught.value).startswith("--chap-file f: ")
    assert "\n" not in str(caught.value)
    assert "correct-horse" not in str(caught.value)
    assert "correct-horse" not in shown


def test_secrets_stay_out_of_repr() -> None:
    assert "secret" not in repr(CREDENTIALS).replace("Secret", "")
    assert SECRET.decode() not in repr(CREDENTIALS) and MUTUAL.decode() not in repr(CREDENTIALS)
    assert "user" in repr(CREDENTIALS)


_VALUES = st.one_of(st.text(max_size=40), st.sampled_from(["5", "0x00", "0b", "user", "5,6", "1"]))
_KEYS = st.dictionaries(
    st.sampled_from(["CHAP_A", "CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"]), _VALUES, min_size=1
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_KEYS, max_size=4))
def test_random_keys_never_authenticate(requests: list[dict[str, str]]) -> None:
    target = ChapTarget(CREDENTIALS, counting())
    try:
        target.answer({"CHAP_A": "5"})
        for keys in requests:
            target.answer(keys)
    except ChapError:
        pass
    assert not target.done
