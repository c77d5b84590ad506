"""The first moment of a confined process: it enters its control groups, takes its limits and its
user, and becomes the program. Run by its path and without site-packages, so that it takes 15 ms.

The first argument is JSON: `procs` (files that a process enters a group by), `limits` (number of a
resource, value), `user` (null, or uid, gid and groups), `json` (how an error is said: like the logs
of log_format.py, which would take twice the time). The others are the program's.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time


def main() -> None:
    """Become the program; ends with one line and status 127 if that cannot be."""
    how, command = json.loads(sys.argv[1]), sys.argv[2:]
    os.get_exec_path()  # imports what it needs now: the user may have no access to it
    try:
        for path in how["procs"]:
            with open(path, "w") as file:
                file.write("0")
        for number, value in how["limits"]:
            hard = resource.getrlimit(number)[1]
            if hard != resource.RLIM_INFINITY:
                value = min(value, hard)
            resource.setrlimit(number, (value, value))
        if how["user"] is not None:
            uid, gid, groups = how["user"]
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        os.execvp(command[0], command)
    except OSError as error:
        where = error.filename or command[0]
        print(_line(f"cannot start {where}: {error.strerror}", how["json"]), file=sys.stderr)
        sys.exit(127)


def _line(message: str, as_json: bool) -> str:
    if not as_json:
        return message
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    fields = {"time": f"{stamp}.{int(now % 1 * 1000):03}Z", "level": "error"}
    return json.dumps({**fields, "logger": "userdisk", "message": message})


if __name__ == "__main__":
    main()
