// The page: who is logged in, which disks there are, and once a second what they do.

import * as api from "./api.js";
import { Detail } from "./detail.js";
import { MountDialog, StartDialog, StopDialog } from "./dialogs.js";
import { clients, DiskTable, farewell } from "./disks.js";
import { byId, element, setAttribute, setText } from "./dom.js";
import { Events } from "./events.js";
import { bytes, count } from "./format.js";
import { History } from "./history.js";
import { say } from "./messages.js";
import { themeButton } from "./theme.js";

const TICK = 1000; // milliseconds between looks at the counters
const LOG_EVERY = 2; // of these, a look at the log
const LIST_EVERY = 15; // and at the list, should an event have been lost

const disks = new Map(); // instances, by id
const histories = new Map(); // what they did
let selected = null; // the id of the one whose details are shown
let events = null;
let timer = 0;
let ticks = 0;

const now = () => performance.now() / 1000;
const acts = { select, close: () => select(null), mount, stop };
const table = new DiskTable(acts);
const detail = new Detail(acts);
const starting = new StartDialog(started, say);
const stopping = new StopDialog(stopped, say);
const mounting = new MountDialog(mounted, say);

// -- who -----------------------------------------------------------------------------------------

/** Take the token of a link out of the address, so that neither history nor bookmarks have it. */
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("login");
  if (token !== null) history.replaceState(null, "", location.pathname);
  return token;
}

async function begin() {
  const token = takeToken();
  let refused = "";
  if (token !== null) {
    try {
      await api.login(token);
    } catch (error) {
      refused = error.message;
    }
  }
  try {
    await api.session();
  } catch (error) {
    if (error.status === 401) loggedOut(refused);
    else retry(error);
    return;
  }
  byId("login").hidden = true;
  byId("console").hidden = false;
  byId("logout").hidden = false;
  listen();
}

/** The console itself does not answer: try again. */
function retry(error) {
  setText(byId("login-why"), error.message);
  byId("login").hidden = false;
  link("lost", "no console");
  setTimeout(begin, 2000);
}

function loggedOut(why) {
  clearInterval(timer);
  timer = 0;
  events?.end();
  events = null;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  byId("console").hidden = true;
  byId("logout").hidden = true;
  byId("login").hidden = false;
  setText(byId("login-why"), why);
  link("lost", "not logged in");
  setText(byId("service"), "");
}

// -- what there is -------------------------------------------------------------------------------

function listen() {
  events?.end();
  events = new Events("/api/v1/events", { opened: refresh, told, lost: refresh });
  clearInterval(timer);
  timer = setInterval(tick, TICK);
}

/** Ask for everything anew. */
async function refresh() {
  try {
    const [service, found] = await Promise.all([api.service(), api.instances()]);
    setText(byId("service"), `${service.user}, version ${service.version}`);
    disks.clear();
    for (const each of found) disks.set(each.id, each);
    show();
    fine();
  } catch (error) {
    troubled(error);
  }
}

function told({ event, instance }) {
  if (event === "gone") disks.delete(instance.id);
  else disks.set(instance.id, instance);
  show();
}

function show() {
  for (const id of histories.keys()) if (!disks.has(id)) histories.delete(id);
  for (const id of disks.keys()) if (!histories.has(id)) histories.set(id, new History());
  table.show(disks.values());
  if (selected !== null && !disks.has(selected)) select(null);
  table.select(selected);
  detail.show(disks.get(selected) ?? null);
  draw();
}

function draw() {
  const at = now();
  table.draw(histories, at);
  if (selected !== null) detail.draw(histories.get(selected), at);
  const last = [...histories.values()].map((each) => each.latest(at)).filter(Boolean);
  const all = (key) => last.reduce((sum, each) => sum + each[key], 0);
  const failed = [...disks.values()].filter((each) => each.state === "failed").length;
  const initiators = [...histories.values()].reduce((sum, each) => sum + clients(each.connected), 0);
  totals([
    ["disks", String(disks.size)],
    ["failed", String(failed), failed ? "bad" : ""],
    ["initiators", String(initiators)],
    ["IOPS", count(all("iops"))],
    ["read", `${bytes(all("readBytes"))}/s`],
    ["written", `${bytes(all("writeBytes"))}/s`],
  ]);
}

