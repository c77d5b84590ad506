"""Make the pictures of docs again: `python -m tests.console.browser_pictures [FOLDER [SECONDS]]`.

A real launcher with disks that are used for two minutes, and a real browser.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.console.browser import Chromium, Page, chromium_in
from tests.console.browser_png import smaller
from tests.console.scene import Load, under_load
from tests.console.serving import Console, console_in
from tests.launcher.system.service import Service, service_in
from userdisk.launcher.client import Client

ROOT = Path(__file__).parents[2]
_CLASSES = {
    "image": 'unit = "%1"\ndescription = "Image files"\n[attach]\n',
    "memory": 'unit = "ram:%1"\ndescription = "Memory"\n',
    "overlay": (
        f'unit = "{ROOT}/examples/overlay_disk.py:OverlayDisk"\n'
        'description = "A backup to try out"\n[options]\noption = ["image=%1"]\n'
    ),
    "faulty": (
        f'unit = "{ROOT}/examples/faulty_disk.py:FaultyDisk"\ndescription = "Goes wrong"\n'
        '[options]\nsize = "64M"\noption = ["bad=1000-1007,5000"]\n'
    ),
    "database": (
        f'unit = "{ROOT}/examples/sqlite_disk.py:SqliteDisk"\n[options]\nsize = "1G"\n'
        'option = ["path=%1"]\n'
    ),
}
_HOST = "iqn.2026-11.org.example"


def main(folder: Path, seconds: float) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="disks-") as own,
        pytest.MonkeyPatch.context() as patch,
        contextlib.ExitStack() as stack,
    ):
        here = Path(own).resolve()
        service = stack.enter_context(service_in(here, patch))
        _start(service, here, stack)
        console = stack.enter_context(console_in(here))
        page = open_page(stack.enter_context(chromium_in(here)), console)
        page.size(1380, 1150)
        page.until_text("#disks", "photos")
        page.js(
            "[...document.querySelectorAll('.name')].find(e => e.innerText == 'photos').click()"
        )
        time.sleep(seconds)
        page.js("document.activeElement.blur(); scrollTo(0, 0)")
        for theme in ("light", "dark"):
            page.prefers(prefers_color_scheme=theme)
            page.js("new Promise((done) => setTimeout(done, 400))")
            path = folder / f"console-{theme}.png"
            page.picture(path)
            path.write_bytes(smaller(path.read_bytes()))
        assert page.troubles == []


def open_page(chromium: Chromium, console: Console) -> Page:
    """The console, logged in."""
    page = chromium.new_page()
    page.open(console.url)
    page.until_text("#link", "live")
    return page


def _start(service: Service, here: Path, stack: contextlib.ExitStack) -> None:
    for name, text in _CLASSES.items():
        service.write(name, text)
    service.start()
    images = {name: here / f"{name}.img" for name in ("photos", "backup")}
    for path in images.values():
        with open(path, "wb") as file:
            file.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(images["photos"])], check=True)
    photos = _disk("image", "photos", str(images["photos"]))
    Client().call(
        "POST", f"/v1/instances/{photos['id']}/mount", body={"folder": str(here / "photos")}
    )
    # What is in memory is lost with its process; an image comes back.
    for each, then in [(photos, "running"), (_disk("memory", "spare", "1G"), "failed")]:
        os.kill(each["unit_pid"], signal.SIGKILL)
        service.stable.until(lambda each=each, then=then: _is(each["id"], then))
    # What its file system has not used yet; nothing there is lost.
    studio = Load(f"{_HOST}:studio", 300, 16, 0.25, first=1 << 18)
    nas = Load(f"{_HOST}:nas", 80, 128, 0.1, 0.9, first=1 << 18)
    build = Load(f"{_HOST}:build-1", 700, 8, 0.5, 0.7, 47)
    mail = Load(f"{_HOST}:mail", 40, 16, 0.6, 0.8, 21)
    restore = Load(f"{_HOST}:studio", 60, 64, 0.1, 0.9, 35)
    loads = [
        (photos, studio, nas),
        (_disk("memory", "scratch", "512M"), build),
        (_disk("database", "mail", str(here / "mail.db")), mail),
        (_disk("overlay", "backup of Monday", str(images["backup"])), restore),
        (_disk("faulty", "flaky"), Load(f"{_HOST}:test", 20, 8, 0.0, 0.3)),
    ]
    for instance, *several in loads:
        stack.enter_context(under_load(instance, *several))


def _is(id_: str, state: str) -> bool:
    now = Client().get(f"/v1/instances/{id_}")
    return now["state"] == state and (state == "failed" or now["restarts"] > 0)


def _disk(kind: str, name: str, *words: str) -> dict[str, Any]:
    request = {"class": kind, "name": name, "arguments": list(words)}
    answer: dict[str, Any] = Client().call("POST", "/v1/instances", body=request)
    return answer


if __name__ == "__main__":
    words = sys.argv[1:]
    assert getpass.getuser() == "root", "disks are attached: be root"
    main(Path(words[0] if words else ROOT / "docs"), float(words[1] if words[1:] else 130))
