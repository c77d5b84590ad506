"""The steps of a resize, without devices: their order, and what stops them half way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.attach.conftest import wait_until
from userdisk import control
from userdisk.attach import block, mounts, release
from userdisk.attach.mounts import Mount
from userdisk.attach.resize import Resizing
from userdisk.errors import UsageError, UserdiskError


class Bench:
    """Unit, connection and device; each step is kept, and fails when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.unit = self.size = self.shown = self.noted = 1000
        self.device: Path | None = Path("/dev/loop99")
        self.opened = False
        self.resizing = Resizing("name", "disk.img", "/", self, self, self, self.note)
        self.resizing._device = Path("/dev/loop99")
        monkeypatch.setattr(control, "ask", self.ask)
        monkeypatch.setattr(block, "emptied", self.emptied)
        monkeypatch.setattr(mounts, "mounts_of", lambda nodes: self.mounts)
        monkeypatch.setattr(release, "refuse_open", self.refuse_open)
        self.mounts: list[Mount] = []

    def step(self, name: str) -> None:
        assert self.shown <= self.size or name.startswith("device")
        self.steps.append(name)
        if name in self.failing:
            raise self.failing.pop(name)
        assert self.shown <= self.unit, "the device shows more than the unit has"

    # the connection
    def check_ready(self) -> None:
        self.step("ready")

    def grow(self, size: int) -> None:
        self.step("connection")
        assert self.unit >= size
        self.size = size

    # the device
    def open(self) -> Path:
        raise AssertionError

    def close(self) -> list[str]:
        raise AssertionError

    def resize(self, size: int) -> None:
        self.step("device")
        self.shown = size

    def note(self, size: int) -> None:
        self.noted = size

    @contextlib.contextmanager
    def emptied(self, device: Path) -> Iterator[None]:
        self.step("empty")
        yield
        self.steps.append("free")

    def refuse_open(self, devices: list[Path], advice: str) -> None:
        if self.opened:
            raise UserdiskError(f"in use; {advice}")

    # the unit's process
    def pid(self) -> int:
        return 7

    def control(self) -> Path:
        return Path("/run/7")

    def ask(
        self, path: Path, request: Mapping[str, object], timeout: float, *, process: int
    ) -> control.Answer:
        assert path.name == "7" and process == 7 and timeout > 0
        if request["verb"] == "info":
            self.step("info")
            return {"units": [{"size": self.unit}]}
        if request["verb"] == "restore":
            assert request["size"] == self.size
            self.steps.append("restore")
            return {"size": self.unit}
        self.step("check" if request["check"] else "unit")
        assert isinstance(request["size"], int)
        if request["size"] < self.unit and not request["shrink"]:
            raise UsageError("--shrink does it")
        before = self.unit
        if not request["check"]:
            self.unit = request["size"]
        return {"before": before, "size": self.unit}

    def sizes(self) -> set[int]:
        return {self.unit, self.size, self.shown, self.noted}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_the_unit_grows_first_and_the_device_last(bench: Bench) -> None:
    assert bench.resizing.resize(2000, shrink=False) == (1000, 2000)
    assert bench.steps == ["ready", "unit", "connection", "device"]
    assert bench.sizes() == {2000}
    bench.steps.clear()
    assert bench.resizing.resize(2000, shrink=False) == (2000, 2000)
    assert bench.steps == ["ready", "unit", "device"]


def test_the_device_is_cut_first_and_the_unit_last(bench: Bench) -> None:
    with pytest.raises(UsageError, match="--shrink does it"):
        bench.resizing.resize(500, shrink=False)
    assert bench.steps == ["ready", "check"] and bench.sizes() == {1000}
    bench.steps.clear()
    assert bench.resizing.resize(500, shrink=True) == (1000, 500)
    assert bench.steps == ["ready", "check", "empty", "device", "free", "unit"]
    assert bench.sizes() == {500}


@pytest.mark.parametrize("step", ["ready", "unit", "connection", "device"])
def test_a_growth_that_stops_half_way_is_done_by_asking_again(bench: Bench, step: str) -> None:
    bench.failing[step] = UserdiskError("no")
    with pytest.raises(UserdiskError, match=r"disk\.img|no"):
        bench.resizing.resize(2000, shrink=False)
    assert bench.shown == bench.noted == 1000
    assert bench.resizing.resize(2000, shrink=False) == (1000, 2000)
    assert bench.sizes() == {2000}


@pytest.mark.parametrize("step", ["ready", "check", "empty", "device", "unit"])
def test_a_cut_that_stops_half_way_is_taken_back(bench: Bench, step: str) -> None:
    bench.failing[step] = UserdiskError("no")
    with pytest.raises(UserdiskError, match="no"):
        bench.resizing.resize(500, shrink=True)
    assert bench.sizes() == {1000}
    assert bench.resizing.resize(500, shrink=True) == (1000, 500)


