// A small table of texts, whose cells change and whose rows come and go.

import { element, setText } from "./dom.js";

export class Lines {
  #body = element("tbody");
  #none = element("p", { class: "quiet none" });
  #table;

  /** The columns from `numbers` on are numbers. */
  constructor(title, columns, numbers = columns.length) {
    this.#table = element(
      "table",
      { class: "lines", "aria-label": title },
      element("thead", {}, element("tr", {}, ...columns.map((name, i) => element("th", { scope: "col", class: i < numbers ? "" : "number" }, name)))),
      this.#body,
    );
    this.kinds = columns.map((_, i) => (i < numbers ? "" : "number"));
    this.element = element(
      "section",
      { class: "lines-section" },
      element("h3", {}, title),
      element("div", { class: "scroll" }, this.#table),
      this.#none,
    );
  }

  /** Show these rows of texts; `none` where there are none. */
  show(rows, none) {
    const body = this.#body;
    while (body.childElementCount > rows.length) body.lastChild.remove();
    while (body.childElementCount < rows.length) {
      const cells = this.kinds.map((kind) => element("td", { class: kind }));
      body.append(element("tr", {}, ...cells));
    }
    rows.forEach((texts, i) => texts.forEach((text, j) => setText(body.children[i].children[j], text)));
    this.#table.hidden = rows.length === 0;
    this.#none.hidden = rows.length > 0;
    setText(this.#none, none);
  }
}
