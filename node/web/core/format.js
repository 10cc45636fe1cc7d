/** Texts for people: times, ids, sizes. */

const TIME = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hour12: false,
});
const DATE_TIME = new Intl.DateTimeFormat(undefined, {
  year: "numeric",
  month: "2-digit",
  day: "2-digit",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hour12: false,
});

/** @param {string} iso */
export function clock(iso) {
  return TIME.format(new Date(iso));
}

/** @param {string | null} iso */
export function moment(iso) {
  return iso === null ? "–" : DATE_TIME.format(new Date(iso));
}

/**
 * The beginning of a node id, enough to tell nodes apart.
 * @param {string} id
 */
export function shortId(id) {
  return id.slice(0, 8);
}

/** @param {number} seconds */
export function duration(seconds) {
  const whole = Math.floor(seconds);
  const [days, hours, minutes] = [
    Math.floor(whole / 86400),
    Math.floor(whole / 3600) % 24,
    Math.floor(whole / 60) % 60,
  ];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

/** @param {string | null} iso */
export function ago(iso) {
  if (iso === null) return "never";
  const seconds = (Date.now() - Date.parse(iso)) / 1000;
  return seconds < 1 ? "now" : `${duration(seconds)} ago`;
}

/** @param {number | null} ms */
export function millis(ms) {
  if (ms === null) return "–";
  return ms >= 100 ? `${Math.round(ms)} ms` : `${ms.toFixed(ms >= 10 ? 1 : 2)} ms`;
}

/** @param {number} count */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let [value, unit] = [count, 0];
  while (value >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** @param {string} name e.g. stop_limit */
export function words(name) {
  return name.replaceAll("_", " ");
}
