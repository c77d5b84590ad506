"""launcher/news.py: what a unit's process tells its shim, and what is no news."""

from __future__ import annotations

import os
import queue

import pytest

from userdisk.launcher.news import News, tell


@pytest.fixture
def heard() -> queue.Queue[tuple[int, int]]:
    return queue.Queue()


def test_a_size_arrives(heard: queue.Queue[tuple[int, int]]) -> None:
    news = News(lambda pid, size: heard.put((pid, size)))
    size = 4096
    changed = tell(os.dup(news.descriptor), lambda: size)
    changed()
    assert heard.get(timeout=60) == (os.getpid(), 4096)
    size = 8192
    changed()
    assert heard.get(timeout=60) == (os.getpid(), 8192)


def test_what_is_no_news(heard: queue.Queue[tuple[int, int]]) -> None:
    news = News(lambda pid, size: heard.put((pid, size)))
    for line in (
        b"", b"[]", b"7", b"{", b"[" * 9000, b'{"pid": 1}', b'{"pid": 1, "size": "many"}',
        b'{"pid": 1, "size": -1}', b'{"pid": 1, "size": 9223372036854775808}', b"x" * 99999,
    ):  # fmt: skip
        os.write(news.descriptor, line + b"\n")
    os.write(news.descriptor, b'{"pid": 2, "size": 1}\n')
    assert heard.get(timeout=60) == (2, 1) and heard.empty()


def test_of_many_sizes_the_last_one_counts(heard: queue.Queue[tuple[int, int]]) -> None:
    news = News(lambda pid, size: heard.put((pid, size)))
    lines = [b'{"pid": 2, "size": %d}\n' % size for size in range(1, 1001)]
    os.write(news.descriptor, b"".join(lines))
    last = 0
    while last != 1000:
        last = heard.get(timeout=60)[1]
    assert heard.qsize() == 0
