"""`make conformance`: run the matrix, and say what passed, what was skipped and why.

Exit status 1 for any failure that is not excused, any skip that is not listed, any stale entry, if
it is so again when the test runs alone.
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
        wrong = report(matrix, chosen, tests, logs=arguments.logs, whole=whole)
    return 1 if wrong and still_wrong(wrong) else 0


#: What was not as listed: where, the test, and how not.
Wrong = list[tuple[Configuration, str, str]]


def still_wrong(wrong: Wrong) -> bool:
    """Run what was wrong once more, one after the other: a busy machine makes tests late."""
    print("once more, alone:")
    again = 0
    for configuration, test, first in wrong:
        with Matrix({configuration: [test]}, jobs=1) as matrix:
            result = matrix.result(configuration, test)
        found = objection(configuration, test, result)
        again += found is not None
        print(f"{configuration} {short(test)}: at first {first}; then {found or 'as listed'}")
        if found is not None:
            print(result.log)
    print(f"{again} results are WRONG" if again else "all as listed at the second attempt")
    return again > 0


def report(
    matrix: Matrix, chosen: list[Configuration], tests: list[str], *, logs: bool, whole: bool
) -> Wrong:
    """Print the results as they come; returns what is wrong."""
    wrong: Wrong = []
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
            elif entry is not None and result.outcome == entry.outcome:
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
        wrong += [(configuration, test, found) for test, found, _ in objections]
        sys.stdout.flush()
    never = [test for test in tests if test not in ran]
    if whole:
        print(f"in no configuration: {len(never)} of {len(tests)} tests")
        for test in never:
            reasons = dict.fromkeys(entry.why for entry in entries.get(test, []))
            print(f"    {short(test)}: {'; '.join(reasons) or 'WRONG: no listed reason'}")
    print("all as listed" if not wrong else f"{len(wrong)} results are not as listed")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