def test_a_cut_whose_outcome_is_not_known_leaves_the_device_small(bench: Bench) -> None:
    bench.failing |= {"unit": ConnectionResetError(104, "reset"), "info": TimeoutError()}
    with pytest.raises(UserdiskError, match=r"its process \(pid 7\) does not answer: reset"):
        bench.resizing.resize(500, shrink=True)
    assert (bench.shown, bench.size, bench.unit) == (500, 500, 1000)
    bench.resizing.follow()
    assert bench.sizes() == {1000}


def test_what_is_used_is_not_cut(bench: Bench) -> None:
    bench.mounts = [Mount("7:99", "/mnt", "ext4", "/dev/loop99")]
    with pytest.raises(UserdiskError, match="/dev/loop99 is mounted on /mnt; it can be cut only"):
        bench.resizing.resize(500, shrink=True)
    bench.mounts, bench.opened = [], True
    with pytest.raises(UserdiskError, match="in use; it can be cut only"):
        bench.resizing.resize(500, shrink=True)
    bench.opened = False
    bench.failing["empty"] = OSError(16, "busy")
    with pytest.raises(UserdiskError, match=r"is in use.*; it can be cut only"):
        bench.resizing.resize(500, shrink=True)
    assert bench.sizes() == {1000} and "unit" not in bench.steps


def test_a_unit_that_has_changed_is_followed_unless_it_is_used(bench: Bench) -> None:
    bench.unit = 3000
    bench.resizing.follow()
    assert bench.sizes() == {3000}
    bench.resizing.follow()
    bench.unit, bench.opened = 600, True
    bench.shown = bench.size = 600  # for the check of each step: nothing may be asked of the rest
    with pytest.raises(UserdiskError):
        bench.resizing.follow()
    bench.opened = False
    bench.resizing.follow()
    assert bench.sizes() == {600}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError("no answer in time"), "is busy: no answer within 600 s"),
        (ConnectionRefusedError(111, "refused"), r"\(pid 7\) does not answer: refused"),
        (OSError(28, "full", "/run/x"), "does not answer: full"),
    ],
)
def test_a_process_that_does_not_answer_is_one_line(
    bench: Bench, error: OSError, words: str
) -> None:
    bench.failing["unit"] = error
    with pytest.raises(UserdiskError, match=words) as caught:
        bench.resizing.resize(2000, shrink=False)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_device_names_it(bench: Bench) -> None:
    bench.failing["device"] = OSError(5, "input/output error", "/dev/loop99")
    with pytest.raises(UserdiskError, match=r"disk\.img: /dev/loop99: input/output error"):
        bench.resizing.resize(2000, shrink=False)


def test_one_at_a_time_and_none_after_the_stop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go = threading.Event(), threading.Event()

    def grow(size: int) -> None:
        inside.set()
        assert go.wait(30)
        bench.size = size

    monkeypatch.setattr(bench, "grow", grow)
    errors: list[BaseException] = []

    def resize(size: int) -> None:
        try:
            bench.resizing.resize(size, shrink=False)
        except UserdiskError as error:
            errors.append(error)

    first = threading.Thread(target=resize, args=(2000,))
    first.start()
    assert inside.wait(30)
    second = threading.Thread(target=resize, args=(3000,))
    second.start()
    stopping = threading.Thread(target=bench.resizing.stop)
    stopping.start()
    wait_until(lambda: bench.resizing._stopped, 30)
    go.set()
    for thread in (first, second, stopping):
        thread.join(30)
    assert [str(error) for error in errors] == ["disk.img: is being ejected"]
    assert bench.sizes() == {2000}


def test_the_next_process_is_told_of_a_size_that_is_not_the_first(bench: Bench) -> None:
    bench.resizing.resize(1000, shrink=False)
    bench.steps.clear()
    bench.resizing.restore()
    assert bench.steps == []
    bench.resizing.resize(2000, shrink=False)
    bench.resizing.restore()
    assert bench.steps[-1] == "restore"


@pytest.mark.parametrize("size", [None, "2000", 2.5, [1]])
def test_a_request_without_a_size_is_refused(bench: Bench, size: object) -> None:
    with pytest.raises(UserdiskError, match="must be a number of bytes"):
        bench.resizing._verbs()["resize"]({"size": size})
    assert bench.steps == []


def test_what_it_says_of_itself(bench: Bench) -> None:
    bench.mounts = [Mount("7:99", "/mnt", "ext4", "/dev/loop99")]
    info = bench.resizing._verbs()["info"]({})
    assert (info["attached"], info["unit_pid"], info["folder"]) == ("name", 7, "/")
    assert info["units"] == [
        {"unit": "disk.img", "names": ["name", "/dev/loop99", "/mnt"], "size": 1000}
    ]
