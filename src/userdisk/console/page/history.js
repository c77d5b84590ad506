// The last two minutes of a disk: looks at its counters become samples of its charts.

import { beganAnew, merged, rates, sample } from "./stats.js";

/** Seconds that charts show. */
export const WINDOW = 120;

const TABLE_SPAN = 5; // seconds that the numbers per operation cover
const GAP = 5; // seconds without a look after which a rate would say nothing

export class History {
  samples = []; // oldest first
  now = null; // the last look
  operations = null; // rates over the last seconds, by operation
  #looks = [];

  /** Take a look at the counters, at a time in seconds. */
  add(at, units) {
    const now = merged(units);
    const before = this.#looks.at(-1);
    if (before && (at - before.at > GAP || beganAnew(now, before.look))) this.#looks = [];
    else if (before && at - before.at < 0.2) return;
    else if (before) this.samples.push(sample(at, rates(now, before.look, at - before.at)));
    this.#looks.push({ at, look: now });
    while (this.#looks.length > 2 && at - this.#looks[1].at >= TABLE_SPAN) this.#looks.shift();
    const [first] = this.#looks;
    this.operations = first.at < at ? rates(now, first.look, at - first.at) : null;
    while (this.samples.length && at - this.samples[0].at > WINDOW + 2) this.samples.shift();
    this.now = now;
  }

  /** Nothing is known at this time. */
  miss() {
    this.#looks = [];
    this.operations = null;
  }

  /** The newest sample, unless it is old. */
  latest(at) {
    const last = this.samples.at(-1);
    return last && at - last.at < GAP ? last : null;
  }

  /** Who is connected. */
  get connected() {
    return (this.now?.initiators ?? []).filter((each) => each.connections > 0);
  }
}
