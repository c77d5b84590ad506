"""The page in a real browser, before a real console, launcher and disks."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.console.browser import PROGRAM, Chromium, Page, chromium_in
from tests.console.scene import Load, under_load
from tests.console.serving import Console, console_in, token_of
from tests.kit.requires import missing_program, requires
from tests.launcher.kit import needs_devices
from tests.launcher.system.service import Service, service_in
from userdisk.launcher import places
from userdisk.launcher.client import Client

pytestmark = requires(PROGRAM)

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium_in(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A launcher for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("service").resolve()
        with service_in(folder, patch) as found:
            found.start()
            yield found


@pytest.fixture
def service(shared: Service) -> Iterator[Service]:
    """It without disks, and with one class."""
    for each in shared.classes.iterdir():
        each.unlink()
    shared.write("ram", 'unit = "ram:%1"\ndescription = "Memory"')
    yield shared
    client = Client()
    for each in client.get("/v1/instances")["instances"]:
        client.call("DELETE", f"/v1/instances/{each['id']}", {"force": True})


@pytest.fixture(scope="module")
def console(shared: Service) -> Iterator[Console]:
    """A console for all tests but the one that ends it."""
    with console_in(shared.stable.folder) as found:
        yield found


@pytest.fixture
def page(chromium: Chromium, console: Console, service: Service) -> Iterator[Page]:
    """The console, logged in; it must not complain of anything."""
    page = chromium.new_page()
    page.open(url())
    page.until_text("#link", "live")
    yield page
    page.call("Page.navigate", url="about:blank")
    assert page.troubles == []


def url() -> str:
    """A link that is good now."""
    found: str = json.loads((places.launcher_folder() / "console").read_text())["url"]
    return found


def disk(name: str, *words: str, kind: str = "ram") -> dict[str, Any]:
    body = {"class": kind, "name": name, "arguments": list(words or ("1M",))}
    answer: dict[str, Any] = Client().call("POST", "/v1/instances", body=body)
    return answer


def row(name: str) -> str:
    """The selector of a disk's row: its name is a button, whose text is the name."""
    (found,) = [each for each in Client().get("/v1/instances")["instances"] if each["name"] == name]
    return f"tr[data-id={json.dumps(found['id'])}]"


def names(page: Page) -> list[str]:
    found: list[str] = page.js("[...document.querySelectorAll('.name')].map((e) => e.textContent)")
    return found


def focused(page: Page) -> str:
    found: str = page.js("document.activeElement.innerText")
    return found


def expect(page: Page, *texts: str) -> None:
    """The browser has complained of these (one of them each time), and of nothing else."""
    assert page.troubles
    others = [each for each in page.troubles if not any(text in each for text in texts)]
    assert others == []
    page.troubles.clear()


# -- login ---------------------------------------------------------------------------------------


def test_a_link_logs_in_once(chromium: Chromium, console: Console) -> None:
    link, first = url(), chromium.new_page()
    first.open(link)
    first.until_text("#link", "live")
    assert first.js("location.href") == link.partition("#")[0]  # and no token
    assert first.js("history.length") <= 2
    assert token_of(link) not in first.js("document.documentElement.outerHTML")
    first.reload()
    first.until_text("#service", "version")
    assert first.troubles == []

    second = chromium.new_page()
    second.open(link)
    second.until_text("#login", "has been used or is too old")
    second.until_text("#login", "userdisk console")
    assert not second.js("document.getElementById('console').checkVisibility()")
    # A fresh link in the same tab is a matter of the fragment alone.
    second.js(f"void (location.hash = {json.dumps('login=' + token_of(url()))})")
    second.until_text("#link", "live")
    assert "login" not in second.js("location.href")


def test_log_out(page: Page) -> None:
    disk("work")
    page.until_text("#disks", "work")
    page.click("#logout")
    page.until_text("#login", "You have logged out")
    page.reload()
    page.until_text("#login", "userdisk console")
    assert page.js("fetch('/api/v1/instances').then((r) => r.status)") == 401
    expect(page, "status of 401")


