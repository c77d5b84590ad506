"""Runs the matrix: each configuration a started server, each test a process; in parallel."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.conformance import suite
from tests.conformance.configurations import USERS, Configuration
from tests.conformance.expectations import short
from tests.conformance.suite import Result
from tests.kit.server import serve

#: Starts what a configuration describes; gives the URLs of the disk.
Start = Callable[[Configuration], AbstractContextManager[Sequence[str]]]


@contextmanager
def userdisk(configuration: Configuration) -> Iterator[Sequence[str]]:
    """The configuration as a `userdisk serve`; the URLs of its disk."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as name:
        folder = Path(name)
        options = [*configuration.options]
        if configuration.user is not None:
            secrets = folder / "chap"
            secrets.write_text("".join(f"user {each} {USERS[each]}\n" for each in USERS))
            secrets.chmod(0o600)
            options += ["--chap-file", str(secrets)]
        first, *others = configuration.listen
        for portal in others:
            options += ["--listen", portal]
        with serve(
            configuration.unit.format(folder=folder),
            options=tuple(options),
            listen=first,
            environment={"XDG_STATE_HOME": str(folder / "state")},
            urls=len(configuration.listen),
        ) as served:
            yield [_with_user(url, configuration.user) for url in served.urls]


def _with_user(url: str, user: str | None) -> str:
    return url if user is None else url.replace("//", f"//{user}%{USERS[user]}@", 1)


class Matrix:
    """Results to come: of some tests in some configurations, which run side by side.

    `wanted` says which tests; they run in that order. `start` starts the server. Use as a context
    manager: at its end nothing runs any more.
    """

    def __init__(
        self,
        wanted: Mapping[Configuration, Sequence[str]],
        *,
        jobs: int,
        start: Start = userdisk,
    ) -> None:
        self._start = start
        self._stopped = False
        self._results: dict[tuple[Configuration, str], Future[Result]] = {
            (configuration, test): Future()
            for configuration, tests in wanted.items()
            for test in tests
        }
        self._pool = ThreadPoolExecutor(jobs, "conformance")
        for configuration, tests in wanted.items():
            self._pool.submit(self._run, configuration, tests)

    def result(self, configuration: Configuration, test: str) -> Result:
        """The result of a test, once it has run. Raises what kept the server from starting."""
        return self._results[configuration, test].result()

    def _run(self, configuration: Configuration, tests: Sequence[str]) -> None:
        pending = [self._results[configuration, test] for test in tests]
        try:
            with self._start(configuration) as urls:
                for test in tests:
                    if self._stopped:
                        raise RuntimeError("the run was stopped")
                    writing = ("-d",) if configuration.may_lose_data(short(test)) else ()
                    result = suite.run(urls, test, (*writing, *configuration.suite))
                    if len(pending) > 1:
                        pending.pop(0).set_result(result)
            pending.pop().set_result(result)  # only now: the server has ended well
        except BaseException as error:
            for future in pending:
                future.set_exception(error)

    def __enter__(self) -> Matrix:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped = True
        self._pool.shutdown(cancel_futures=True)
