// Measured latency against calibration loss, with the budget line and the Pareto front.

import { svg } from "./dom.js";
import { percent, short } from "./format.js";
import { front, isPoint, levelColour } from "./nodes.js";

const W = 640;
const H = 400;
const PAD = { left: 76, right: 20, top: 18, bottom: 46 };

export function scatterChart(candidates, { levels, budget, best }) {
  const points = candidates.filter(isPoint);
  const x = scale(points.map((p) => p.ratio).concat(budget ?? []), PAD.left, W - PAD.right);
  const y = scale(points.map((p) => p.loss), H - PAD.bottom, PAD.top);
  const label = `Latency against loss: ${points.length} scored candidates, ${front(points).length} on the Pareto front`;
  return svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label, class: "scatter" },
    budget ? budgetBand(x, budget) : null,
    axes(x, y),
    frontLine(front(points), x, y),
    points.map((p) => dot(p, x(p.ratio), y(p.loss), levels, p.digest === best)));
}

export function scale(values, from, to) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  const [a, b] = [low - margin, high + margin];
  const map = (value) => from + ((value - a) / (b - a)) * (to - from);
  map.ticks = ticks(a, b);
  return map;
}

function ticks(a, b) {
  const raw = (b - a) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const first = Math.ceil(a / step);
  return Array.from({ length: Math.floor(b / step) - first + 1 }, (_, i) => (first + i) * step);
}

function axes(x, y) {
  const digits = Math.max(0, Math.min(4, -Math.floor(Math.log10(y.ticks[1] - y.ticks[0] || 1))));
  return svg("g", {},
    x.ticks.map((t) => svg("line", { x1: x(t), x2: x(t), y1: PAD.top, y2: H - PAD.bottom, class: "grid" })),
    y.ticks.map((t) => svg("line", { x1: PAD.left, x2: W - PAD.right, y1: y(t), y2: y(t), class: "grid" })),
    x.ticks.map((t) => svg("text", { x: x(t), y: H - PAD.bottom + 18, class: "axis", "text-anchor": "middle" }, percent(t, 0))),
    y.ticks.map((t) => svg("text", { x: PAD.left - 8, y: y(t) + 4, class: "axis", "text-anchor": "end" }, t.toFixed(digits))),
    svg("text", { x: (PAD.left + W - PAD.right) / 2, y: H - 8, class: "axis", "text-anchor": "middle" }, "latency, share of the dense model's"),
    svg("text", { x: 14, y: (PAD.top + H - PAD.bottom) / 2, class: "axis", "text-anchor": "middle", transform: `rotate(-90 14 ${(PAD.top + H - PAD.bottom) / 2})` }, "calibration loss"));
}

function budgetBand(x, budget) {
  const at = x(budget);
  return svg("g", {},
    svg("rect", { x: PAD.left, y: PAD.top, width: Math.max(0, at - PAD.left), height: H - PAD.top - PAD.bottom, class: "within" }),
    svg("line", { x1: at, x2: at, y1: PAD.top, y2: H - PAD.bottom, class: "budget" }),
    svg("text", { x: at + 6, y: PAD.top + 12, class: "axis budget-text" }, `budget ${percent(budget)}`));
}

function frontLine(points, x, y) {
  if (points.length < 2) return null;
  const steps = points.map((p, i) => (i ? `H${x(p.ratio)}V${y(p.loss)}` : `M${x(p.ratio)},${y(p.loss)}`));
  return svg("path", { d: steps.join(""), class: "front" });
}

function dot(point, cx, cy, levels, best) {
  const kinds = ["node", point.kept && "kept", best && "chosen"].filter(Boolean).join(" ");
  return svg("g", { class: kinds, "data-digest": point.digest },
    svg("circle", { cx, cy, r: best ? 7 : 5, style: `--mark: ${point.level ? levelColour(point.level, levels) : "var(--dim)"}` }),
    svg("title", {}, `${short(point.digest)} · ${percent(point.ratio)} · loss ${point.loss.toFixed(4)}`));
}
