// Charts of the last two minutes, as SVG: big ones with scales, and small ones for a row.

import { drawing, element, setAttribute, setText } from "./dom.js";
import { WINDOW } from "./history.js";
import { linear } from "./scales.js";

const WIDTH = 600;
const HEIGHT = 100;
const BREAK = 3.5; // seconds between samples over which no line is drawn

/** The points of one series, in pieces: null values and long pauses break it. */
function pieces(samples, key, now, height, width, bottom) {
  const found = [];
  let last = null;
  for (const each of samples) {
    const value = each[key];
    if (value == null || each.at < now - WINDOW) continue;
    const x = ((each.at - now + WINDOW) / WINDOW) * width;
    if (last == null || each.at - last > BREAK) found.push([]);
    found.at(-1).push(`${x.toFixed(1)} ${(bottom - height(value) * bottom).toFixed(1)}`);
    last = each.at;
  }
  return found;
}

/** The path of a line through them; a single point is a dot. */
const line = (found) => found.map((points) => `M${points[0]}h.1L${points.join("L")}`).join("");

/** The path of what is below the line. */
const area = (found, bottom) =>
  found
    .map((points) => {
      const [first, last] = [points[0], points.at(-1)].map((point) => point.split(" ")[0]);
      return `M${first} ${bottom}L${points.join("L")}L${last} ${bottom}Z`;
    })
    .join("");

/** A chart: `series` are {key, name, kind}, `scale` makes a scale of the largest value. */
export class Chart {
  #plot;
  #lines;
  #area;
  #values;
  #scaleLines = drawing("path", { class: "grid" });
  #labels = element("div", { class: "labels", "aria-hidden": "true" });
  #cursor = drawing("path", { class: "cursor" });
  #samples = [];
  #now = 0;
  #pointed = null; // part of the width, 0 to 1

  constructor(title, series, scale, format) {
    this.title = title;
    this.series = series;
    this.scale = scale;
    this.format = format;
    this.#lines = series.map((each) => drawing("path", { class: `line ${each.kind}` }));
    this.#area = drawing("path", { class: `area ${series[0].kind}` });
    this.#values = series.map(() => element("b"));
    this.when = element("span", { class: "quiet when" });
    this.#plot = drawing(
      "svg",
      {
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        preserveAspectRatio: "none",
        role: "img",
        pointermove: (event) => this.#point(event),
        pointerleave: () => this.#point(null),
      },
      this.#scaleLines,
      this.#area,
      ...this.#lines,
      this.#cursor,
    );
    this.element = element(
      "figure",
      { class: "chart" },
      element(
        "figcaption",
        {},
        element("span", { class: "title" }, title),
        this.when,
        ...series.map((each, i) =>
          element("span", { class: `key ${each.kind}` }, `${each.name} `, this.#values[i]),
        ),
      ),
      element("div", { class: "plot" }, this.#labels, this.#plot),
      element(
        "div",
        { class: "times", "aria-hidden": "true" },
        element("span", {}, "2 min ago"),
        element("span", {}, "1 min"),
        element("span", {}, "now"),
      ),
    );
  }

  /** Draw what happened until now. */
  draw(samples, now) {
    this.#samples = samples;
    this.#now = now;
    const values = samples.flatMap((each) => this.series.map(({ key }) => each[key]));
    const scale = this.scale(values.filter((value) => value != null));
    this.series.forEach(({ key }, i) => {
      const found = pieces(samples, key, now, scale.height, WIDTH, HEIGHT);
      setAttribute(this.#lines[i], "d", line(found));
      if (i === 0) setAttribute(this.#area, "d", area(found, HEIGHT));
    });
    setAttribute(
      this.#scaleLines,
      "d",
      scale.ticks.map((tick) => `M0 ${HEIGHT - scale.height(tick) * HEIGHT}H${WIDTH}`).join(""),
    );
    this.#label(scale);
    this.#read();
  }

  #label(scale) {
    const texts = scale.ticks.map(this.format);
    while (this.#labels.childElementCount > texts.length) this.#labels.lastChild.remove();
    while (this.#labels.childElementCount < texts.length) this.#labels.append(element("span"));
    texts.forEach((text, i) => {
      const label = this.#labels.children[i];
      setText(label, text);
      label.style.bottom = `${scale.height(scale.ticks[i]) * 100}%`;
    });
  }

  #point(event) {
    const box = event && this.#plot.getBoundingClientRect();
    this.#pointed = box && Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    this.#read();
  }

  /** Say the values of now, or of the time that is pointed at. */
  #read() {
    const wanted = this.#now - WINDOW * (1 - (this.#pointed ?? 1));
    const found = this.#samples.reduce(
      (best, each) =>
        best && Math.abs(best.at - wanted) <= Math.abs(each.at - wanted) ? best : each,
      null,
    );
    const near = found && Math.abs(found.at - wanted) < BREAK ? found : null;
    const texts = this.series.map(({ key }) => this.format(near?.[key]));
    texts.forEach((text, i) => setText(this.#values[i], text));
    const pointed = this.#pointed != null;
    setText(this.when, pointed ? `${Math.round(this.#now - wanted)} s ago` : "");
    setAttribute(this.#cursor, "d", pointed ? `M${this.#pointed * WIDTH} 0V${HEIGHT}` : "");
    const said = this.series.map(({ name }, i) => `${name} ${texts[i]}`).join(", ");
    setAttribute(this.#plot, "aria-label", `${this.title}: ${said}; the last two minutes`);
  }
}

const SMALL = [72, 18];

/** A small chart without words, of one number of the samples. */
export class Spark {
  #line;

  constructor(key) {
    this.key = key;
    this.#line = drawing("path", { class: "line all" });
    this.element = drawing(
      "svg",
      {
        class: "spark",
        viewBox: `0 -1 ${SMALL[0]} ${SMALL[1] + 2}`,
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      this.#line,
    );
  }

  /** Draw what happened until now. */
  draw(samples, now) {
    const scale = linear(1, 10)(samples.map((each) => each[this.key]));
    setAttribute(this.#line, "d", line(pieces(samples, this.key, now, scale.height, ...SMALL)));
  }
}
