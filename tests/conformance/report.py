"""docs/conformance.md: what the tables say of userdisk, beside what was measured of tgt.

`python -m tests.conformance.report` writes it. userdisk's figures follow from the tables, which
`make conformance` holds to the truth; tgt's are in tgt.json, which `--measure-tgt` makes anew
(`--measure-tgt NUMBER ...`: only of these configurations).
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.conformance import suite, tgt
from tests.conformance.configurations import CONFIGURATIONS, Configuration
from tests.conformance.expectations import EXPECTED, Expected, expected, short
from tests.conformance.matrix import Matrix
from tests.conformance.suite import Result

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
MEASURED = Path(__file__).with_name("tgt.json")

#: configuration -> test -> what did not pass
Measured = Mapping[str, Mapping[str, Result]]

_HEAD = """# Conformance

[libiscsi](https://github.com/sahlberg/libiscsi) has a test suite for SCSI disks behind iSCSI,
`iscsi-test-cu`: {total} tests in version {version}. userdisk is run against all of them, as {disks}
different disks, each test in a process of its own:

    make conformance                      # all: some minutes
    make conformance CONFORMANCE='1 2'    # only these

It fails on any failure and on any skip that is not listed below with its reason, and on anything
listed that no longer happens. A test that leaves out a part of itself counts as skipped, and so
does one that ends without doing anything; the suite itself counts both as passed. The suite is
allowed to write (`-d`), except that tests that would change blocks of the write-protected disk run
without leave there, and so leave themselves out; tests that write without asking do run, and fail.

## Results

{tgt} was run by the same runner on the same machine, each disk set up the same way as far as it
can. *Excused* are failures that are mistakes of the suite, [listed below](#mistakes-of-the-suite);
with tgt, every failure of such a test, whatever it complains of.

"""

_MISTAKES = """
## Mistakes of the suite

These tests fail with a disk that does what the standards say. What is wrong is in their source (the
suite's folder `test-tool`). The runner checks that each complains of exactly what is known of it,
with the same assertions in the same lines, and of nothing else.

"""

_END = """
## What the suite does not show

- With disk 11, five tests end after their first part without a word, since the rest needs an LBA
  that their CDBs cannot hold: `Read6.Simple`, `ZeroBlocks` of Read10, Read12, Write10, Prefetch10.
  They are counted as passed there; with the other disks they run whole.
- Rules that only newer versions of the suite test (the offers of CHAP, SendTargets in a session,
  data in a ping, where a comparison failed, the order of VPD pages, REPORT TARGET PORT GROUPS) have
  tests of userdisk's own.
- What Linux asks a disk while it attaches is captured in a guest with a stock kernel, each time the
  tests run (`tests/guest`). What Windows and ESXi ask is tested **as documented**
  (`tests/interop`): nothing here ran on these systems.
- Other judges: sg3_utils and QEMU's initiator on the host, and Linux's initiator in the guest.
"""


def render(tests: Sequence[str], version: str, measured: Measured, tgt_version: str) -> str:
    """The whole document."""
    names = [short(test) for test in tests]
    lines = [_HEAD.format(total=len(tests), version=version, disks=len(CONFIGURATIONS),
                          tgt=f"tgt {tgt_version}")]  # fmt: skip
    lines += _results(tests, measured)
    lines += _nowhere(tests, measured)
    lines += ["\n## What is skipped, and why\n\n"]
    lines += ["| Tests | Disks | Why |\n|---|---|---|\n"]
    lines += _entries("skip", names)
    lines += [_MISTAKES, "| Tests | Disks | What is wrong |\n|---|---|---|\n"]
    lines += _entries("fail", names)
    lines += [f"\n## What fails with tgt {tgt_version}\n\n| Test | Disks |\n|---|---|\n"]
    lines += _failures(measured)
    lines += [_END]
    return "".join(lines)


def _results(tests: Sequence[str], measured: Measured) -> Iterator[str]:
    yield "| | Disk | userdisk: pass | skip | excused | fail"
    yield " | tgt: pass | skip | excused | fail |\n"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    for configuration in CONFIGURATIONS:
        ours = [0, 0, 0, 0]
        for test in tests:
            entry = expected(configuration, test)
            ours[0 if entry is None else 1 if entry.outcome == "skip" else 2] += 1
        others = measured[configuration.name]
        theirs = [len(tests) - len(others), 0, 0, 0]
        for test, result in others.items():
            theirs[_column(configuration, test, result)] += 1
        cells = [configuration.number, configuration.what, *map(str, (*ours, *theirs))]
        yield f"| {' | '.join(cells)} |\n"


def _column(configuration: Configuration, test: str, result: Result) -> int:
    if result.outcome == "skip":
        return 1
    entry = expected(configuration, f"x.{test}")
    return 2 if entry is not None and entry.outcome == "fail" else 3


def _nowhere(tests: Sequence[str], measured: Measured) -> Iterator[str]:
    never: dict[str, list[str]] = {}
    for test in tests:
        found = [expected(configuration, test) for configuration in CONFIGURATIONS]
        if all(found):
            whys = dict.fromkeys(entry.why for entry in found if entry)
            never[short(test)] = list(whys)
    theirs = sum(all(short(test) in each for each in measured.values()) for test in tests)
    yield (
        f"\nTests that pass as none of these disks: {len(never)} of {len(tests)} with userdisk,"
        f" {theirs} with tgt. The former are\n\n"
    )
    yield from (f"- `{name}`: {'; '.join(whys)}\n" for name, whys in never.items())


def _entries(outcome: str, names: Sequence[str]) -> Iterator[str]:
    """A row for each reason why tests end so; several entries may have the same."""
    same: dict[tuple[frozenset[str], str], list[Expected]] = {}
    for entry in EXPECTED:
        if entry.outcome == outcome:
            same.setdefault((entry.where, entry.why), []).append(entry)
    for (where, why), entries in same.items():
        numbers = [each.number for each in CONFIGURATIONS if each.name in where]
        others = [each.number for each in CONFIGURATIONS if each.name not in where]
        disks = ", ".join(numbers)
        if len(others) < len(numbers):
            disks = f"all but {', '.join(others)}" if others else "all"
        yield f"| {_grouped(entries, names)} | {disks} | {why} |\n"


def _grouped(entries: Sequence[Expected], names: Sequence[str]) -> str:
    """The tests of entries, by suite: `Suite` for a whole one, `Suite.{One,Two}` for a part."""
    configuration = next(each for each in CONFIGURATIONS if each.name in entries[0].where)
    suites: dict[str, tuple[list[str], list[str]]] = {}
    for name in names:
        suite_name, _, test = name.partition(".")
        listed, others = suites.setdefault(suite_name, ([], []))
        covered = any(entry.covers(configuration, name) for entry in entries)
        (listed if covered else others).append(test)
    found = []
    for suite_name, (listed, others) in suites.items():
        if not listed:
            continue
        part = listed[0] if len(listed) == 1 else f"{{{','.join(listed)}}}"
        found.append(f"`{suite_name}.{part}`" if others else f"`{suite_name}`")
    return ", ".join(found)


def _failures(measured: Measured) -> Iterator[str]:
    where: dict[str, list[str]] = {}
    for configuration in CONFIGURATIONS:
        for test, result in measured[configuration.name].items():
            if _column(configuration, test, result) == 3:
                where.setdefault(test, []).append(configuration.number)
    for test, numbers in sorted(where.items(), key=lambda item: (-len(item[1]), item[0])):
        every = len(numbers) == len(CONFIGURATIONS)
        yield f"| `{test}` | {'all' if every else ', '.join(numbers)} |\n"


def load() -> tuple[Measured, str, str]:
    """What is in tgt.json: results, tgt's version, the suite's."""
    content = json.loads(MEASURED.read_text())
    results = {
        name: {test: Result(outcome, tuple(reasons), "") for test, (outcome, reasons) in of.items()}
        for name, of in content["results"].items()
    }
    return results, content["tgt"], content["suite"]


def _measure(tests: Sequence[str], chosen: Sequence[Configuration]) -> None:
    """Run the suite against tgt; what tgt.json has of other configurations stays."""
    content = {"tgt": tgt.version(), "suite": suite.version()}
    results: dict[str, Mapping[str, tuple[str, Sequence[str]]]] = {}
    if len(chosen) < len(CONFIGURATIONS):
        measured, *versions = load()
        assert versions == [*content.values()], f"the rest was measured with {versions}"
        for name, found in measured.items():
            results[name] = {test: (each.outcome, each.reasons) for test, each in found.items()}
    wanted = dict.fromkeys(chosen, tests)
    with Matrix(wanted, jobs=(os.cpu_count() or 1) + 1, start=tgt.tgt) as matrix:
        for configuration in chosen:
            found = {short(test): matrix.result(configuration, test) for test in tests}
            results[configuration.name] = {
                test: (result.outcome, [_brief(each) for each in result.reasons][:3])
                for test, result in found.items()
                if result.outcome != "pass"
            }
            print(f"{configuration}: {len(tests) - len(results[configuration.name])} pass")
    MEASURED.write_text(json.dumps(content | {"results": results}, indent=1) + "\n")


def _brief(reason: str) -> str:
    return re.sub(r"\s+", " ", reason)[:200]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.report", description="Write docs/conformance.md."
    )
    parser.add_argument(
        "--measure-tgt",
        nargs="*",
        choices=[each.number for each in CONFIGURATIONS],
        metavar="NUMBER",
        help="measure tgt anew, as all configurations or as these",
    )
    numbers = parser.parse_args().measure_tgt
    tests = suite.list_tests()
    if numbers is not None:
        _measure(tests, [each for each in CONFIGURATIONS if not numbers or each.number in numbers])
    measured, tgt_version, version = load()
    DOCUMENT.write_text(render(tests, version, measured, tgt_version))


if __name__ == "__main__":
    main()
