// The charts of a check: trials with their intervals, and the device's sentinel and references.

import { svg } from "./dom.js";
import { moment } from "./format.js";
import { scale } from "./scatter.js";

const W = 640;
const H = 300;
const PAD = { left: 58, right: 14, top: 14, bottom: 34 };

export function trialsChart(trials) {
  const points = trials.map((trial) => ({ ...trial, ...deviation(trial) }));
  const y = scale([...points.flatMap((p) => [p.low, p.high]), -1.2, 1.2], H - PAD.bottom, PAD.top);
  const x = places(points.length);
  const label = `${points.length} measurements of one model against itself, in percent from 1`;
  return svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label, class: "scatter" },
    svg("rect", { x: PAD.left, y: y(1), width: W - PAD.left - PAD.right, height: y(-1) - y(1), class: "within" }),
    axis(y, points),
    svg("line", { x1: PAD.left, x2: W - PAD.right, y1: y(0), y2: y(0), class: "budget" }),
    points.map((p, index) => svg("g", { class: `trial ${p.kind} ${p.covers ? "" : "missed"}` },
      svg("line", { x1: x(index), x2: x(index), y1: y(p.low), y2: y(p.high) }),
      svg("circle", { cx: x(index), cy: y(p.ratio), r: p.kind === "strict" ? 5.5 : 4 }),
      svg("title", {}, `${moment(p.at)}, ${p.kind}: ${signed(p.ratio)} [${signed(p.low)}, ${signed(p.high)}]`))));
}

export function historyChart(history) {
  const lines = { sentinel: relative(history, () => "", "sentinel_us"), reference: relative(history, (p) => p.reference, "reference_ms") };
  const y = scale([...Object.values(lines).flat().map((p) => p.value), -2, 2], H - PAD.bottom, PAD.top);
  const x = places(history.length);
  const label = `Times of the sentinel and the references over the last ${history.length} measurements, in percent from their medians`;
  const drawn = Object.entries(lines).map(([name, points], place) => svg("g", { class: `line ${name}` },
    svg("polyline", { points: points.map((p) => `${x(p.index)},${y(p.value)}`).join(" ") }),
    points.map((p) => svg("circle", { cx: x(p.index), cy: y(p.value), r: 3 },
      svg("title", {}, `${name}, ${moment(history[p.index].at)}: ${signed(p.value)}`))),
    svg("text", { x: W - PAD.right, y: PAD.top + 14 * (place + 1), "text-anchor": "end" }, name)));
  return svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label, class: "scatter" }, axis(y, history), drawn);
}

function deviation(trial) {
  const [ratio, low, high] = [trial.ratio, trial.low, trial.high].map((value) => 100 * (value - 1));
  return { ratio, low, high };
}

// Percent from the median of the values of the same kind: times of different references do not compare.
function relative(history, kind, field) {
  const groups = Map.groupBy(history.map((p, index) => ({ index, kind: kind(p), time: p[field] })).filter((p) => p.time > 0), (p) => p.kind);
  const points = [...groups.values()].flatMap((group) => {
    const usual = median(group.map((p) => p.time));
    return group.map((p) => ({ index: p.index, value: 100 * (p.time / usual - 1) }));
  });
  return points.sort((a, b) => a.index - b.index);
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function places(amount) {
  const step = (W - PAD.left - PAD.right) / Math.max(amount, 1);
  return (index) => PAD.left + (index + 0.5) * step;
}

function signed(value) {
  return `${value > 0 ? "+" : ""}${value.toFixed(2)} %`;
}

function axis(y, points) {
  const ends = points.length ? [points[0].at, points[points.length - 1].at].map(moment) : [];
  return svg("g", {},
    y.ticks.map((t) => svg("line", { x1: PAD.left, x2: W - PAD.right, y1: y(t), y2: y(t), class: "grid" })),
    y.ticks.map((t) => svg("text", { x: PAD.left - 8, y: y(t) + 4, class: "axis", "text-anchor": "end" }, `${t > 0 ? "+" : ""}${Number(t.toFixed(4))} %`)),
    ends.map((text, place) => svg("text",
      { x: place ? W - PAD.right : PAD.left, y: H - 10, class: "axis", "text-anchor": place ? "end" : "start" }, text)));
}
