"""launcher/confined.py and children.py: real limits, users and orphans."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from userdisk.launcher.confinement import Confinement, find_user
from userdisk.launcher.log_file import LogFile
from userdisk.launcher.spec import Limits

EATS = "x = bytearray(200 << 20); print(len(x))"
BURNS = """
import time
end = time.monotonic() + 1.5
while time.monotonic() < end: pass
print(time.process_time())
"""


def run(confinement: Confinement, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        confinement.command([sys.executable, "-c", program]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def has_groups(confinement: Confinement) -> bool:
    return bool(confinement._groups)


def test_memory_is_limited_by_a_group() -> None:
    confinement = Confinement(Limits(memory=64 << 20), "", f"test-{os.getpid()}")
    try:
        if not has_groups(confinement):
            pytest.skip("this user or machine lets nobody make control groups for memory")
        assert run(confinement, "print(1)").stdout == "1\n"
        assert not confinement.out_of_memory()
        assert run(confinement, EATS).returncode == -9
        assert confinement.out_of_memory()
    finally:
        confinement.close()
    assert not has_groups(confinement)


def test_memory_is_limited_without_a_group() -> None:
    confinement = Confinement(Limits(memory=64 << 20), "", "x", own="")
    threads = "import threading; [threading.Thread(target=input) for _ in range(9)]; print(1)"
    assert run(confinement, threads).stdout == "1\n"
    result = run(confinement, EATS)
    assert result.returncode == 1 and "MemoryError" in result.stderr


def test_a_cpu_is_shared() -> None:
    confinement = Confinement(Limits(cpu=0.1), "", f"test-{os.getpid()}")
    try:
        if not has_groups(confinement):
            pytest.skip("this user or machine lets nobody make control groups for CPUs")
        used = float(run(confinement, BURNS).stdout)
    finally:
        confinement.close()
    assert used < 0.75  # of 1.5 s; with the start of Python, and some slack of the scheduler


def test_what_stays_in_a_group_is_killed() -> None:
    confinement = Confinement(Limits(memory=64 << 20), "", f"test-{os.getpid()}")
    if not has_groups(confinement):
        pytest.skip("this user or machine lets nobody make control groups for memory")
    process = subprocess.Popen(
        confinement.command([sys.executable, "-c", "import time; time.sleep(600)"])
    )
    (group,) = confinement._groups
    while str(process.pid) not in (group / "cgroup.procs").read_text().split():
        time.sleep(0.01)
    confinement.close()
    assert process.wait(30) == -9 and not group.exists()


def test_another_user() -> None:
    if os.getuid() != 0:
        pytest.skip("only root becomes somebody else")
    confinement = Confinement(Limits(), "nobody", "x")
    user = find_user("nobody")
    assert user is not None
    result = subprocess.run(
        confinement.command(["sh", "-c", "id -u; id -ru; id -g; id -rg; id -G"]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    uid, real_uid, gid, real_gid, *groups = map(int, result.stdout.split())
    assert (uid, real_uid, gid, real_gid) == (user.uid,) * 2 + (user.gid,) * 2
    assert sorted(groups) == sorted(user.groups)
    found = confinement.environment(
        {"HOME": "/root", "USERDISK_RUN": "/x", "XDG_CONFIG_HOME": "/y", "A": "b"}
    )
    assert (found["USER"], found["HOME"], found["A"]) == ("nobody", user.home, "b")
    assert "USERDISK_RUN" not in found and "XDG_CONFIG_HOME" not in found


def test_a_program_that_is_not_there() -> None:
    confinement = Confinement(Limits(memory=64 << 20), "", "x", own="")
    result = subprocess.run(
        confinement.command(["/no/such/program"]), capture_output=True, text=True, check=False
    )
    assert result.returncode == 127
    assert result.stderr == "cannot start /no/such/program: No such file or directory\n"


def test_as_json(tmp_path: Path) -> None:
    confinement = Confinement(Limits(memory=64 << 20), "", "x", own="", as_json=True)
    result = subprocess.run(
        confinement.command(["/no/such/program"]), capture_output=True, text=True, check=False
    )
    said = json.loads(result.stderr)
    assert said["message"] == "cannot start /no/such/program: No such file or directory"
    assert (said["level"], said["logger"]) == ("error", "userdisk")
    log = LogFile(tmp_path, 1 << 20, as_json=True)
    log.note('it "ended"')
    noted = json.loads((tmp_path / "log").read_text())
    assert noted["message"] == 'it "ended"' and noted.keys() == said.keys()


#: A reaper with one child of its own, which must stay, and one that leaves three generations.
REAPER = """
import os, subprocess, sys, time
from userdisk.launcher import children
children.become_reaper()
own = subprocess.Popen(["sleep", "600"], start_new_session=True, env=children.environment())
marked = subprocess.Popen(["sleep", "600"], start_new_session=True)
here = subprocess.Popen(["sleep", "600"])
tree = subprocess.Popen(["bash", "-c",
    "setsid bash -c 'setsid sleep 600 & sleep 600' & sleep 600 & echo; exec sleep 600"],
    start_new_session=True, stdout=subprocess.PIPE, env=children.environment())
tree.stdout.readline()
deadline = time.monotonic() + 30
def below(pid):
    out = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True).stdout
    rows = [line.split(None, 2) for line in out.splitlines()]
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        for row in rows:
            if int(row[1]) == parent and row[2].startswith("sleep"):
                found.append(int(row[0]))
            if int(row[1]) == parent:
                todo.append(int(row[0]))
    return found
while len(below(tree.pid)) < 3:
    assert time.monotonic() < deadline
    time.sleep(0.05)
tree.kill()
tree.wait()
children.end_session(tree.pid)
ended = children.end_strays([own.pid], 30)
only_own = sorted(below(os.getpid())) == sorted([own.pid, here.pid, marked.pid])
print(len(ended), own.poll(), here.poll(), only_own)
for each in (own, here, marked):
    each.kill()
    each.wait()
"""


def test_whoever_is_left_is_killed_and_reaped(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", REAPER], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    count, *others = result.stdout.split()
    assert int(count) >= 2 and others == ["None", "None", "True"]
