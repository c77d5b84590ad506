"""Registrations and reservations in any order of commands, against a model of the rules.

The model is written from SPC-5 5.14 and SPC-2 5.5 as the sentences stand there, with none of the
product's code: who is registered, who holds what, who is told, and who may read and write.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.kit import reservations as pr
from tests.kit.engine import ready_nexus, target_of
from tests.kit.reservations import CONFLICT, EA, EA_AR, EA_RO, WE, WE_AR, WE_RO, Host
from tests.kit.units import InlineRamUnit
from userdisk.target.task_management import Function, manage

ILLEGAL_CDB, ILLEGAL_LIST, BAD_RELEASE = (5, 0x2400), (5, 0x2600), (5, 0x2604)
PREEMPTED, RELEASED, REMOVED, RESET = 0x2A03, 0x2A04, 0x2A05, 0x2903
NAMES = ("a", "b", "c")

hosts = st.sampled_from(NAMES)
keys = st.sampled_from([1, 2, 3])
any_key = st.sampled_from([0, 1, 2, 3])
types = st.sampled_from(pr.TYPES)
#: whether a command has the key of its nexus, as it nearly always has
right = st.sampled_from([True] * 7 + [False])
WRONG = 9


class Model:
    """What the standard says."""

    def __init__(self) -> None:
        self.registered: dict[str, int] = {}
        self.type = 0
        self.owner = ""  # of types with one holder
        self.reserver = ""  # by RESERVE
        self.generation = 0
        self.told: dict[str, set[int]] = {name: set() for name in NAMES}

    def is_holder(self, name: str) -> bool:
        if self.type in (WE_AR, EA_AR):
            return name in self.registered
        return self.type != 0 and name == self.owner

    def tell(self, code: int, names: set[str], cause: str) -> None:
        for name in names - {cause}:
            self.told[name].add(code)

    def may(self, name: str, *, write: bool) -> bool:
        if self.reserver:
            return name == self.reserver
        if self.type == 0 or self.is_holder(name):
            return True
        if name in self.registered and self.type in (WE_RO, EA_RO, WE_AR, EA_AR):
            return True
        return not write and self.type in (WE, WE_RO, WE_AR)

    def unregister(self, name: str) -> None:
        del self.registered[name]
        if self.type in (WE_AR, EA_AR):
            if not self.registered:
                self.type = 0
        elif self.type and self.owner == name:
            if self.type in (WE_RO, EA_RO):
                self.tell(RELEASED, set(self.registered), name)
            self.type, self.owner = 0, ""

    def register(self, name: str, key: int, new: int, *, ignore: bool) -> object:
        if self.reserver:
            return CONFLICT
        if not ignore:
            if name in self.registered and key != self.registered[name]:
                return CONFLICT
            if name not in self.registered and key != 0:
                return CONFLICT
        if new == 0 and name not in self.registered:
            return 0
        self.generation += 1
        if new == 0:
            self.unregister(name)
        else:
            self.registered[name] = new
        return 0

    def reserve(self, name: str, key: int, kind: int) -> object:
        if self.reserver or self.registered.get(name) != key:
            return CONFLICT
        if self.type:
            return 0 if self.is_holder(name) and self.type == kind else CONFLICT
        self.type, self.owner = kind, name
        return 0

    def release(self, name: str, key: int, kind: int) -> object:
        if self.reserver or self.registered.get(name) != key:
            return CONFLICT
        if not self.is_holder(name):
            return 0
        if kind != self.type:
            return BAD_RELEASE
        if kind not in (WE, EA):
            self.tell(RELEASED, set(self.registered), name)
        self.type, self.owner = 0, ""
        return 0

    def clear(self, name: str, key: int) -> object:
        if self.reserver or self.registered.get(name) != key:
            return CONFLICT
        self.generation += 1
        self.tell(PREEMPTED, set(self.registered), name)
        self.registered = {}
        self.type, self.owner = 0, ""
        return 0

    def preempt(self, name: str, key: int, other: int, kind: int) -> object:
        if self.reserver or self.registered.get(name) != key:
            return CONFLICT
        victims = {each for each, value in self.registered.items() if value == other}
        if self.type in (WE_AR, EA_AR):
            replaces = other == 0
            if replaces:
                victims = set(self.registered)
        else:
            if other == 0 and self.type:
                return ILLEGAL_LIST
            replaces = self.type != 0 and self.registered[self.owner] == other
        if not victims:
            return CONFLICT
        self.generation += 1
        self.tell(REMOVED, victims, name)
        if replaces:
            for each in victims - {name}:
                del self.registered[each]
            if kind != self.type:
                self.tell(RELEASED, set(self.registered), name)
            self.type, self.owner = kind, name
        else:
            for each in victims:
                del self.registered[each]
            if not self.registered:
                self.type = 0
        return 0

    def move(self, name: str, key: int, new: int, to: str, *, unregister: bool) -> object:
        if self.reserver or self.registered.get(name) != key:
            return CONFLICT
        if not self.type:
            return ILLEGAL_CDB
        if not self.is_holder(name) or self.type in (WE_AR, EA_AR):
            return CONFLICT
        if new == 0 or to == name:
            return ILLEGAL_LIST
        self.generation += 1
        self.registered[to] = new
        self.owner = to
        if unregister:
            del self.registered[name]
        return 0


class Reservations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.target = target_of(InlineRamUnit())
        self.hosts = {name: Host(ready_nexus(self.target, name)) for name in NAMES}
        self.model = Model()

    def _settle(self) -> None:
        """Who is told of what was done, before anything else is asked."""
        for name, host in self.hosts.items():
            found = []
            while True:
                sense = host.command(bytes.fromhex("03000000fc00")).data  # passes everything
                if not sense[2] & 0xF:
                    break
                found.append(int.from_bytes(sense[12:14], "big"))
            assert sorted(found) == sorted(self.model.told[name]), name
            self.model.told[name].clear()

    def _key(self, host: str, right: bool) -> int:
        return self.model.registered.get(host, 0) if right else WRONG

    @initialize(enrolled=st.lists(st.tuples(hosts, keys), max_size=4), kind=types)
    def begin(self, enrolled: list[tuple[str, int]], kind: int) -> None:
        for host, key in enrolled:
            self.register(host, True, key, True)
        for host, _ in enrolled[:1]:
            self.reserve(host, True, kind)

    @rule(host=hosts, right=right, new=any_key, ignore=st.booleans())
    def register(self, host: str, right: bool, new: int, ignore: bool) -> None:
        key = self._key(host, right)
        action = pr.IGNORE if ignore else pr.REGISTER
        done = self.hosts[host].out(action, key, new)
        assert done == self.model.register(host, key, new, ignore=ignore)

    @rule(host=hosts, right=right, kind=types)
    def reserve(self, host: str, right: bool, kind: int) -> None:
        key = self._key(host, right)
        assert self.hosts[host].out(pr.RESERVE, key, 0, kind) == self.model.reserve(host, key, kind)

    @rule(host=hosts, right=right, kind=st.none() | types)
    def release(self, host: str, right: bool, kind: int | None) -> None:
        kind = kind or self.model.type or EA  # mostly the right type
        key = self._key(host, right)
        assert self.hosts[host].out(pr.RELEASE, key, 0, kind) == self.model.release(host, key, kind)

    @rule(host=hosts, right=right)
    def clear(self, host: str, right: bool) -> None:
        key = self._key(host, right)
        assert self.hosts[host].out(pr.CLEAR, key) == self.model.clear(host, key)

    @rule(host=hosts, right=right, key=any_key, kind=types, abort=st.booleans())
    def preempt(self, host: str, right: bool, key: int, kind: int, abort: bool) -> None:
        own = self._key(host, right)
        action = pr.PREEMPT_AND_ABORT if abort else pr.PREEMPT
        done = self.hosts[host].out(action, own, key, kind)
        assert done == self.model.preempt(host, own, key, kind)

    @rule(host=hosts, right=right, to=hosts, new=any_key, unregister=st.booleans())
    def move(self, host: str, right: bool, to: str, new: int, unregister: bool) -> None:
        own = self._key(host, right)
        name = pr.transport_id(to, self.hosts[to].nexus.isid)
        data = pr.moving(own, new, name, flags=2 if unregister else 0)
        done = pr.outcome(self.hosts[host].send(pr.MOVE, data))
        assert done == self.model.move(host, own, new, to, unregister=unregister)

    @rule(host=hosts, ten=st.booleans())
    def legacy_reserve(self, host: str, ten: bool) -> None:
        done = self.hosts[host].command(bytes([0x56 if ten else 0x16])).status
        free = not self.model.registered and self.model.reserver in ("", host)
        assert done == (0 if free else CONFLICT)
        if free:
            self.model.reserver = host

    @rule(host=hosts, ten=st.booleans())
    def legacy_release(self, host: str, ten: bool) -> None:
        done = self.hosts[host].command(bytes([0x57 if ten else 0x17])).status
        assert done == (CONFLICT if self.model.registered else 0)
        if not self.model.registered and self.model.reserver == host:
            self.model.reserver = ""

    @rule(host=hosts)
    def leave_and_come_back(self, host: str) -> None:
        self.target.detach(self.hosts[host].nexus)
        if self.model.reserver == host:
            self.model.reserver = ""
        self.hosts[host] = Host(ready_nexus(self.target, host))

    @rule(host=hosts)
    def reset(self, host: str) -> None:
        manage(Function.LOGICAL_UNIT_RESET, self.hosts[host].nexus, 0, None, lambda answer: None)
        self.model.reserver = ""
        for told in self.model.told.values():
            told.add(RESET)

    @invariant()
    def agrees(self) -> None:
        self._settle()
        for name, host in self.hosts.items():
            assert host.reads() is self.model.may(name, write=False), name
            assert host.writes() is self.model.may(name, write=True), name
            (path,) = host.nexus.paths.values()
            assert path.ready is self.model.may(name, write=True), name
        host = self.hosts["a"]
        if self.model.reserver:
            assert host.command(bytes.fromhex("5e000000000000000800")).status == CONFLICT
            return
        assert host.generation() == self.model.generation
        assert sorted((each.name, each.key, each.holder) for each in host.status()) == sorted(
            (pr.transport_id(name, 0), key, self.model.is_holder(name))
            for name, key in self.model.registered.items()
        )
        expected = None
        if self.model.type:
            everybody = self.model.type in (WE_AR, EA_AR)
            key = 0 if everybody else self.model.registered[self.model.owner]
            expected = self.model.type, key
        assert host.reservation() == expected


TestReservations = Reservations.TestCase
TestReservations.settings = settings(max_examples=100, stateful_step_count=15, deadline=None)
