"""200,000 commands, drawn from the operation table, in every state: see `command_fuzz`.

FUZZ_COMMANDS sets how many; with FUZZ_RANDOM set they differ every time.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.target.command_fuzz import Reached, error_exits, run
from userdisk.target import operations
from userdisk.target.row import Access, Flags, Row

pytestmark = pytest.mark.timeout(900)

COMMANDS = int(os.environ.get("FUZZ_COMMANDS", "200000"))
SEED = random.SystemRandom().randrange(1 << 30) if "FUZZ_RANDOM" in os.environ else 1

#: flag that lets a row run in a state -> the sense of a row without it
STATES: dict[Flags, str] = {
    Flags.DESPITE_ATTENTION: "6/29/00",
    Flags.WITHOUT_MEDIUM: "2/3A/00",
    Flags.WHILE_SANITIZING: "2/04/1B",
    Flags.IN_STANDBY: "2/04/0B",
    Flags.WHILE_UNAVAILABLE: "2/04/0C",
}

#: What these find out and say themselves, though they run in that state.
OWN_WORDS = {("START STOP UNIT", "2/3A/00"), ("LOG SENSE", "2/3A/00")}

#: Refusals that these commands cannot meet -> why.
UNREACHABLE: dict[str, str] = {
    "target.py:_absent": "a LUN without a unit: test_target",
    "inquiry.py:absent": "a LUN without a unit: test_target",
    "copies.py:begin": "a copy that runs, with the same identifier: test_extended_copy",
    "copies.py:failure_details_lid1": "a copy that runs: test_extended_copy",
    "sanitize.py:steps": "an eject between the check and the turn: test_sanitize",
    "persistent_reserve.py:_specified": "thousands of names: test_persistent_reserve",
    "service_actions.py:_enough": "thousands of registrations: test_persistent_reserve",
    "data_out.py:receive_all": "a port that brings less than it announced: test_task",
    "data_out.py:receive_blocks": "a port that brings less than it announced: test_task",
}


@pytest.fixture(scope="module")
def reached() -> Reached:
    print(f"seed {SEED}")
    return run(COMMANDS, SEED)


@pytest.mark.parametrize("row", operations.ROWS, ids=lambda row: row.name)
def test_every_row_is_reached(reached: Reached, row: Row) -> None:
    assert reached.good[row.name] >= (100 if COMMANDS >= 200000 else COMMANDS // 10000)


@pytest.mark.skipif(COMMANDS < 200000, reason="too few commands for all of it")
@pytest.mark.parametrize("row", operations.ROWS, ids=lambda row: row.name)
def test_every_state_refuses_what_it_must(reached: Reached, row: Row) -> None:
    met = {end for name, end in reached.ends if name == row.name}
    expected = {sense for flag, sense in STATES.items() if flag not in row.flags}
    if Flags.WRITES in row.flags:
        expected.add("7/27/00")
    if row.access is not Access.ALWAYS:
        expected.add("conflict")
    assert met >= expected
    unexpected = met & {sense for flag, sense in STATES.items() if flag in row.flags}
    assert not {(row.name, sense) for sense in unexpected} - OWN_WORDS


@pytest.mark.skipif(COMMANDS < 200000, reason="too few commands for all of it")
def test_every_refusal_is_met(reached: Reached) -> None:
    missing = [
        site for site in reached.missing_sites() if site.rpartition(":")[0] not in UNREACHABLE
    ]
    assert not missing, "no command was refused here: " + ", ".join(missing)
    assert len(list(error_exits())) > 50
