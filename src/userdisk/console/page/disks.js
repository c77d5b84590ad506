// The table of disks: a row each, that stays the same element as long as its disk is there.

import { Spark } from "./chart.js";
import { byId, element, setAttribute, setText } from "./dom.js";
import { bytes, count, duration, micros, throughput } from "./format.js";

/** What a disk's button to take it away is called: one with a device is ejected. */
export const farewell = (instance) => (instance.device ? "Eject" : "Stop");

/** How often its process was started again, as the end of a sentence. */
export const restarted = ({ restarts: n }) => (n ? `, ${n} ${n === 1 ? "restart" : "restarts"}` : "");

/** Where its device is. */
export function place(instance) {
  const [folder] = instance.mountpoints;
  if (!instance.device) return "";
  return folder ? `${instance.device} on ${folder}` : instance.device;
}

class Row {
  #iops = new Spark("iops");
  #throughput = new Spark("throughput");
  #used = element("i");
  #known = 0; // when the instance was told, in seconds of performance.now

  constructor(instance, acts) {
    this.instance = instance;
    this.name = element("button", {
      type: "button",
      class: "name",
      "aria-controls": "detail",
      "aria-expanded": "false",
      click: () => acts.select(this.instance.id),
      keydown: (event) => this.#move(event),
    });
    this.class = element("span", { class: "class" });
    this.place = element("span", { class: "where" });
    this.state = element("span", { class: "state" });
    this.since = element("span", { class: "small" });
    this.size = element("span");
    this.usage = element("span", { class: "small" });
    this.bar = element("span", { class: "used", hidden: true }, this.#used);
    this.numbers = {};
    const number = (key, label, ...extra) => {
      this.numbers[key] = element("span", { class: "value" });
      return cell(label, { class: `number ${key}` }, ...extra, this.numbers[key]);
    };
    this.mount = element("button", { type: "button", class: "plain", click: () => acts.mount(this.instance) });
    this.stop = element("button", { type: "button", class: "plain", click: () => acts.stop(this.instance) });
    this.element = element(
      "tr",
      { role: "row", "data-id": instance.id },
      element(
        "th",
        { role: "rowheader", scope: "row" },
        this.name,
        element("span", { class: "small" }, this.class, this.place),
      ),
      cell("State", {}, this.state, this.since),
      cell("Size", { class: "size" }, this.size, this.usage, this.bar),
      number("initiators", "Initiators"),
      number("iops", "IOPS", this.#iops.element),
      number("throughput", "Throughput", this.#throughput.element),
      number("p50", "p50"),
      number("p99", "p99"),
      cell("", { class: "acts" }, this.mount, this.stop),
    );
  }

  /** Show what is known of the disk. */
  show(instance) {
    this.instance = instance;
    this.#known = performance.now() / 1000;
    setText(this.name, instance.name);
    setText(this.class, instance.class);
    setText(this.place, place(instance));
    setText(this.state, instance.state);
    setAttribute(this.state, "data-state", instance.state);
    setAttribute(this.state, "title", instance.last_error);
    setAttribute(this.element, "data-state", instance.state);
    setText(this.size, instance.size ? bytes(instance.size) : "–");
    const mounted = instance.mountpoints.length > 0;
    this.mount.hidden = !instance.device;
    setText(this.mount, mounted ? "Unmount" : "Mount");
    setAttribute(this.mount, "aria-label", `${mounted ? "Unmount" : "Mount"} ${instance.name}`);
    setText(this.stop, farewell(instance));
    setAttribute(this.stop, "aria-label", `${farewell(instance)} ${instance.name}`);
    this.stop.disabled = instance.state === "stopping";
    this.tick();
  }

  /** Seconds that it is in this state. */
  get uptime() {
    return this.instance.uptime + performance.now() / 1000 - this.#known;
  }

  tick() {
    setText(this.since, `for ${duration(this.uptime)}${restarted(this.instance)}`);
  }

  /** Show what it did. */
  draw(history, now) {
    this.tick();
    const last = history.latest(now);
    const spans = history.operations ? last : null;
    const values = {
      initiators: history.now ? String(clients(history.connected)) : "–",
      iops: count(last?.iops),
      throughput: throughput(last?.throughput),
      p50: micros(spans?.p50),
      p99: micros(spans?.p99),
    };
    for (const [key, text] of Object.entries(values)) setText(this.numbers[key], text);
    this.#iops.draw(history.samples, now);
    this.#throughput.draw(history.samples, now);
    const used = history.now?.used;
    this.bar.hidden = used == null;
    setText(this.usage, used == null ? "" : `${bytes(used)} used`);
    if (used != null) {
      const part = this.instance.size ? Math.min(used / this.instance.size, 1) : 0;
      this.#used.style.width = `${(part * 100).toFixed(1)}%`;
    }
  }

  #move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const names = [...byId("disks").querySelectorAll("tr:not([hidden]) .name")];
    names[names.indexOf(this.name) + step]?.focus();
    event.preventDefault();
  }
}

const cell = (label, properties, ...children) =>
  element("td", { role: "cell", "data-label": label, ...properties }, ...children);

/** How many initiators these connections are of. */
export const clients = (initiators) => new Set(initiators.map((each) => each.name)).size;

const order = (a, b) =>
  a.name.localeCompare(b.name, undefined, { numeric: true }) || a.class.localeCompare(b.class);

export class DiskTable {
  #rows = new Map();
  #body = byId("disks");
  #filter = byId("filter");

  /** `acts` has select(id), mount(instance), stop(instance). */
  constructor(acts) {
    this.acts = acts;
    this.#filter.addEventListener("input", () => this.#sift());
  }

  /** Show these disks, and no others. */
  show(instances) {
    const sorted = [...instances].sort(order);
    const ids = new Set(sorted.map((each) => each.id));
    for (const [id, row] of this.#rows) {
      if (ids.has(id)) continue;
      this.#remove(row);
      this.#rows.delete(id);
    }
    sorted.forEach((instance, i) => {
      let row = this.#rows.get(instance.id);
      if (!row) this.#rows.set(instance.id, (row = new Row(instance, this.acts)));
      row.show(instance);
      if (this.#body.children[i] !== row.element) {
        this.#body.insertBefore(row.element, this.#body.children[i] ?? null);
      }
    });
    this.#sift();
  }

  /** The focus goes to the next row, or to what starts a disk: it is never lost. */
  #remove(row) {
    const held = row.element.contains(document.activeElement);
    const next = row.element.nextElementSibling ?? row.element.previousElementSibling;
    row.element.remove();
    if (held) (next?.querySelector(".name") ?? byId("start")).focus();
  }

  #sift() {
    const wanted = this.#filter.value.trim().toLowerCase();
    let shown = 0;
    for (const { element: row, instance } of this.#rows.values()) {
      const text = `${instance.name} ${instance.class} ${instance.state} ${instance.user} ${place(instance)}`;
      row.hidden = !text.toLowerCase().includes(wanted);
      shown += !row.hidden;
    }
    byId("nothing").hidden = this.#rows.size > 0;
    byId("disks-scroll").hidden = this.#rows.size === 0;
    byId("unmatched").hidden = this.#rows.size === 0 || shown > 0;
  }

  /** Mark the one whose details are shown. */
  select(id) {
    for (const [own, { element: row, name }] of this.#rows) {
      setAttribute(row, "aria-selected", String(own === id));
      setAttribute(name, "aria-expanded", String(own === id));
    }
  }

  /** Give the focus to a disk's name. */
  focus(id) {
    this.#rows.get(id)?.name.focus();
  }

  row(id) {
    return this.#rows.get(id);
  }

  draw(histories, now) {
    for (const [id, row] of this.#rows) row.draw(histories.get(id), now);
  }
}
