"""What `--fix` does: the commands of findings that are safe, and safe to repeat."""

from __future__ import annotations

from collections.abc import Callable

from userdisk.doctor.machine import Machine
from userdisk.doctor.ways import Diagnosis
from userdisk.errors import UserdiskError


def planned(diagnosis: Diagnosis) -> list[tuple[str, ...]]:
    """The commands that help a way which userdisk uses, each once."""
    commands: dict[tuple[str, ...], None] = {}
    for verdict in diagnosis.verdicts:
        if verdict.way.used:
            commands |= {each.safe: None for each in verdict.lacks.values() if each.safe}
    return list(commands)


def fix(machine: Machine, diagnosis: Diagnosis, say: Callable[[str], None]) -> list[str]:
    """Run what is planned, saying each command before; returns what went wrong, one line each.

    Blocks at most 20 seconds for each. Raises `UserdiskError` if there is something to do and
    the user is not root; nothing is done then.
    """
    commands = planned(diagnosis)
    if not commands:
        say("nothing to fix that is safe to do by itself")
        return []
    if machine.uid != 0:
        lines = "; ".join(" ".join(command) for command in commands)
        raise UserdiskError(f"--fix needs root (try sudo); it would run: {lines}")
    problems = []
    for command in commands:
        say(f"running {' '.join(command)}")
        status, said = machine.run(command)
        if status != 0:
            lines_said = said.strip().splitlines() or [f"exit status {status}"]
            problems.append(f"{' '.join(command)}: {lines_said[-1]}")
    return problems
