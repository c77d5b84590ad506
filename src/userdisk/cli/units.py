"""The options that describe a unit, the same for every command that opens one.

A command lists `UNIT_OPTIONS` or `SERVED_UNIT_OPTIONS` among its parameters and takes `**options`;
`UnitOptions(**options)` then opens units. Sizes are text until `userdisk.backend` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

UNIT_HELP = (
    "UNIT is ram:SIZE, an image file, a block device, nbd:URI, iscsi:URL, or module:Class or"
    " file.py:Class for a class of your own."
)

UNIT_OPTIONS: Sequence[click.Option] = (
    click.Option(
        ["--size"],
        metavar="SIZE",
        help="Size of the disk, e.g. 10G; a new image file is created sparse with this size.",
    ),
    click.Option(["--block-length"], metavar="BYTES", help="512 (default), 1024, 2048 or 4096."),
    click.Option(
        ["--physical-block-length"],
        metavar="BYTES",
        help="Block length of the medium; 4096 with --block-length 512 is a 512e disk.",
    ),
    click.Option(["--read-only"], is_flag=True, help="Present the disk write protected."),
    click.Option(["--thick"], is_flag=True, help="Do not offer to unmap (discard) blocks."),
    click.Option(["--product-id"], metavar="TEXT", help="INQUIRY product, 1 to 16 characters."),
    click.Option(["--product-revision"], metavar="TEXT", help="INQUIRY revision, 1 to 4."),
    click.Option(["--new-guid"], is_flag=True, help="Give the disk a new identity."),
    click.Option(
        ["--option", "option"],
        multiple=True,
        metavar="KEY=VALUE",
        help="Option for the unit's class; may be repeated.",
    ),
)


#: `UNIT_OPTIONS`, and what only an initiator can use.
SERVED_UNIT_OPTIONS: Sequence[click.Option] = (
    *UNIT_OPTIONS,
    click.Option(
        ["--removable"],
        is_flag=True,
        help="Present the medium as removable: initiators may eject and load it.",
    ),
    click.Option(
        ["--soft-threshold"],
        type=click.IntRange(1, 99),
        metavar="PERCENT",
        help="Warn initiators when the file system has less room than 100 - PERCENT percent of the"
        " disk's size; 80: a fifth.",
    ),
)
