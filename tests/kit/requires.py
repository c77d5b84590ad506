"""Skips for programs that are not installed; with CI set such a skip is a failure (conftest)."""

from __future__ import annotations

import shutil

import pytest


def requires(*programs: str) -> pytest.MarkDecorator:
    """Mark a test (or a module, as `pytestmark`) that needs programs on the search path."""
    missing = missing_program(*programs)
    return pytest.mark.skipif(missing is not None, reason=f"needs {missing}")


def missing_program(*programs: str) -> str | None:
    """The first program that is not installed. Daemons live in /usr/sbin, often not on the path."""
    return next((name for name in programs if find_program(name) is None), None)


def find_program(name: str) -> str | None:
    """Where a program is."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