# -- what is shown -------------------------------------------------------------------------------


def test_disks_come_and_go_by_themselves(page: Page) -> None:
    page.until_text("#nothing", "userdisk start CLASS NAME")
    disk("ten 10", "64M")
    page.until_text("#disks", "64 MiB")
    disk("ten 9")
    page.until_text("#disks", "ten 9")
    assert names(page) == ["ten 9", "ten 10"]
    assert "running" in page.text(row("ten 9"))
    page.until_text("#totals", "2")
    page.js("document.getElementById('filter').focus()")
    page.write("9")
    page.until(f"!document.querySelector({json.dumps(row('ten 10'))}).checkVisibility()")
    page.write("x")
    page.until_text("#unmatched", "No disk matches")
    page.js("filter.value = ''; filter.dispatchEvent(new Event('input'))")
    Client().call("DELETE", f"/v1/instances/{disk('third')['id']}")
    page.until("document.querySelectorAll('.name').length === 2")
    assert not page.js("document.getElementById('nothing').checkVisibility()")


def test_it_is_a_table_for_those_who_listen(page: Page) -> None:
    disk("work")
    page.until_text("#disks", "work")
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    for width in (1200, 360):
        page.size(width, 800)
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
        found = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]
        for wanted in [
            ("table", "Disks"),
            ("columnheader", "IOPS"),
            ("button", "work"),
            ("button", "Stop work"),
            ("searchbox", "Filter disks by name, class or state"),
            ("status", ""),
        ]:
            assert wanted in found, (width, wanted, found)
        assert any(role == "rowheader" for role, _ in found)
        unnamed = [found for found in found if found[0] in ("button", "textbox") and not found[1]]
        assert unnamed == []


def test_charts_move_under_load(page: Page) -> None:
    work = disk("work", "16M")
    page.until_text("#disks", "work")
    page.click(f"{row('work')} .name")
    page.until_text("#detail", "Nobody is connected")
    with under_load(work, Load("iqn.2026-11.org.example:one", 200, writes=0.5)):
        page.until_text("#detail", "iqn.2026-11.org.example:one")
        lines = "[...document.querySelectorAll('.chart .line')]"
        drawn = f"{lines}.filter((e) => (e.getAttribute('d') ?? '').split('L').length > 3).length"
        page.until(f"{drawn} === 7")
        value = json.dumps(f"{row('work')} .iops .value")
        number = f"parseFloat(document.querySelector({value}).innerText)"
        page.until(f"{number} > 5")
        page.until_text(f"{row('work')} .p99", "µs")
        before = page.js(f"{lines}[0].getAttribute('d')")
        page.until(f"{lines}[0].getAttribute('d') !== {json.dumps(before)}")
        label = page.js("document.querySelector('.chart svg').getAttribute('aria-label')")
        assert label.startswith("Operations per second: read ")
    page.until(f"{number} === 0")
    page.until_text("#detail", "Nobody is connected")


def test_what_a_pointer_is_at(page: Page) -> None:
    work = disk("work", "16M")
    page.until_text("#disks", "work")
    page.click(f"{row('work')} .name")
    with under_load(work, Load("iqn.2026-11.org.example:one")):
        page.until("document.querySelector('.chart .line').getAttribute('d').split('L').length > 3")
        box = page.js("document.querySelector('.plot svg').getBoundingClientRect().toJSON()")
        page.call(
            "Input.dispatchMouseEvent", type="mouseMoved", x=box["left"] + 2, y=box["top"] + 9
        )
        page.until_text(".chart .when", "s ago")
        assert "–" in page.text(".chart .key b")
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
        page.until("document.querySelector('.chart .when').innerText === ''")


