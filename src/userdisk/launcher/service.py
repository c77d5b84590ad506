"""The launcher's service: what callers may ask of it, whoever carries the question.

Everything here blocks, and may be called from any thread. The instances live in processes of their
own; when the service ends they go on, and its next start finds them.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from userdisk.errors import UserdiskError
from userdisk.launcher import asking, classes, log_file, mounting, places, saved, shims
from userdisk.launcher.asking import NotFound
from userdisk.launcher.confinement import find_user
from userdisk.launcher.discovery import Discovery
from userdisk.launcher.grants import Grants
from userdisk.launcher.instances import Instances, Known, as_instance
from userdisk.launcher.rights import Caller, Refused, user_name
from userdisk.launcher.spec import Spec, State, Status
from userdisk.launcher.tracing import TooMany
from userdisk.launcher.types import ClassInfo, Event, Instance, Service, Start, Statistics, Stopped
from userdisk.telemetry.prometheus import render

log = logging.getLogger("userdisk")

_RESTORING: Final = 8  # at the same time
_RETRIES: Final = (1.0, 5.0, 30.0, 60.0)  # seconds between tries to restore one
_TAIL: Final = 20  # lines of a log
MAX_LINES: Final = 10_000
_STOP_SECONDS: Final = 120.0
_MOUNT_SECONDS: Final = 600.0  # a journal may be long
_BEGIN_SECONDS: Final = 30.0  # until a shim runs
_LOOK: Final = 0.02
_MOST_STARTING: Final = 64  # disks of one user
_NEW: Final = Status()
_GRACE: Final = 5.0  # seconds that a shim may take until it says something
_ENDING: Final = (State.STOPPING, State.ENDED)


class Launcher:
    """The service of one user.

    Args:
        tell: called with each event, on a thread of the service.
    """

    def __init__(self, tell: Callable[[Event], None] = lambda event: None) -> None:
        self._tell = tell
        self._starting: dict[str, Known] = {}
        self._lock = threading.Lock()
        self._saving = threading.RLock()
        self._sizes: dict[str, int] = {}  # of persistent disks, as they were seen last
        self._closing = threading.Event()
        self.discovery = self.console = ""
        self._discovery: Discovery | None = None
        self._instances = Instances(self._changed)

    def discover(self, listen: tuple[str, int]) -> str:
        """List all targets at an iSCSI address; returns it. Raises `UsageError`."""
        self._discovery = Discovery(listen, self._instances.all)
        self.discovery = self._discovery.address
        return self.discovery

    def close(self) -> None:
        """End the service; the instances go on."""
        self._closing.set()
        if self._discovery is not None:
            self._discovery.close()
        self._instances.close()

    # -- when the service starts -----------------------------------------------------------------

    def restore(self) -> None:
        """Take away what killed shims have left, and start the persistent instances. Blocks."""
        for known, status in self._orphans():
            for remark in shims.reap(known, status):
                log.warning("%s: %s", known.id, remark)
        found, problems = saved.load()
        for problem in problems:
            log.error("%s", problem)
        ids = {each.id for each in found}
        for one in self._instances.all():  # a service was killed before it could remember these
            if one.spec.id not in ids and one.alive:
                self._save(one.spec.id)
        missing = [each for each in found if self._instances.get(each.id) is None]
        if missing:
            with ThreadPoolExecutor(_RESTORING, "restore") as pool:
                list(pool.map(self._restore, missing))

    def _orphans(self) -> list[tuple[Spec, Status]]:
        """What killed shims have left. One that has said nothing may be about to."""
        found = shims.orphans()
        if all(status.pid for _, status in found) and not shims.unfinished():
            return found
        if self._closing.wait(_GRACE):
            return []
        for folder in shims.unfinished():
            shutil.rmtree(folder, ignore_errors=True)
        return shims.orphans()

    def _restore(self, given: Spec) -> None:
        for delay in (*_RETRIES, None):
            try:
                shims.start(self._fresh(given))
                log.info("%s: restored", given.id)
                return
            except (UserdiskError, OSError) as error:
                log.error("%s: cannot be restored: %s", given.id, error)
            if delay is None or self._closing.wait(delay):
                return

    def _fresh(self, given: Spec) -> Spec:
        """As its class says now, started by whom it was; on the port that it had."""
        again = classes.load(given.class_).spec(
            given.class_, given.name, list(given.arguments), Caller.of(given.started_by)
        )
        options = dict(again.options)
        if "size" in options:  # an image may have grown since it was made
            options["size"] = given.options.get("size", options["size"])
        return replace(again, port=again.port or given.port, options=options)

    # -- what can be asked -----------------------------------------------------------------------

    def start(self, asked: Start, caller: Caller) -> Instance:
        """Start an instance; returns it once it is up (or at once, if not `wait`).

        Raises `Refused`, `shims.Exists`, `UsageError`, `UserdiskError`.
        """
        class_ = classes.load(asked.class_)
        if not caller.among(class_.may_start):
            self._refuse(caller, f"start disks of class {asked.class_}")
        given = class_.spec(asked.class_, asked.name, asked.arguments, caller)
        known = Known(given, replace(_NEW, since=time.time()), 0)
        with self._lock:
            if given.id in self._starting:
                raise shims.Exists(f"{given.class_} {given.name}: it is being started already")
            own = sum(each.spec.started_by == caller.uid for each in self._starting.values())
            if own >= _MOST_STARTING:
                raise TooMany(f"user {caller.name} starts {own} disks already; let some come up")
            self._starting[given.id] = known
        log.info("%s starts %s", caller.name, given.id)
        if not asked.wait:
            threading.Thread(target=self._start_quietly, args=(given,), daemon=True).start()
            return as_instance(known)
        self._start(given)
        return self._instance(given.id)

    def _start(self, given: Spec) -> None:
        try:
            self._clear(given.id)
            shims.start(given)
            self._save(given.id)
        finally:
            with self._lock:
                self._starting.pop(given.id, None)

    def _start_quietly(self, given: Spec) -> None:
        try:
            self._start(given)
        except (UserdiskError, OSError) as error:
            log.error("%s: %s", given.id, error)
            failed = replace(_NEW, state=State.FAILED, since=time.time(), last_error=str(error))
            self._tell(Event("state", as_instance(Known(given, failed, 0))))

    def _clear(self, id_: str) -> None:
        """One that failed, or whose shim was killed, makes room for the next of its name."""
        known = self._instances.get(id_)
        if known is None:
            return
        if not known.alive:
            shims.reap(known.spec, known.status)
        elif known.status.state is State.FAILED:
            shims.ask(places.instance_folder(id_), "stop", _STOP_SECONDS, force=True)

    def _save(self, id_: str) -> None:
        """Remember an instance, if it has not just been stopped."""
        with self._saving:
            known = self._instances.get(id_)
            if known is None or not known.spec.persistent or known.status.state in _ENDING:
                return
            try:
                saved.save(known.spec)
            except UserdiskError as error:
                log.error("%s", error)
            self._save_size(known)

    def _save_size(self, known: Known) -> None:
        try:
            with self._saving:
                saved.resized(known.spec.id, known.status.size)
        except UserdiskError as error:
            log.error("%s", error)

    def stop(self, id_: str, caller: Caller, *, force: bool, timeout: float) -> Stopped:
        """Unmount, detach, flush and end an instance.

        Raises `NotFound`, `Refused`, `Busy` (nothing is different then), `UserdiskError`.
        """
        known = self._find(id_, caller, "may_stop", "stop")
        if not known.status.pid:
            known = self._begun(id_)
        log.info("%s stops %s%s", caller.name, id_, " by force" if force else "")
        with self._saving:
            saved.forget(id_)  # first: the stop goes on also when this service is killed
        try:
            remarks = self._stop(known, force, timeout)
        except BaseException:
            self._save(id_)
            raise
        self._instances.look()
        return Stopped(remarks)

    def _stop(self, known: Known, force: bool, timeout: float) -> list[str]:
        if not known.alive:
            return shims.reap(known.spec, known.status)
        seconds = timeout + known.spec.stop_timeout + _STOP_SECONDS
        answer = asking.ask(known, "stop", seconds, force=force, timeout=timeout)
        return [str(each) for each in answer["remarks"]]

    def mount(self, id_: str, caller: Caller, folder: str) -> Instance:
        """Mount an attached disk, on the folder of its class if none is given.

        Raises `NotFound`, `Refused`, `UsageError`, `UserdiskError`; `shims.Exists`: it is mounted.
        """
        known = self._find(id_, caller, "may_stop", "mount")
        try:
            wanted = mounting.place(known.spec, folder, caller)
        except Refused as error:
            log.warning("refused: %s (process %d)", error, caller.pid)
            raise
        if known.status.mountpoints:
            where = ", ".join(known.status.mountpoints)
            raise shims.Exists(f"{id_}: it is mounted already, on {where}")
        log.info("%s mounts %s on %s", caller.name, id_, wanted)
        asking.ask(known, "mount", _MOUNT_SECONDS, folder=wanted)
        return self._instance(id_)

    def unmount(self, id_: str, caller: Caller, *, force: bool) -> Instance:
        """Unmount a disk, and leave it attached.

        Raises `NotFound`, `Refused`, `Busy` (nothing is different then), `UserdiskError`.
        """
        known = self._find(id_, caller, "may_stop", "unmount")
        log.info("%s unmounts %s%s", caller.name, id_, " by force" if force else "")
        asking.ask(known, "unmount", _MOUNT_SECONDS, force=force)
        return self._instance(id_)

    def instances(self, caller: Caller, class_: str = "", name: str = "") -> list[Instance]:
        """Those that the caller may see; of one class, or of one name."""
        grants = Grants(caller)
        with self._lock:
            begun = dict(self._starting)
        begun |= {known.spec.id: known for known in self._instances.all()}
        return [
            as_instance(begun[id_])
            for id_ in sorted(begun)
            if grants.may((known := begun[id_]).spec, "may_query")
            and (not class_ or known.spec.class_ == class_)
            and (not name or known.spec.name == name)
        ]

    def instance(self, id_: str, caller: Caller) -> Instance:
        """One instance, with the end of its log. Raises `NotFound`."""
        known = self._find(id_, caller, "may_query", "see")
        return as_instance(known, log_file.tail(places.instance_folder(id_), _TAIL))

    def log(self, id_: str, caller: Caller, lines: int) -> tuple[list[str], log_file.Position]:
        """The end of its log, and where that is. Raises `NotFound`."""
        self._find(id_, caller, "may_query", "see")
        return log_file.last(places.instance_folder(id_), min(lines, MAX_LINES))

    def log_since(
        self, id_: str, position: log_file.Position
    ) -> tuple[str, log_file.Position] | None:
        """What was printed since; None: there is no such instance any more."""
        try:
            return log_file.since(places.instance_folder(id_), position)
        except OSError:
            return None

    def stats(self, id_: str, caller: Caller) -> Statistics:
        """What was done for it, and how long that took.

        Raises `NotFound`, and `UserdiskError` if its process does not answer.
        """
        return Statistics(asking.stats(self._find(id_, caller, "may_query", "see"))["units"])

    def traced(self, id_: str, caller: Caller) -> tuple[Path, int]:
        """Where its unit's process answers, and the user that it runs as.

        Raises `NotFound`, and `UserdiskError` if there is none now.
        """
        known = self._find(id_, caller, "may_query", "see")
        user = find_user(known.spec.user)
        return asking.serving(known), os.getuid() if user is None else user.uid

    def all_stats(self, caller: Caller) -> dict[str, dict[str, Any]]:
        """The same of all disks that the caller may see, by ID, but of silent ones."""
        return {known.spec.id: answer["units"] for known, answer in self._answers(caller)}

    def metrics(self, caller: Caller) -> str:
        """The same for Prometheus."""
        return render(
            ({"class": known.spec.class_, "instance": known.spec.name}, answer)
            for known, answer in self._answers(caller)
        )

    def _answers(self, caller: Caller) -> list[tuple[Known, dict[str, Any]]]:
        grants = Grants(caller)
        seen = [each for each in self._instances.all() if grants.may(each.spec, "may_query")]
        return asking.all_stats(seen)

    def by_process(self, pid: int, caller: Caller) -> Instance:
        """The instance that a process belongs to. Raises `NotFound`."""
        for instance in self.instances(caller):
            known = self._instances.get(instance.id)
            if known is not None and pid in (
                known.status.pid,
                known.status.unit_pid,
                known.status.program_pid,
                known.status.attach_pid,
            ):
                return instance
        raise NotFound(f"process {pid}: it is of no disk here")

    def classes(self, caller: Caller) -> list[ClassInfo]:
        """All classes, also those whose file is wrong."""
        found = []
        for name in classes.names():
            try:
                class_ = classes.load(name)
            except UserdiskError as error:
                found.append(ClassInfo(name=name, error=str(error)))
                continue
            found.append(
                ClassInfo(
                    name=name,
                    description=class_.description,
                    opens=class_.opens,
                    attaches=class_.attach is not None,
                    mounts=class_.attach is not None and bool(class_.attach.mount),
                    persistent=class_.persistent,
                    may_start=caller.among(class_.may_start),
                )
            )
        return found

    def service(self) -> Service:
        """The service itself."""
        return Service(
            os.getpid(),
            user_name(os.getuid()),
            version("userdisk"),
            self.discovery,
            self.console,
        )

    def may_see(self, event: Event, caller: Caller) -> bool:
        """Whether an event is for this caller."""
        given = event.instance
        return event.instance.user == caller.name or Grants(caller).among(given.class_, "may_query")

    # --------------------------------------------------------------------------------------------

    def _instance(self, id_: str) -> Instance:
        known = self._instances.get(id_)
        if known is None:
            raise UserdiskError(f"{id_}: it has ended again; its log went with it")
        return as_instance(known)

    def _find(self, id_: str, caller: Caller, right: str, what: str) -> Known:
        known = self._instances.get(id_)
        if known is None:
            with self._lock:
                known = self._starting.get(id_)
        if known is None:
            raise NotFound(f"{id_}: there is no such disk (userdisk list)")
        if not Grants(caller).may(known.spec, right):
            self._refuse(caller, f"{what} {id_}")
        return known

    def _begun(self, id_: str) -> Known:
        """One that is being started, once its shim says something. Raises `NotFound`."""
        deadline = time.monotonic() + _BEGIN_SECONDS
        while time.monotonic() < deadline:
            with self._lock:
                starts = id_ in self._starting
            if (known := self._instances.get(id_)) is not None:
                return known
            if not starts:
                break
            time.sleep(_LOOK)
        raise NotFound(f"{id_}: it could not be started")

    def _refuse(self, caller: Caller, what: str) -> None:
        log.warning("refused: user %s (process %d) may not %s", caller.name, caller.pid, what)
        raise Refused(f"user {caller.name} may not {what}")

    def _changed(self, known: Known, gone: bool) -> None:
        id_, size = known.spec.id, known.status.size
        if gone:
            self._sizes.pop(id_, None)
        elif size and known.spec.persistent and self._sizes.get(id_) != size:
            self._sizes[id_] = size
            self._save_size(known)
        self._tell(Event("gone" if gone else "state", as_instance(known)))
