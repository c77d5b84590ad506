// What happened between two looks at a disk's counters and histograms. Pure.

export const OPERATIONS = ["read", "write", "flush", "unmap", "zero"];

const EMPTY = { bounds_us: [], counts: [] };

/** The time in microseconds below which this part of the operations stayed; null: none were. */
export function percentile(histogram, part) {
  const { counts, bounds_us: bounds } = histogram;
  const wanted = part * counts.reduce((a, b) => a + b, 0);
  if (!wanted) return null;
  let seen = 0;
  let low = 0;
  for (let i = 0; i < bounds.length; i += 1) {
    if (counts[i] && seen + counts[i] >= wanted) {
      return low + ((bounds[i] - low) * (wanted - seen)) / counts[i];
    }
    seen += counts[i];
    low = bounds[i];
  }
  return low;
}

/** What a histogram has now and had not before. */
export function difference(now, before) {
  const counts = now.counts.map((value, i) => Math.max(value - (before.counts[i] ?? 0), 0));
  return { bounds_us: now.bounds_us, counts };
}

/** Several histograms as one. */
export function total(histograms) {
  const filled = histograms.filter((each) => each.counts.length);
  if (!filled.length) return EMPTY;
  const counts = filled[0].counts.map((_, i) => filled.reduce((sum, h) => sum + h.counts[i], 0));
  return { bounds_us: filled[0].bounds_us, counts };
}

const sum = (items, key) => items.reduce((all, each) => all + (each[key] ?? 0), 0);

/** All units of a disk as one: most disks have one. */
export function merged(units) {
  const all = Object.values(units);
  const operations = {};
  for (const name of OPERATIONS) {
    const each = all.map((unit) => unit.operations[name]);
    operations[name] = {
      count: sum(each, "count"),
      bytes: sum(each, "bytes"),
      errors: sum(each, "errors"),
      time: total(each.map((one) => one.time)),
      queue: total(each.map((one) => one.queue)),
    };
  }
  const knows = all.some((unit) => unit.used != null);
  return {
    size: sum(all, "size"),
    used: knows ? sum(all, "used") : null,
    operations,
    initiators: all.flatMap((unit) => unit.initiators),
    errors: all.flatMap((unit) => unit.last_errors).sort((a, b) => b.time - a.time),
  };
}

/** Whether the process that counts is another one than before: its counters began anew. */
export function beganAnew(now, before) {
  return OPERATIONS.some((name) => now.operations[name].count < before.operations[name].count);
}

/** What was done per second from `before` to `now`, by operation, and how long it took. */
export function rates(now, before, seconds) {
  const found = {};
  for (const name of OPERATIONS) {
    const [a, b] = [now.operations[name], before.operations[name]];
    const time = difference(a.time, b.time);
    found[name] = {
      count: (a.count - b.count) / seconds,
      bytes: (a.bytes - b.bytes) / seconds,
      errors: a.errors,
      p50: percentile(time, 0.5),
      p99: percentile(time, 0.99),
      wait: percentile(difference(a.queue, b.queue), 0.99),
      time,
    };
  }
  return found;
}

/** The same in the numbers of a chart. */
export function sample(at, found) {
  const time = total(OPERATIONS.map((name) => found[name].time));
  const others = found.flush.count + found.unmap.count + found.zero.count;
  return {
    at,
    reads: found.read.count,
    writes: found.write.count,
    others,
    iops: found.read.count + found.write.count + others,
    readBytes: found.read.bytes,
    writeBytes: found.write.bytes,
    throughput: found.read.bytes + found.write.bytes,
    p50: percentile(time, 0.5),
    p99: percentile(time, 0.99),
  };
}
