// Everything about one disk: charts, operations, initiators, addresses, errors, log.

import { Chart } from "./chart.js";
import { farewell, restarted } from "./disks.js";
import { byId, element, setAttribute, setText } from "./dom.js";
import { bytes, count, micros, moment, throughput } from "./format.js";
import { linear, logarithmic } from "./scales.js";
import { OPERATIONS } from "./stats.js";
import { Lines } from "./lines.js";

const CHARTS = [
  [
    "Operations per second",
    [
      { key: "reads", name: "read", kind: "read" },
      { key: "writes", name: "write", kind: "write" },
      { key: "others", name: "other", kind: "other" },
    ],
    linear(10, 10),
    count,
  ],
  [
    "Throughput",
    [
      { key: "readBytes", name: "read", kind: "read" },
      { key: "writeBytes", name: "write", kind: "write" },
    ],
    linear(1024, 2),
    throughput,
  ],
  [
    "Latency",
    [
      { key: "p50", name: "p50", kind: "p50" },
      { key: "p99", name: "p99", kind: "p99" },
    ],
    logarithmic(100),
    micros,
  ],
];

export class Detail {
  #card = byId("detail");
  #title = element("h2", { id: "detail-title", tabindex: "-1" });
  #state = element("span", { class: "state" });
  #error = element("p", { class: "trouble", hidden: true });
  #charts = CHARTS.map((each) => new Chart(...each));
  #facts = element("dl", { class: "facts" });
  #operations = new Lines("What it did in the last 5 seconds", [
    "Operation", "per second", "bytes per second", "p50", "p99", "p99 of waiting", "errors",
  ], 1);
  #initiators = new Lines("Initiators", ["Name", "over", "connections", "operations", "bytes"], 2);
  #errors = new Lines("Last errors", ["When", "operation", "sense"]);
  #log = element("pre", { class: "log", tabindex: "0", role: "region", "aria-label": "Log" });
  #mount;
  #stop;
  instance = null;

  /** `acts` has close(), mount(instance), stop(instance). */
  constructor(acts) {
    const button = (act) => element("button", { type: "button", class: "plain", click: () => act(this.instance) });
    this.#mount = button(acts.mount);
    this.#stop = button(acts.stop);
    this.#card.append(
      element(
        "div",
        { class: "head" },
        this.#title,
        this.#state,
        element("span", { class: "space" }),
        this.#mount,
        this.#stop,
        element("button", { type: "button", class: "plain", click: acts.close, "aria-label": "Close details" }, "Close"),
      ),
      this.#error,
      element("div", { class: "charts" }, ...this.#charts.map((chart) => chart.element)),
      element(
        "div",
        { class: "columns" },
        element("div", {}, this.#operations.element, this.#initiators.element, this.#errors.element),
        element(
          "div",
          {},
          element("h3", {}, "Where it can be had"),
          this.#facts,
          element("h3", {}, "Log"),
          this.#log,
        ),
      ),
    );
    this.#card.addEventListener("keydown", (event) => {
      if (event.key === "Escape") acts.close();
    });
  }

  /** Show this disk; null: none. */
  show(instance) {
    if (instance?.id !== this.instance?.id) setText(this.#log, "");
    this.instance = instance;
    this.#card.hidden = instance === null;
    if (instance === null) return;
    setText(this.#title, instance.name);
    setText(this.#state, `${instance.state}${restarted(instance)}`);
    setAttribute(this.#state, "data-state", instance.state);
    const unwell = ["failed", "degraded", "restarting"].includes(instance.state);
    this.#error.hidden = !(unwell && instance.last_error);
    setText(this.#error, instance.last_error);
    const mounted = instance.mountpoints.length > 0;
    this.#mount.hidden = !instance.device;
    setText(this.#mount, mounted ? "Unmount" : "Mount");
    setText(this.#stop, farewell(instance));
    this.#stop.disabled = instance.state === "stopping";
    this.#list(facts(instance));
  }

  #list(wanted) {
    const key = JSON.stringify(wanted);
    if (this.#facts.dataset.shown === key) return;
    this.#facts.dataset.shown = key;
    this.#facts.replaceChildren(
      ...wanted.flatMap(([name, value, copied]) => [
        element("dt", {}, name),
        element("dd", {}, element(copied ? "code" : "span", {}, value), copied ? copier(name, value) : null),
      ]),
    );
  }

  draw(history, now) {
    for (const chart of this.#charts) chart.draw(history.samples, now);
    const rates = history.operations;
    this.#operations.show(OPERATIONS.map((name) => operation(name, rates?.[name], history)), "");
    this.#initiators.show(
      history.connected.map((each) => [
        client(each.name), protocol(each.protocol), String(each.connections), count(each.count), bytes(each.bytes),
      ]),
      "Nobody is connected.",
    );
    this.#errors.show(
      (history.now?.errors ?? []).map((each) => [moment(each.time), each.what, each.sense]),
      "None since its process began.",
    );
  }

  /** Show the log's text; who has scrolled back stays there. */
  logged(text) {
    const log = this.#log;
    if (log.textContent === text) return;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 8;
    setText(log, text);
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  focus() {
    this.#title.focus({ preventScroll: true });
    this.#card.scrollIntoView({ block: "nearest" });
  }
}

/** Who it is, for people: a client on the Unix socket has no name of its own. */
const client = (name) => (name.startsWith("unix:") ? "this machine" : name);

const protocol = (name) => ({ iscsi: "iSCSI", nbd: "NBD" })[name] ?? name;

function operation(name, rate, history) {
  const moves = name === "read" || name === "write";
  const errors = history.now?.operations[name].errors;
  return [
    name,
    count(rate?.count),
    moves ? throughput(rate?.bytes) : "",
    micros(rate?.p50),
    micros(rate?.p99),
    micros(rate?.wait),
    count(errors),
  ];
}

function facts(instance) {
  const served = instance.state !== "failed";
  const mounts = instance.mountpoints.map((folder) => ["Mounted on", folder, true]);
  const url = `iscsi://${instance.portal}/${instance.target}/0`;
  const about = [
    instance.read_only ? "read only" : "",
    instance.block_length ? `blocks of ${instance.block_length} bytes` : "",
    instance.persistent ? "persistent" : "",
  ].filter(Boolean);
  const ended = instance.exit_status;
  return [
    ...(instance.device ? [["Device", instance.device, true]] : []),
    ...mounts,
    ...(served && instance.portal ? [["iSCSI", url, true]] : []),
    ...(served && instance.nbd_uri ? [["NBD", instance.nbd_uri, true]] : []),
    ["Unit", instance.unit || "–", false],
    ...(about.length ? [["Disk", about.join(", "), false]] : []),
    ["Started by", instance.user || "–", false],
    ["Processes", instance.unit_pid ? `${instance.pid}, unit ${instance.unit_pid}` : String(instance.pid || "–"), false],
    ...(ended == null ? [] : [["Last exit", ended < 0 ? `signal ${-ended}` : `status ${ended}`, false]]),
  ];
}

function copier(name, value) {
  const button = element("button", { type: "button", class: "plain copy", "aria-label": `Copy ${name}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(value);
      setText(button, "Copied");
    } catch {
      setText(button, "Cannot");
    }
    setTimeout(() => setText(button, "Copy"), 1500);
  });
  return button;
}
