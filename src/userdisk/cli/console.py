"""`userdisk console`: the page in the browser that shows every disk of the launcher."""

from __future__ import annotations

import json

import click

from userdisk.cli.logs import tell
from userdisk.cli.names import is_loopback, is_wildcard, own_address, parse_portal
from userdisk.errors import UsageError, UserdiskError

_DEFAULT = "127.0.0.1:0"


def _console(listen: str, allow_remote: bool, as_json: bool, until_eof: bool) -> int:
    host, port = console_address("--listen", listen)
    remote = not is_loopback(host)
    if remote and not allow_remote:
        raise UsageError(
            f"--listen {listen}: others could see and stop your disks; --allow-remote says that"
            " this is meant"
        )
    try:
        from userdisk.console import running
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "userdisk":
            raise
        raise UserdiskError(
            f"the console needs the package {error.name}: pip install 'userdisk[launcher]'"
        ) from None
    shown = own_address(host) if is_wildcard(host) else host

    def said(url: str, again: bool) -> None:
        if remote and not again:
            tell("userdisk: warning: plain HTTP: whoever sees the traffic can do what you can")
        if as_json:
            click.echo(json.dumps({"url": url}))
            return
        click.echo(f"{'your console runs already, at' if again else 'console at'} {url}")
        minutes = "five" if again else "ten"
        tell(f"(the link is good once, for {minutes} minutes; userdisk console prints another)")

    names = _names(host) if remote else ()
    shown = f"[{shown}]" if ":" in shown else shown
    return running.run((host, port), shown, names, said, remote=remote, until_eof=until_eof)


def console_address(option: str, text: str) -> tuple[str, int]:
    """`ADDR` or `ADDR:PORT`; without a port any that is free. Raises `UsageError`."""
    if "," in text:
        raise UsageError(f"{option} {text}: write it as ADDRESS[:PORT]")
    host, port, _ = parse_portal(option, text)
    bare = text == host or text == f"[{host}]"
    return host, 0 if bare else port


def _names(host: str) -> list[str]:
    """Under which a browser elsewhere may know this machine."""
    import socket

    return [host, socket.gethostname(), socket.getfqdn()]


console = click.Command(
    "console",
    callback=_console,
    params=[
        click.Option(
            ["--listen"],
            default=_DEFAULT,
            metavar="ADDR[:PORT]",
            help="Where; without a port, any that is free. Default: 127.0.0.1.",
        ),
        click.Option(
            ["--allow-remote"],
            is_flag=True,
            help="Let --listen be an address that others reach. It is plain HTTP.",
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the link as JSON."),
        click.Option(["--until-eof"], is_flag=True, hidden=True),
    ],
    help="Serve a page that shows every disk, and starts and stops them, until a signal.\n\nPrints"
    " a link that logs a browser in, once. What the page does, it does as you: it asks the"
    " launcher that userdisk start asks. If your console runs already, prints a link to it.",
)

commands: list[click.Command] = [console]