function totals(wanted) {
  const list = byId("totals");
  if (!list.childElementCount) {
    list.append(...wanted.map(([name]) => element("div", {}, element("dt", {}, name), element("dd"))));
  }
  wanted.forEach(([, value, kind = ""], i) => {
    setText(list.children[i].lastChild, value);
    setAttribute(list.children[i], "class", kind);
  });
}

// -- once a second -------------------------------------------------------------------------------

async function tick() {
  if (document.hidden || tick.running) return;
  tick.running = true;
  ticks += 1;
  try {
    const found = await api.stats();
    const at = now();
    for (const [id, history] of histories) {
      if (found[id]) history.add(at, found[id]);
      else history.miss();
    }
    fine();
    if (selected !== null && ticks % LOG_EVERY === 0) await readLog();
    if (ticks % LIST_EVERY === 0) await refresh();
  } catch (error) {
    troubled(error);
  } finally {
    tick.running = false;
    draw();
  }
}

async function readLog() {
  const id = selected;
  try {
    const text = await api.log(id);
    if (id === selected) detail.logged(text);
  } catch (error) {
    if (error.status !== 404 && error.status !== 403) throw error;
  }
}

// -- how the link is -----------------------------------------------------------------------------

function link(state, text) {
  setAttribute(byId("link"), "data-state", state);
  setText(byId("link").firstChild, text);
}

function fine() {
  byId("trouble").hidden = true;
  byId("console").classList.remove("stale");
  link("live", "live");
}

function troubled(error) {
  if (error.status === 401) {
    if (!byId("console").hidden) loggedOut("Your session has ended.");
    return;
  }
  if (!(error instanceof api.Problem)) throw error;
  setText(byId("trouble"), `${error.message} (trying again)`);
  byId("trouble").hidden = false;
  byId("console").classList.add("stale");
  link("lost", error.status === 502 ? "no launcher" : "waiting");
}

// -- what people do ------------------------------------------------------------------------------

function select(id) {
  const before = selected;
  selected = id === selected ? null : id;
  table.select(selected);
  detail.show(disks.get(selected) ?? null);
  if (selected === null) {
    table.focus(before);
    return;
  }
  draw();
  readLog().catch(troubled);
  detail.focus();
}

function started(instance) {
  told({ event: "state", instance });
  const failed = instance.state === "failed";
  say(failed ? `${instance.name} has failed: ${instance.last_error}` : `${instance.name} is ${instance.state}`, failed);
}

function stop(instance) {
  stopping.show(instance, clients(histories.get(instance.id)?.connected ?? []));
}

function stopped(instance, remarks) {
  say([`${instance.name} is ${farewell(instance) === "Eject" ? "ejected" : "stopped"}`, ...remarks].join("; "));
  told({ event: "gone", instance });
}

async function mount(instance) {
  if (!instance.mountpoints.length) {
    mounting.show(instance);
    return;
  }
  try {
    const found = await api.unmount(instance.id);
    told({ event: "state", instance: found });
    say(`${instance.name} is unmounted; its device stays`);
  } catch (error) {
    say(error.message, true);
  }
}

function mounted(instance) {
  told({ event: "state", instance });
  say(`${instance.name} is mounted on ${instance.mountpoints.join(", ")}`);
}

themeButton(byId("theme"));
byId("start").addEventListener("click", () => starting.show());
byId("logout").addEventListener("click", async () => {
  try {
    events?.end(); // its end would be one more sign of a session that has ended
    await api.logout();
    loggedOut("You have logged out.");
  } catch (error) {
    say(error.message, true);
  }
});
window.addEventListener("hashchange", () => {
  if (location.hash.startsWith("#login=")) begin();
});
begin();
