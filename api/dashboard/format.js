// Numbers and times as people read them. A missing value is a dash.

const DASH = "–";

function known(value) {
  return typeof value === "number" && Number.isFinite(value);
}

export function ms(value) {
  return known(value) ? `${value < 10 ? value.toFixed(3) : value.toFixed(1)} ms` : DASH;
}

export function percent(ratio, digits = 1) {
  return known(ratio) ? `${(100 * ratio).toFixed(digits)} %` : DASH;
}

export function interval(low, high) {
  return known(low) && known(high) ? `${(100 * low).toFixed(1)} – ${(100 * high).toFixed(1)} %` : DASH;
}

export function number(value, digits = 4) {
  return known(value) ? value.toFixed(digits) : DASH;
}

export function count(value) {
  return known(value) ? value.toLocaleString("en") : DASH;
}

export function bytes(value) {
  if (!known(value)) return DASH;
  const units = ["B", "kB", "MB", "GB"];
  const step = Math.min(units.length - 1, value > 0 ? Math.floor(Math.log10(value) / 3) : 0);
  return `${(value / 1000 ** step).toFixed(step ? 1 : 0)} ${units[step]}`;
}

export function duration(seconds) {
  if (!known(seconds)) return DASH;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

export function ago(text, now = Date.now()) {
  const seconds = (now - Date.parse(text)) / 1000;
  if (!known(seconds)) return DASH;
  if (seconds < 5) return "just now";
  return `${seconds < 60 ? duration(seconds) : duration(60 * Math.floor(seconds / 60)).replace(" 0 s", "")} ago`;
}

export function clock(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? DASH : date.toLocaleTimeString("en-GB");
}

export function moment(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? DASH : date.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

export function short(digest) {
  return typeof digest === "string" ? digest.slice(0, 10) : DASH;
}
