"""A headless Chromium, driven over a pipe with its DevTools protocol: JSON, each ended by a NUL."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.kit.requires import find_program

PROGRAM = "chromium"
_PATIENCE = 60.0  # seconds for an answer, or until something is so
_KEYS = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "Escape": (27, ""),
    " ": (32, " "),
    "ArrowDown": (40, ""),
    "ArrowUp": (38, ""),
}


class Page:
    """One page of it; `troubles` has what it complained about: errors, refused content."""

    def __init__(self, chromium: Chromium, context: str) -> None:
        self._chromium = chromium
        self.troubles: list[str] = []
        target = chromium.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = chromium.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session: str = attached["sessionId"]
        chromium.pages[self.session] = self
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, /, **params: object) -> dict[str, Any]:
        return self._chromium.call(method, self.session, **params)

    def noticed(self, method: str, params: dict[str, Any]) -> None:
        """An event has come."""
        if method == "Runtime.exceptionThrown":
            self.troubles.append(f"exception: {params['exceptionDetails']}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.troubles.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.troubles.append(f"console: {params['args']}")

    def open(self, url: str) -> None:
        """Go there; the page is loaded then."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def reload(self) -> None:
        """Load it afresh; the page that was there is gone then."""
        self.js("void (window.before = true)")
        self.call("Page.reload")
        self.until("!window.before && document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of an expression; promises are waited for."""
        done = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, (expression, done["exceptionDetails"])
        return done["result"].get("value")

    def module(self, name: str, expression: str) -> Any:
        """The value of an expression about one of the page's modules, which is called `m`."""
        return self.js(f"import('/{name}').then((m) => {expression})")

    def until(self, expression: str, seconds: float = _PATIENCE) -> Any:
        """Wait until it is true; its value."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(NoContext):
                if value := self.js(expression):
                    return value
            if time.monotonic() > deadline:
                said = self.js("document.body.innerText")
                raise AssertionError(f"not so: {expression}\n{self.troubles}\n{said}")
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """What the element shows; empty if there is none."""
        found: str = self.js(_shown(selector))
        return found

    def until_text(self, selector: str, wanted: str) -> None:
        """Wait until the element shows this, among other things."""
        self.until(f"{_shown(selector)}.includes({json.dumps(wanted)})")

    def click(self, selector: str) -> None:
        self.until(f"document.querySelector({json.dumps(selector)})?.checkVisibility()")
        self.js(f"document.querySelector({json.dumps(selector)}).click()")

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key, down and up."""
        code, text = _KEYS[key]
        about = {"key": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.call("Input.dispatchKeyEvent", **down, **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def write(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def tab_to(self, label: str, *, shift: bool = False) -> None:
        """Press Tab until what has the focus has this label or text."""
        seen = []
        for _ in range(100):
            self.press("Tab", shift=shift)
            seen.append(self.js(_FOCUSED))
            if seen[-1] == label:
                return
        raise AssertionError(f"no {label!r} among {seen}")

    def size(self, width: int, height: int, scale: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=False,
        )  # fmt: skip

    def prefers(self, **features: str) -> None:
        """Media features, with _ for -."""
        wanted = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", features=wanted)

    def picture(self, path: Path) -> None:
        done = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(done["data"]))


def _shown(selector: str) -> str:
    """The expression for an element's text; none is what cannot be seen."""
    return (
        f"((e) => (e?.checkVisibility() ? e.innerText : ''))"
        f"(document.querySelector({json.dumps(selector)}))"
    )


_FOCUSED = """(() => {
  const e = document.activeElement;
  return e.getAttribute("aria-label") ?? e.labels?.[0]?.innerText.trim() ?? e.innerText?.trim();
})()"""


class NoContext(Exception):
    """The page is on its way to another."""


class Chromium:
    """The program. For one thread."""

    def __init__(self, folder: Path) -> None:
        program = find_program(PROGRAM)
        assert program is not None
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()
        # It reads from descriptor 3 and writes to 4; a shell puts them there.
        line = f'exec "$@" 3<&{theirs_read} 4>&{theirs_write}'
        options = [
            "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}",
            # Only our own pages are looked at, and root, or a container, has no sandbox.
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-extensions", "--hide-scrollbars", "--lang=en-US",
        ]  # fmt: skip
        self.log = folder / "chromium.log"
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", line, "bash", program, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=(theirs_read, theirs_write),
                env={**os.environ, "HOME": str(folder), "TZ": "UTC"},
            )  # fmt: skip
        os.close(theirs_read)
        os.close(theirs_write)
        self._read, self._write = ours_read, ours_write
        self._rest = b""
        self._next = 0
        self.pages: dict[str, Page] = {}

    def new_page(self) -> Page:
        """A page that knows nothing of the others: no cookies, no storage."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        return Page(self, context)

    def call(self, method: str, session: str = "", /, **params: object) -> dict[str, Any]:
        """Do this; its result."""
        self._next += 1
        message: dict[str, object] = {"id": self._next, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            got = self._receive()
            if got.get("id") == self._next:
                break
            if got.get("sessionId") in self.pages and "method" in got:
                self.pages[got["sessionId"]].noticed(got["method"], got["params"])
        if "error" in got:
            if "context" in got["error"]["message"] or "navigated" in got["error"]["message"]:
                raise NoContext(got["error"]["message"])
            raise AssertionError(f"{method}: {got['error']}")
        result: dict[str, Any] = got["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._read], [], [], max(left, 0))
            more = os.read(self._read, 1 << 20) if ready else b""
            assert more, f"Chromium does not answer: {self.log.read_text()[-2000:]}"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        os.close(self._write)
        os.close(self._read)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        with contextlib.suppress(ProcessLookupError):  # its children, if any are left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)


@contextlib.contextmanager
def chromium_in(folder: Path) -> Iterator[Chromium]:
    """A browser that runs while the block does."""
    chromium = Chromium(folder)
    try:
        yield chromium
    finally:
        chromium.close()
