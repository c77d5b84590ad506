// Short messages, shown and read aloud: what was done goes by itself, what went wrong stays.

import { byId, element } from "./dom.js";

const SHOWN = 6000; // milliseconds
const MOST = 4;

/** Say something; `wrong`: it stays until it is dismissed. */
export function say(text, wrong = false) {
  const list = byId("messages");
  const message = element(
    "div",
    { class: wrong ? "message wrong" : "message" },
    element("p", {}, text),
    element("button", { type: "button", class: "plain", "aria-label": "Dismiss", click: () => message.remove() }, "×"),
  );
  list.append(message);
  while (list.childElementCount > MOST) list.firstChild.remove();
  if (!wrong) setTimeout(() => message.remove(), SHOWN);
}
