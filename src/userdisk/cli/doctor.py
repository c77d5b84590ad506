"""userdisk doctor: what works on this machine, what is missing, what is left over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from userdisk.attach import state
from userdisk.cli.logs import tell
from userdisk.doctor import fixes
from userdisk.doctor.machine import this_machine
from userdisk.doctor.ways import ADVICE, Diagnosis, Verdict, diagnose
from userdisk.errors import UserdiskError

if TYPE_CHECKING:
    from userdisk.doctor.leftovers import Leftover


def _doctor(as_json: bool, fix: bool, clean: bool) -> int:
    machine = this_machine(state.root())
    diagnosis = diagnose(machine)
    problems = []
    if fix:
        problems += fixes.fix(machine, diagnosis, tell)
        diagnosis = diagnose(machine)
    linux = machine.system == "linux"
    if clean and not linux:
        raise UserdiskError(f"--clean is for Linux, and this is {machine.system}")
    if clean and machine.uid != 0:
        raise UserdiskError("--clean needs root (try sudo)")
    left, unseen = _leftovers(linux and machine.uid == 0)
    if clean:
        problems += _remove(left)
        left, unseen = _leftovers(True)
    if as_json:
        click.echo(json.dumps(_as_json(diagnosis, left), indent=2))
    else:
        _print(diagnosis)
        if linux and machine.uid != 0:
            click.echo("Leftovers of killed servers: only root sees them (try sudo).")
        _print_leftovers(left)
    for problem in [*problems, *unseen]:
        tell(f"userdisk: {problem}")
    return 0 if diagnosis.best is not None and not problems else 1


def _leftovers(look: bool) -> tuple[list[Leftover], list[str]]:
    if not look:
        return [], []
    from userdisk.doctor.leftovers import leftovers  # what it needs is only on Linux

    try:
        return leftovers(), []
    except UserdiskError as error:
        return [], [str(error)]


def _remove(left: list[Leftover]) -> list[str]:
    problems = []
    for each in left:
        if each.remove is None:
            continue
        tell(f"removing the {each.kind} {each.name} ({each.says})")
        try:
            for remark in each.remove():
                tell(f"  {remark}")
        except UserdiskError as error:
            problems.append(f"{each.name}: {error}")
        except OSError as error:
            problems.append(f"{each.name}: {error.strerror}")
    return problems


def _print(diagnosis: Diagnosis) -> None:
    width = max(len(each.way.what) for each in diagnosis.verdicts)
    click.echo("Ways to make a disk of a unit, best first:")
    for verdict in diagnosis.verdicts:
        click.echo(
            f"  {_mark(verdict):7}  {verdict.way.what.ljust(width)}  {_use(verdict)}".rstrip()
        )
        for finding in verdict.lacks.values() if verdict.way.used else ():
            click.echo(f"           {finding.says}")
            click.echo(f"             -> {finding.fix}")
    for name in ADVICE:
        finding = diagnosis.findings[name]
        if not finding.good:
            click.echo(f"Besides, {finding.says}\n             -> {finding.fix}")
    best = diagnosis.best
    if best is None:
        click.echo("No way to a disk on this machine works yet.")
    else:
        click.echo(f"Best here: {best.way.what}: {best.way.use}")


def _mark(verdict: Verdict) -> str:
    if not verdict.way.used:
        return "-"
    return "works" if verdict.works else "lacks"


def _use(verdict: Verdict) -> str:
    if not verdict.way.used:
        missing = "; ".join(finding.says for finding in verdict.lacks.values())
        return f"{verdict.way.use}" + (f" ({missing})" if missing else " (this machine has it)")
    return verdict.way.use if verdict.works else ""


def _print_leftovers(left: list[Leftover]) -> None:
    if not left:
        return
    click.echo("Left over:")
    for each in left:
        click.echo(f"  {each.kind} {each.name}: {each.says}")
        click.echo(f"             -> {each.advice or 'userdisk doctor --clean'}")


def _as_json(diagnosis: Diagnosis, left: list[Leftover]) -> dict[str, object]:
    best = diagnosis.best
    return {
        "best": best.way.name if best else None,
        "ways": [
            {
                "name": verdict.way.name,
                "what": verdict.way.what,
                "used": verdict.way.used,
                "works": verdict.works,
                "use": verdict.way.use,
                "lacks": list(verdict.lacks),
            }
            for verdict in diagnosis.verdicts
        ],
        "checks": [
            {"name": name, "good": finding.good, "says": finding.says, "fix": finding.fix}
            for name, finding in diagnosis.findings.items()
        ],
        "leftovers": [
            {
                "kind": each.kind,
                "name": each.name,
                "says": each.says,
                "advice": each.advice,
                "removable": each.remove is not None,
            }
            for each in left
        ],
    }


doctor = click.Command(
    "doctor",
    callback=_doctor,
    params=[
        click.Option(["--json", "as_json"], is_flag=True, help="Print as JSON."),
        click.Option(
            ["--fix"],
            is_flag=True,
            help="Load kernel modules and start services that are missing, saying each command"
            " before (as root). Packages are never installed.",
        ),
        click.Option(
            ["--clean"],
            is_flag=True,
            help="Remove what killed servers left (as root). What a living process has stays.",
        ),
    ],
    help="Say which ways to make a disk work on this machine, and what the others lack.\n\n"
    "Exit status: 0 a way works, 1 none does, or a fix or removal failed.",
)

commands: list[click.Command] = [doctor]
