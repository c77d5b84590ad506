// A small table of texts, whose cells change and whose rows come and go.

import { element, setText } from "./dom.js";

export class Lines {
  #body = element("tbody");
  #none = element("p", { class: "quiet none" });
  #table;

  constructor(title, columns) {
    this.#table = element(
      "table",
      { class: "lines", "aria-label": title },
      element("thead", {}, element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name)))),
      this.#body,
    );
    this.columns = columns.length;
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
      const cells = Array.from({ length: this.columns }, () => element("td"));
      body.append(element("tr", {}, ...cells));
    }
    rows.forEach((texts, i) => texts.forEach((text, j) => setText(body.children[i].children[j], text)));
    this.#table.hidden = rows.length === 0;
    this.#none.hidden = rows.length > 0;
    setText(this.#none, none);
  }
}
