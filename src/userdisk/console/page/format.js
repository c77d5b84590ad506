// Numbers as people read them. Pure.

const NONE = "–";
const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** About three digits: 1.25, 12.5, 125. */
function short(value) {
  const digits = value >= 99.95 || Number.isInteger(value) ? 0 : value >= 9.995 ? 1 : 2;
  return value.toFixed(digits);
}

/** A size: "64 MiB". */
export function bytes(value) {
  if (value == null) return NONE;
  let unit = 0;
  while (value >= 1023.5 && unit < BINARY.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(value) : short(value)} ${BINARY[unit]}`;
}

/** Bytes per second. */
export const throughput = (value) => (value == null ? NONE : `${bytes(value)}/s`);

/** Operations per second, or any number of things: "950", "12.5k", "3.10M". */
export function count(value) {
  if (value == null) return NONE;
  if (value > 0 && value < 9.95 && !Number.isInteger(value)) return value.toFixed(1);
  if (value < 9999.5) return String(Math.round(value));
  return value < 999_500 ? `${short(value / 1e3)}k` : `${short(value / 1e6)}M`;
}

/** A time in microseconds: "340 µs", "4.20 ms", "1.25 s". */
export function micros(value) {
  if (value == null) return NONE;
  if (value < 999.5) return `${short(value)} µs`;
  return value < 999_500 ? `${short(value / 1e3)} ms` : `${short(value / 1e6)} s`;
}

/** Seconds: "5 s", "3 min", "2 h 5 min", "4 d 1 h". */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return two(hours, "h", minutes % 60, "min");
  return two(Math.floor(hours / 24), "d", hours % 24, "h");
}

const two = (a, unit, b, lesser) => (b ? `${a} ${unit} ${b} ${lesser}` : `${a} ${unit}`);

/** When, of seconds since 1970: the time of today, else the day, too. */
export function moment(seconds, now = Date.now() / 1000) {
  const at = new Date(seconds * 1000);
  const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  const time = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  return new Date(now * 1000).toDateString() === at.toDateString() ? time : `${day} ${time}`;
}

const pad = (value) => String(value).padStart(2, "0");