def test_errors_and_logs_in_words(page: Page, service: Service) -> None:
    unit = f"{_ROOT}/examples/faulty_disk.py:FaultyDisk"
    service.write("bad", f'unit = "{unit}"\n[options]\nsize = "1M"\noption = ["bad=%1"]')
    made = disk("flaky", "0-2047", kind="bad")
    page.until_text("#disks", "flaky")
    page.click(f"{row('flaky')} .name")
    with under_load(made, Load("iqn.2026-11.org.example:one", writes=0, extent=2048)):
        page.until_text("#detail", "medium error, unrecovered read error")
        page.until(
            "parseInt(document.querySelector('.lines tbody tr td:last-child').innerText) > 0"
        )
    Client().call("DELETE", f"/v1/instances/{made['id']}")
    page.until("document.getElementById('detail').hidden")

    memory = disk("memory")
    page.until_text("#disks", "memory")
    page.click(f"{row('memory')} .name")
    service.stable.until(lambda: memory["unit_pid"])
    subprocess.run(["kill", "-9", str(memory["unit_pid"])], check=True)
    page.until_text(f"{row('memory')}", "failed")
    page.until_text("#detail .trouble", "its data went with it")
    page.until_text("#detail .log", "killed")
    page.until_text("#totals .bad", "1")


def test_names_are_text(page: Page) -> None:
    name = "<img src=x onerror=alert(1)><b>&amp;\n'\""
    disk(name)
    page.until(f"document.querySelector('.name')?.textContent === {json.dumps(name)}")
    page.click(".name")
    page.until_text("#detail h2", "onerror")
    page.click("#detail .head button:nth-of-type(2)")
    page.until_text("#stop-title", "<img src=x onerror=alert(1)><b>&amp;")
    page.click("#stop-dialog [type=submit]")
    page.until_text("#messages", "onerror=alert(1)><b>&amp;")
    assert page.js("document.querySelectorAll('main img, main b b, #messages img').length") == 0


def test_what_is_forbidden_is_forbidden(page: Page) -> None:
    """So that a mistake of the page could do little: the browser enforces it."""
    refused = "(() => { try { document.body.innerHTML = '<p>'; } catch (e) { return e.name; } })()"
    assert page.js(refused) == "TypeError"
    assert page.js("fetch('http://127.0.0.1:1/').then(() => 'done', (e) => e.name)") == "TypeError"
    for policy in ("Trusted", "connect-src"):
        assert any(policy in each for each in page.troubles), page.troubles
    expect(page, "Trusted", "Content Security Policy")


# -- keys alone ----------------------------------------------------------------------------------


def test_start_and_stop_by_keys(page: Page, service: Service) -> None:
    service.write("broken", "unit = 3")
    page.tab_to("Start a disk")
    page.press("Enter")
    page.until("document.getElementById('start-dialog').open")
    page.until_text("#start-dialog .problem", "broken")
    page.press("Escape")
    page.until("document.activeElement.innerText === 'Start a disk'")
    page.press(" ")
    page.until("document.getElementById('start-dialog').open")
    assert page.js("document.getElementById('start-class').value") == "ram"
    page.tab_to("Name")
    page.write("by keys")
    page.press("Enter")
    page.until_text("#start-dialog .problem", "argument")  # there is none
    page.tab_to("Add an argument")
    page.press("Enter")
    page.press("Tab", shift=True)
    assert page.js("document.activeElement.getAttribute('aria-label')") == "Argument 1"
    page.write("2M")
    page.press("Enter")
    page.until("!document.getElementById('start-dialog').open")
    page.until_text("#messages", "by keys is running")
    page.until("document.activeElement.innerText === 'Start a disk'")
    page.until_text(row("by keys"), "2 MiB")

    page.tab_to("by keys")
    page.press("Enter")
    page.until_text("#detail h2", "by keys")
    assert focused(page) == "by keys"  # the title of the details
    page.press("Escape")
    page.until("document.getElementById('detail').hidden")
    page.until("document.activeElement.className === 'name'")
    page.tab_to("Stop by keys")
    page.press("Enter")
    page.until_text("#stop-dialog", "Stop by keys?")
    page.press("Escape")
    page.until("!document.getElementById('stop-dialog').open")
    page.until("document.activeElement.getAttribute('aria-label') === 'Stop by keys'")
    page.press("Enter")
    page.until_text("#stop-dialog", "Stop by keys?")
    page.press("Enter")
    page.until_text("#messages", "by keys is stopped")
    page.until_text("#nothing", "No disks yet")
    page.until("document.activeElement.innerText === 'Start a disk'")
    assert Client().get("/v1/instances") == {"instances": []}
    expect(page, "status of 422")


