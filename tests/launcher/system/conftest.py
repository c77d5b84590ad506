"""Real instances; afterwards nothing may be left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.kit import Stable, stable_in


@pytest.fixture
def stable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stable]:
    with stable_in(tmp_path.resolve(), monkeypatch) as found:
        yield found
