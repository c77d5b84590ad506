"""The table of commands, and the group that imports a command's module when it is used."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from typing import Final

import click

from userdisk.cli.logs import options

#: command -> module whose `commands` list holds it; in the order of the help page.
_MODULES: Final = {
    "serve": "userdisk.cli.serve",
    "attach": "userdisk.cli.attach",
    "mount": "userdisk.cli.attach",
    "eject": "userdisk.cli.attach",
    "list": "userdisk.cli.attach",
    "resize": "userdisk.cli.resize",
    "top": "userdisk.cli.top",
    "trace": "userdisk.cli.trace",
    "start": "userdisk.cli.instances",
    "stop": "userdisk.cli.instances",
    "info": "userdisk.cli.instances",
    "logs": "userdisk.cli.instances",
    "launcher": "userdisk.cli.launcher",
    "launchctl": "userdisk.cli.launchctl",
    "console": "userdisk.cli.console",
    "open": "userdisk.cli.desktop",
    "desktop": "userdisk.cli.desktop",
    "scsitool": "userdisk.cli.scsitool",
    "stgtest": "userdisk.cli.stgtest",
    "doctor": "userdisk.cli.doctor",
}


class LazyGroup(click.Group):
    """A group that imports the module of one command, not of all."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, and says which command it may have been."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            like = get_close_matches(args[0], _MODULES, n=1)
            if not like or args[0] in _MODULES:
                raise
            hint = f"{error.message.rstrip('.')}. Did you mean {like[0]!r}?"
            raise click.UsageError(hint, error.ctx) from None

    def invoke(self, ctx: click.Context) -> object:
        """As click does it; an error that has no command has the one that was given."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            name = ctx.invoked_subcommand or ""
            found = self.get_command(ctx, name)
            if error.ctx is None and found is not None:
                error.ctx = click.Context(found, parent=ctx, info_name=name)
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        commands: list[click.Command] = importlib.import_module(_MODULES[cmd_name]).commands
        found = next(command for command in commands if command.name == cmd_name)
        if not any(parameter.name == "log_format" for parameter in found.params):
            found.params += options()
        return found


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="userdisk", message="%(package)s %(version)s")
def userdisk() -> None:
    """Any Python class becomes a disk.

    serve offers units to the network over iSCSI and NBD. attach and mount make a unit a disk of
    this machine; eject takes it away again. open mounts disk images for users without rights, and
    desktop has file managers do it. console is a page in the browser with all of them. resize gives
    a disk in use another size. scsitool asks any SCSI disk what it is; stgtest tests any disk, also
    across a crash. doctor says what works on this machine.
    """


userdisk.params += options()
