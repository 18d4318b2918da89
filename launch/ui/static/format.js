// Numbers as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export const count = (value) => (value === null || value === undefined ? "–" : whole.format(value));

export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  return value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3) ? value.toExponential(2) : value.toFixed(digits);
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  const s = Math.max(0, value);
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.floor(s)} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let size = value, unit = 0;
  while (size >= 1000 && unit < units.length - 1) { size /= 1000; unit += 1; }
  return `${size.toPrecision(3).replace(/\.0+$/, "")} ${units[unit]}`;
}

export const clock = (atS) => (atS === null || atS === undefined ? "–" : new Date(atS * 1000).toISOString().replace("T", " ").slice(0, 19));

export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

// How a state looks: its word stays beside it.
const LOOKS = {
  running: "good", finished: "good", starting: "watch", queued: "watch", recovering: "watch", stopping: "watch",
  stopped: "watch", failed: "bad", unreadable: "bad", weights: "unknown",
};
export const lookOf = (state) => LOOKS[state] ?? "unknown";
