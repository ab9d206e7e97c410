// The search tree as SVG: a column per level, the dense model at the left, kept nodes filled.

import { svg } from "./dom.js";
import { percent, short } from "./format.js";
import { bits, isPoint, levelColour, searched } from "./nodes.js";

const COLUMN = 150;
const RETRY = 26;
const TALL = 520;
const MARGIN = { left: 54, right: 92, top: 34, bottom: 14 };

export function treeChart(candidates, levels, best) {
  const nodes = searched(candidates);
  const roots = linked(nodes);
  const rows = place(roots);
  const step = Math.max(5, Math.min(26, TALL / Math.max(1, rows)));
  const height = MARGIN.top + MARGIN.bottom + Math.max(1, rows) * step;
  const deepest = Math.max(levels, ...nodes.map((n) => n.level));
  const width = MARGIN.left + MARGIN.right + deepest * COLUMN;
  const at = (node) => [MARGIN.left + node.level * COLUMN + node.retry * RETRY, MARGIN.top + (node.row + 0.5) * step];
  const dense = [MARGIN.left - 20, MARGIN.top + (Math.max(1, rows) / 2) * step];
  const path = ancestors(roots, best);
  const every = flat(roots);
  const label = `Search tree: ${nodes.length} nodes on ${levels} levels, ${nodes.filter((n) => n.kept).length} kept`;
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, class: "tree" },
    headings(deepest),
    every.map((node) => edge(node.up ? at(node.up) : dense, at(node), path.has(node.digest))),
    svg("circle", { cx: dense[0], cy: dense[1], r: 7, class: "dense" }),
    svg("text", { x: dense[0], y: dense[1] + 20, class: "axis", "text-anchor": "middle" }, "dense"),
    every.map((node) => mark(node, at(node), deepest, path.has(node.digest), Math.min(1, step / 9))));
}

function linked(candidates) {
  const nodes = new Map(candidates.map((c) => [c.digest, { ...c, children: [], up: null, retry: 0, row: 0 }]));
  const roots = [];
  for (const node of nodes.values()) {
    const parent = nodes.get(node.parent);
    if (parent && parent !== node && parent.level <= node.level) {
      node.up = parent;
      parent.children.push(node);
    } else roots.push(node);
  }
  return roots;
}

// Leaves take one row each, in order; a parent sits in the middle of its children. Iterative,
// because a chain of retries may be deep.
function place(roots) {
  let row = 0;
  const stack = [...roots].sort(byLatency).reverse().map((node) => [node, false]);
  while (stack.length > 0) {
    const [node, done] = stack.pop();
    if (done) {
      const rows = node.children.map((child) => child.row);
      node.row = (Math.min(...rows) + Math.max(...rows)) / 2;
    } else if (node.children.length === 0) {
      retry(node);
      node.row = row++;
    } else {
      retry(node);
      stack.push([node, true], ...node.children.sort(byLatency).reverse().map((child) => [child, false]));
    }
  }
  return row;
}

// A child on its parent's own level is a second try after a miss: shown beside it.
function retry(node) {
  node.retry = node.up && node.up.level === node.level ? Math.min(3, node.up.retry + 1) : 0;
}

function byLatency(a, b) {
  return (a.ratio ?? 9) - (b.ratio ?? 9) || (a.digest < b.digest ? -1 : 1);
}

function flat(roots) {
  const all = [];
  const stack = [...roots];
  while (stack.length > 0) {
    const node = stack.pop();
    all.push(node);
    stack.push(...node.children);
  }
  return all;
}

function ancestors(roots, digest) {
  let node = flat(roots).find((n) => n.digest === digest);
  const path = new Set();
  while (node && !path.has(node.digest)) {
    path.add(node.digest);
    node = node.up;
  }
  return path;
}

function headings(levels) {
  return Array.from({ length: levels }, (_, i) =>
    svg("text", { x: MARGIN.left + (i + 1) * COLUMN, y: 16, class: "axis", "text-anchor": "middle" }, `level ${i + 1}`));
}

function edge([x0, y0], [x1, y1], chosen) {
  const bend = (x1 - x0) / 2;
  return svg("path", { d: `M${x0},${y0}C${x0 + bend},${y0} ${x1 - bend},${y1} ${x1},${y1}`, class: chosen ? "edge chosen" : "edge" });
}

function mark(node, [x, y], levels, chosen, size) {
  const kinds = ["node", node.kept && "kept", node.error && "error", chosen && "chosen"].filter(Boolean).join(" ");
  const says = node.error ?? (isPoint(node) ? `${percent(node.ratio)}, loss ${node.loss.toFixed(3)}` : percent(node.ratio));
  return svg("g", { class: kinds, "data-digest": node.digest },
    svg("circle", { cx: x, cy: y, r: (node.kept ? 6 : 4) * size, style: `--mark: ${levelColour(node.level, levels)}` }),
    chosen && node.kept ? svg("text", { x: x + 9, y: y - 6, class: "axis strong" }, percent(node.ratio)) : null,
    svg("title", {}, `${short(node.digest)} · ${node.origin ?? ""}${bits(node)} · ${says}`));
}
