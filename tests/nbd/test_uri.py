"""NBD URIs: what they mean, one spelling, and one clear line for each mistake."""

from __future__ import annotations

import pytest

from userdisk.errors import UsageError
from userdisk.nbd.uri import Uri, is_uri, parse_uri


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("nbd://example.com", Uri(host="example.com")),
        ("nbd://example.com/", Uri(host="example.com")),
        ("NBD://Example.com:1/disk", Uri("disk", "example.com", 1)),
        ("nbd://example.com//disk", Uri("/disk", "example.com")),
        ("nbd://example.com/hello%20w%C3%B6rld", Uri("hello wörld", "example.com")),
        ("nbd://[::1]:10810/a", Uri("a", "::1", 10810)),
        ("nbds://me@h/a?tls-hostname=b", Uri("a", "h", tls=True, hostname="b", user="me")),
        ("nbds://h/?tls-certificates=/x&tls-type=x509", Uri(host="h", tls=True, certificates="/x")),
        ("nbds://h/?tls-verify-peer=0", Uri(host="h", tls=True, verify=False)),
        ("nbd+unix:///?socket=a+b", Uri(socket="a+b")),
        ("nbd+unix:///e?socket=%00x", Uri("e", socket="@x")),
        ("nbds+unix:///e?socket=/s", Uri("e", socket="/s", tls=True)),
    ],
)
def test_what_a_uri_means(text: str, uri: Uri) -> None:
    assert parse_uri(text) == uri
    assert parse_uri(str(uri)) == uri
    assert is_uri(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nbd:localhost:10809", "not an NBD URI"),
        ("http://h/", "not an NBD URI"),
        ("nbd:///x", "names no host"),
        ("nbd://h:99999/", "not an NBD URI"),
        ("nbd://h:0/", "port 0"),
        ("nbd://[::1/", "not an NBD URI"),
        ("nbd+vsock://3/", "vsock"),
        ("nbd+unix:///x", "socket=PATH"),
        ("nbd+unix://h/x?socket=s", "no host"),
        ("nbd+unix:///x?socket=", "socket is empty"),
        ("nbd+unix:///x?socket=a&socket=b", "twice"),
        ("nbd://h/x?socket=s", "socket is for nbd+unix"),
        ("nbd://h/x?colour=red", "colour"),
        ("nbd://h/x?junk", "name=value"),
        ("nbd://h/x?tls-hostname=a", "is for nbds"),
        ("nbds://h/x?tls-verify-peer=2", "0 or 1"),
        ("nbds://h/x?tls-type=psk", "x509"),
        ("nbd://h/%ff", "UTF-8"),
        ("nbd://h/%00", "zero byte"),
        ("nbd+unix:///?socket=a%00b", "zero byte"),
        ("nbd://h/a b", "%-escapes"),
        ("nbd://h/a#b", "fragment"),
        ("nbd://u:p@h/", "password"),
        ("nbd://h/" + "x" * 4097, "4096 bytes"),
        ("nbd://h/" + "x" * 20000, "16384 characters"),
    ],
)
def test_a_mistake_is_one_clear_line(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_uri(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_is_no_uri() -> None:
    assert not is_uri("disk.img")
    assert not is_uri("nbd:disk")
