// How high a value is in a chart, and which values have a line. Pure.

/** From 0 to a round number above all values: 1, 2 or 5 times a power of `base` (2: of itself). */
export function linear(least, base) {
  return (values) => {
    const most = Math.max(least, ...values);
    const top = base === 2 ? 2 ** Math.ceil(Math.log2(most)) : round(most);
    return { ticks: [0, top / 2, top], height: (value) => Math.min(value / top, 1) };
  };
}

function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 5, 10].find((each) => each * power >= value * (1 - 1e-9));
  return step * power;
}

/** Powers of ten, from the one below all values to the one above; two at least. */
export function logarithmic(usual) {
  return (values) => {
    const some = values.filter((value) => value > 0);
    const low = Math.floor(Math.log10(Math.min(...(some.length ? some : [usual]))));
    const high = Math.max(low + 2, Math.ceil(Math.log10(Math.max(...some, usual))));
    const step = Math.ceil((high - low) / 4);
    const ticks = [];
    for (let power = low; power <= high; power += step) ticks.push(10 ** power);
    const height = (value) =>
      Math.min(Math.max((Math.log10(Math.max(value, 1e-9)) - low) / (high - low), 0), 1);
    return { ticks, height };
  };
}
