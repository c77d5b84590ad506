// The dialogs: start a disk, take one away (and by force, if it is in use), mount one.

import * as api from "./api.js";
import { farewell } from "./disks.js";
import { byId, element, setText } from "./dom.js";

/** What all of them share: a problem, buttons that wait, and the focus back where it was. */
class Dialog {
  constructor(id) {
    this.dialog = byId(id);
    this.form = this.dialog.querySelector("form");
    this.problem = this.dialog.querySelector(".problem");
    this.submit = this.dialog.querySelector("[type=submit]");
    this.dialog.querySelector(".cancel").addEventListener("click", () => this.dialog.close());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.go();
    });
    this.dialog.addEventListener("close", () => this.#returnFocus());
  }

  open() {
    this.opener = document.activeElement;
    this.wrong("");
    this.dialog.showModal();
  }

  wrong(text) {
    setText(this.problem, text);
  }

  /** Do the work; whether it was done. What goes wrong is said here, or, when closed, by `late`. */
  async work(label, act, late) {
    const before = this.submit.textContent;
    this.wrong("");
    this.busy(true);
    setText(this.submit, label);
    try {
      await act();
    } catch (error) {
      if (this.dialog.open) this.failed(error);
      else late(error.message, true);
      return false;
    } finally {
      this.busy(false);
      setText(this.submit, before);
    }
    this.dialog.close();
    return true;
  }

  failed(error) {
    this.wrong(error.message);
  }

  busy(now) {
    for (const each of this.form.querySelectorAll("button:not(.cancel)")) each.disabled = now;
    this.form.setAttribute("aria-busy", String(now));
    const lost = this.dialog.open && !this.dialog.contains(document.activeElement);
    if (lost && !now) this.submit.focus(); // a button that is disabled loses it
  }

  #returnFocus() {
    this.opener?.focus();
    const held = document.activeElement; // not the opener, if that has gone or is disabled
    const lost = !held || held === document.body || this.dialog.contains(held);
    if (lost) byId("start").focus();
  }
}

const MOST_ARGUMENTS = 9;

export class StartDialog extends Dialog {
  #classes = [];
  #select = byId("start-class");
  #name = byId("start-name");
  #arguments = byId("start-arguments");
  #more = byId("start-more");

  constructor(done, say) {
    super("start-dialog");
    this.done = done;
    this.say = say;
    this.#select.addEventListener("change", () => this.#about());
    this.#more.addEventListener("click", () => this.#argument().focus());
  }

  async show() {
    try {
      this.#classes = await api.classes();
    } catch (error) {
      this.say(error.message, true);
      return;
    }
    const mine = this.#classes.filter((each) => each.may_start || each.error);
    const some = mine.some((each) => !each.error);
    const chosen = this.#select.value;
    this.#select.replaceChildren(
      ...mine.map((each) =>
        element("option", { value: each.name, disabled: Boolean(each.error), selected: each.name === chosen && !each.error },
          each.error ? `${each.name} (disabled)` : each.name),
      ),
    );
    if (!this.#select.value) this.#select.value = mine.find((each) => !each.error)?.name ?? "";
    byId("start-none").hidden = some;
    byId("start-fields").hidden = !some;
    this.submit.hidden = !some;
    this.#about();
    this.#arguments.replaceChildren();
    this.#argument();
    this.#name.value = "";
    this.open();
    const broken = mine.filter((each) => each.error).map((each) => each.error);
    if (broken.length) this.wrong(broken.join("\n"));
  }

  #about() {
    const found = this.#classes.find((each) => each.name === this.#select.value);
    const does = found?.mounts ? "is mounted" : found?.attaches ? "becomes a device" : "is served";
    const again = found?.persistent ? ", and is started again with the launcher" : "";
    setText(byId("start-about"), found ? `${found.description ? `${found.description}: ` : "It "}${does}${again}.` : "");
  }

  #argument() {
    const number = this.#arguments.childElementCount + 1;
    const input = element("input", {
      "aria-label": `Argument ${number}`, placeholder: `%${number}`, maxlength: "4096", autocomplete: "off", spellcheck: "false",
    });
    this.#arguments.append(input);
    this.#more.hidden = number >= MOST_ARGUMENTS;
    return input;
  }

  go() {
    const name = this.#name.value;
    const values = [...this.#arguments.children].map((input) => input.value);
    while (values.length && values.at(-1) === "") values.pop();
    return this.work(
      "Starting…",
      async () => this.done(await api.start(this.#select.value, name, values)),
      this.say,
    );
  }
}

export class StopDialog extends Dialog {
  #force = byId("stop-force");
  #warning = byId("stop-busy");

  constructor(done, say) {
    super("stop-dialog");
    this.done = done;
    this.say = say;
    this.#force.addEventListener("click", () => this.go(true));
  }

  /** Ask about a disk; `connected`: how many initiators it has. */
  show(instance, connected) {
    this.instance = instance;
    this.word = farewell(instance);
    setText(byId("stop-title"), `${this.word} ${instance.name}?`);
    setText(byId("stop-about"), consequences(instance, connected));
    setText(this.submit, this.word);
    setText(this.#force, `${this.word} by force`);
    this.#busyWith("");
    this.open();
    this.submit.focus();
  }

  #busyWith(who) {
    this.#warning.hidden = !who;
    this.#force.hidden = !who;
    setText(byId("stop-who"), who);
  }

  failed(error) {
    if (!error.busy) {
      super.failed(error);
      return;
    }
    setText(this.submit, "Try again");
    this.#busyWith(error.message);
  }

  async go(force = false) {
    const { instance, word } = this;
    const late = (text) => this.say(text, true);
    const label = word === "Eject" ? "Ejecting…" : "Stopping…";
    await this.work(label, async () => this.done(instance, await api.stop(instance.id, force)), late);
    if (!this.#warning.hidden) setText(this.submit, "Try again");
  }
}

function consequences(instance, connected) {
  const ways = instance.device ? "unmounted, detached" : "taken off the network";
  const others =
    connected && !instance.device ? ` ${connected} ${connected === 1 ? "initiator is" : "initiators are"} connected and will lose it.` : "";
  return `It is ${ways}, what was written is flushed, and its processes end.${others}`;
}

export class MountDialog extends Dialog {
  #folder = byId("mount-folder");

  constructor(done, say) {
    super("mount-dialog");
    this.done = done;
    this.say = say;
  }

  show(instance) {
    this.instance = instance;
    setText(byId("mount-title"), `Mount ${instance.name}`);
    this.#folder.value = "";
    this.open();
  }

  go() {
    const { id } = this.instance;
    return this.work("Mounting…", async () => this.done(await api.mount(id, this.#folder.value)), this.say);
  }
}
