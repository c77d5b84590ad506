"""The `userdisk` command: where it starts, and how it reports errors.

Exit status: 0 done, 1 it failed, 2 the request was wrong, 130 interrupted. An error is one line on
standard error; a traceback means a bug in userdisk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from userdisk.errors import UsageError, UserdiskError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; `arguments` default to `sys.argv[1:]`."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # before click looks after it, or after that
        return _fail("interrupted", 130)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        import click

        from userdisk.cli.commands import userdisk
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        return _fail("the command line needs the package click: pip install 'userdisk[cli]'", 1)
    try:
        status = userdisk.main(
            None if arguments is None else list(arguments), "userdisk", standalone_mode=False
        )
    except click.exceptions.NoArgsIsHelpError as error:
        path = error.ctx.command_path if error.ctx is not None else "userdisk"
        if _as_json():
            return _fail(f"which command? (see {path} --help)", 2)
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "userdisk"
        return _fail(f"{_lower_first(error.format_message())} (see {path} --help)", 2)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except click.Abort:
        return _fail("interrupted", 130)
    except UsageError as error:
        return _fail(str(error), 2)
    except UserdiskError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        # The reader is gone; give the flush at exit somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(_os_error(error), 1)
    return status if isinstance(status, int) else 0


def _as_json() -> bool:
    logs = sys.modules.get("userdisk.cli.logs")  # not there without click
    return logs is not None and bool(logs.as_json())


def _fail(message: str, status: int) -> int:
    from userdisk.log_format import masked

    line = masked(" ".join(message.split()))
    if _as_json():
        import logging

        logging.getLogger("userdisk").error("%s", line)
    else:
        print(f"userdisk: {line}", file=sys.stderr)
    return status


def _lower_first(message: str) -> str:
    return (message[:1].lower() + message[1:]).rstrip(".")


def _os_error(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason
