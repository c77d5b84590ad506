"""Seconds as the value of an option: a number in a range, and so no `nan`."""

from __future__ import annotations

import math
from typing import Any

import click


class Seconds(click.FloatRange):
    """Like `click.FloatRange`, which takes what is no number for one in the range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """See `click.ParamType`."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return seconds
