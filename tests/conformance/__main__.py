"""`make conformance`: run the matrix, and say what passed, what was skipped and why.

Exit status 1 for any failure that is not excused, any skip that is not listed, any stale entry.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from fnmatch import fnmatchcase

from tests.conformance import suite
from tests.conformance.configurations import CONFIGURATIONS, Configuration
from tests.conformance.expectations import Expected, expected, objection, short
from tests.conformance.matrix import Matrix
from tests.conformance.suite import Result
from tests.kit.requires import find_program


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    names = ", ".join(f"{each.number} ({each.name})" for each in CONFIGURATIONS)
    parser.add_argument(
        "configurations", nargs="*", metavar="NUMBER", help=f"which to run; all are {names}"
    )
    parser.add_argument("--tests", default="*", metavar="PATTERN", help="e.g. 'Unmap.*'")
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1, metavar="N")
    parser.add_argument("--logs", action="store_true", help="the suite's log of what is wrong")
    arguments = parser.parse_args()
    if find_program(suite.PROGRAM) is None:
        parser.error(f"{suite.PROGRAM} is not installed (Debian: libiscsi-bin; `make packages`)")
    unknown = set(arguments.configurations) - {each.number for each in CONFIGURATIONS}
    if unknown:
        parser.error(f"no configuration {', '.join(sorted(unknown))}")
    chosen = [
        each
        for each in CONFIGURATIONS
        if not arguments.configurations or each.number in arguments.configurations
    ]
    tests = [test for test in suite.list_tests() if fnmatchcase(short(test), arguments.tests)]
    if not tests:
        parser.error(f"no test is called {arguments.tests}")
    whole = len(chosen) == len(CONFIGURATIONS) and arguments.tests == "*"
    with Matrix(dict.fromkeys(chosen, tests), jobs=arguments.jobs) as matrix:
        return report(matrix, chosen, tests, logs=arguments.logs, whole=whole)


def report(
    matrix: Matrix, chosen: list[Configuration], tests: list[str], *, logs: bool, whole: bool
) -> int:
    """Print the results as they come; returns the exit status."""
    wrong = 0
    ran: set[str] = set()
    entries: dict[str, list[Expected]] = {}
    for configuration in chosen:
        counts: Counter[str] = Counter()
        skips: Counter[tuple[str, str]] = Counter()
        objections: list[tuple[str, str, Result]] = []
        for test in tests:
            result = matrix.result(configuration, test)
            entry = expected(configuration, test)
            found = objection(configuration, test, result)
            excused = result.outcome == "fail" and found is None
            counts["excused" if excused else result.outcome] += 1
            if found is not None:
                objections.append((test, found, result))
            elif entry is not None:
                word = "excused" if excused else "skip"
                skips[word, f"{entry.kind.value}: {entry.why}"] += 1
                entries.setdefault(test, []).append(entry)
            if result.outcome == "pass":
                ran.add(test)
        print(
            f"{configuration}: {counts['pass']} pass, {counts['skip']} skip,"
            f" {counts['excused']} excused, {counts['fail']} fail ({configuration.what})"
        )
        for (outcome, why), number in skips.most_common():
            print(f"    {number:3} {outcome}: {why}")
        for test, found, result in objections:
            print(f"    WRONG {short(test)}: {found}")
            if logs:
                print(result.log)
        wrong += len(objections)
        sys.stdout.flush()
    never = [test for test in tests if test not in ran]
    if whole:
        print(f"in no configuration: {len(never)} of {len(tests)} tests")
        for test in never:
            reasons = dict.fromkeys(entry.why for entry in entries.get(test, []))
            print(f"    {short(test)}: {'; '.join(reasons) or 'WRONG: no listed reason'}")
    print("all as listed" if not wrong else f"{wrong} results are WRONG")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