def test_arrows_go_through_disks(page: Page) -> None:
    for name in "abc":
        disk(name)
    page.until("document.querySelectorAll('.name').length === 3")
    page.tab_to("a")
    page.press("ArrowDown")
    page.press("ArrowDown")
    assert focused(page) == "c"
    page.press("ArrowDown")
    page.press("ArrowUp")
    assert focused(page) == "b"


def test_no_class(page: Page, service: Service) -> None:
    for each in service.classes.iterdir():
        each.unlink()
    page.click("#start")
    page.until_text("#start-dialog", "classes.d/")
    assert not page.js("document.querySelector('#start-dialog [type=submit]').checkVisibility()")
    page.press("Escape")


# -- devices -------------------------------------------------------------------------------------


@pytest.mark.skipif(missing_program("mkfs.ext4") is not None, reason="needs mkfs.ext4")
def test_mount_eject_and_who_holds_it(page: Page, service: Service) -> None:
    needs_devices()
    place = service.stable.folder / "a place"
    service.write("image", 'unit = "%1"\n[attach]')
    image = service.stable.image(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=120)
    made = disk("work", str(image), kind="image")
    page.until_text("#disks", made["device"])
    page.tab_to("Mount work")
    page.press("Enter")
    page.until_text("#mount-dialog", "Mount work")
    page.press("Enter")
    page.until_text("#mount-dialog .problem", "names none")
    page.tab_to("Folder")
    page.write(str(place))
    page.press("Enter")
    page.until_text("#messages", f"work is mounted on {place}")
    page.until_text(row("work"), f"on {place}")
    assert place.is_mount()
    page.until("document.activeElement.innerText === 'Unmount'")

    with _holding(place) as holder:
        page.tab_to("Eject work")
        page.press("Enter")
        page.until_text("#stop-dialog", "Eject work?")
        page.press("Enter")
        page.until_text("#stop-busy", "It is in use")
        page.until_text("#stop-busy", str(holder))
        page.until("document.activeElement.innerText === 'Try again'")
        assert place.is_mount()
        page.tab_to("Cancel")
        page.press("Enter")
        page.until("document.activeElement.innerText === 'Eject'")
        page.press("Enter")
        page.until("document.activeElement.type === 'submit'")
        page.press("Enter")
        page.until_text("#stop-busy", str(holder))
        page.tab_to("Eject by force")
        page.press("Enter")
        page.until_text("#messages", "work is ejected")
    page.until_text("#nothing", "No disks yet")
    assert not place.is_mount()
    expect(page, "status of 422", "status of 409")


@contextlib.contextmanager
def _holding(place: Path) -> Iterator[int]:
    holder = subprocess.Popen(["sleep", "600"], cwd=place)
    try:
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


# -- how it looks --------------------------------------------------------------------------------

_BACK = "getComputedStyle(document.documentElement).backgroundColor"


def test_light_and_dark(page: Page) -> None:
    page.prefers(prefers_color_scheme="light")
    light = page.js(_BACK)
    page.prefers(prefers_color_scheme="dark")
    dark = page.js(_BACK)
    assert light != dark
    page.click("#theme")
    assert (page.text("#theme"), page.js(_BACK)) == ("Theme: light", light)
    page.reload()
    page.until_text("#link", "live")
    assert (page.text("#theme"), page.js(_BACK)) == ("Theme: light", light)
    page.prefers(prefers_color_scheme="light")
    page.click("#theme")
    assert (page.text("#theme"), page.js(_BACK)) == ("Theme: dark", dark)
    page.click("#theme")
    assert (page.text("#theme"), page.js(_BACK)) == ("Theme: system", light)


