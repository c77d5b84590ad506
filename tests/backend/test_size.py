"""Sizes as people write them."""

from __future__ import annotations

import pytest

from userdisk.backend.size import format_size, parse_size
from userdisk.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512B", 512),
        ("1K", 1024),
        ("64M", 64 << 20),
        ("64MiB", 64 << 20),
        ("10g", 10 << 30),
        ("1.5G", 3 << 29),
        ("64T", 64 << 40),
        ("2P", 2 << 50),
        ("7E", 7 << 60),
        (" 1M ", 1 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "-1", "1 000", "1GB", "1.0001K", "9E", "1Q", "0x10", "1e9", "١", "9" * 40, "1.G"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


def test_in_words() -> None:
    assert format_size(64 << 40) == "64 TiB"
    assert format_size(1536 << 20) == "1536 MiB"
    assert format_size(1000) == "1000 bytes"