def test_text_can_be_read(page: Page) -> None:
    """Contrast of 4.5 and more, light and dark (WCAG 2, 1.4.3)."""
    disk("work")
    page.until_text("#disks", "work")
    page.click(f"{row('work')} .name")
    for theme in ("light", "dark"):
        page.prefers(prefers_color_scheme=theme)
        page.until("document.getAnimations().length === 0")
        assert page.js(_CONTRASTS) == [], theme


_CONTRASTS = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) =>
      v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.closest("svg")) continue;
    const colors = [parse(getComputedStyle(node).color), back(node)];
    const [low, high] = colors.map((each) => light(each.slice(0, 3))).sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) bad.push([node.textContent.trim().slice(0, 40), ratio]);
  }
  return bad;
})()"""

_TOO_WIDE = """[
  document.scrollingElement.scrollWidth > innerWidth,
  ...[...document.querySelectorAll("body *")]
    .filter((e) => e.checkVisibility())
    .filter((e) => !e.closest("svg, .log, .messages, .lines-section, .name, thead"))
    .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
    .map((e) => e.outerHTML.slice(0, 80)),
]"""


def test_a_narrow_window(page: Page, service: Service) -> None:
    disk("work")
    disk("w" * 300)
    disk("several words and no end " * 10)
    page.size(360, 740)
    page.until("document.querySelectorAll('.name').length === 3")
    for selector in (f"{row('work')} .name", f"{row('w' * 300)} .name", "#start"):
        page.click(selector)
        page.until("!document.getElementById('detail').hidden")
        assert page.js(_TOO_WIDE) == [False], selector
    page.until("document.getElementById('start-dialog').open")
    page.press("Escape")
    page.click(f"{row('w' * 300)} .acts button:last-child")
    page.until("document.getElementById('stop-dialog').open")
    assert page.js(_TOO_WIDE) == [False]


@pytest.mark.parametrize("width", [768, 1121, 1281, 1920])
def test_every_column_has_room(page: Page, width: int) -> None:
    disk("a name of usual length")
    page.size(width, 800)
    page.until_text("#disks", "usual")
    page.until_text(f"{row('a name of usual length')} .iops", "0")
    cut = """[...document.querySelectorAll(".disks tbody tr > *, .disks .value, .disks .name")]
        .filter((e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display != "inline")
        .map((e) => [e.className, e.innerText, e.scrollWidth, e.clientWidth])"""
    assert page.js(cut) == []
    assert page.js(_TOO_WIDE) == [False]


def test_nothing_moves_for_those_who_want_it_still(page: Page) -> None:
    moving = "document.getElementById('start-dialog').getAnimations().length"
    for prefers, least in (("no-preference", 1), ("reduce", 0)):
        page.prefers(prefers_reduced_motion=prefers)
        page.js("document.getElementById('start-dialog').showModal()")
        name = "getComputedStyle(document.getElementById('start-dialog')).animationName"
        assert page.js(name) == ("appear" if least else "none"), moving
        page.js("document.getElementById('start-dialog').close()")


# -- what goes away ------------------------------------------------------------------------------


def test_the_launcher_goes_and_comes_back(page: Page, service: Service) -> None:
    disk("work")
    page.until_text("#disks", "work")
    service.stop(signal.SIGKILL)
    page.until_text("#trouble", "userdisk launcher run")
    page.until_text("#link", "no launcher")
    assert names(page) == ["work"]  # it goes on
    service.start()
    page.until_text("#link", "live")
    assert not page.js("document.getElementById('trouble').checkVisibility()")
    disk("another")
    page.until_text("#disks", "another")
    assert names(page) == ["another", "work"]
    expect(page, "status of 502")


def test_the_console_goes(
    chromium: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path / "run"))
    page = chromium.new_page()
    with console_in(tmp_path) as console:
        page.open(console.url)
        page.until_text("#trouble", "userdisk launcher run")  # there is none
        expect(page, "status of 502")
        assert console.stop() == 0
        page.until_text("#trouble", "Type: userdisk console")
    expect(page, "status of 502", "ERR_CONN", "ERR_INCOM", "ERR_EMPTY")
