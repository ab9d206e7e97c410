// What the tree and the plot share: the Pareto front, colours by level, hover that joins both.

import { news } from "./api.js";

// A job's tree, kept up to date by what changed: `changes` grows whenever its nodes do.
export function follower(path) {
  const nodes = new Map();
  const tree = { items: [], version: null, changes: 0 };

  function take(answer) {
    if (answer.job_id === tree.job_id && answer.version < tree.version) return; // a slower answer to an earlier question
    if (answer.whole) nodes.clear();
    for (const node of answer.items) nodes.set(node.digest, node);
    if (answer.whole || answer.items.length > 0) {
      tree.items = [...nodes.values()].sort((a, b) => a.level - b.level || (a.digest < b.digest ? -1 : 1));
      tree.changes += 1;
    }
    const { job_id, version, budget_ratio, dense_latency_ms } = answer;
    Object.assign(tree, { job_id, version, budget_ratio, dense_latency_ms });
  }

  return async function refresh() {
    const answer = await news(tree.version === null ? path : `${path}?after=${tree.version}`);
    if (answer.job_id !== tree.job_id && !answer.whole) { // the name belongs to a newer job by now
      tree.version = null;
      return refresh();
    }
    take(answer);
    return tree;
  };
}

export function front(candidates) {
  const points = candidates.filter((c) => isPoint(c)).sort((a, b) => a.ratio - b.ratio || a.loss - b.loss);
  const best = [];
  let lowest = Infinity;
  for (const point of points) {
    if (point.loss < lowest) {
      best.push(point);
      lowest = point.loss;
    }
  }
  return best;
}

export function isPoint(candidate) {
  return Number.isFinite(candidate.ratio) && Number.isFinite(candidate.loss);
}

// Level 0 holds the staircases and feasibility measurements: they are no nodes of the tree.
export function searched(candidates) {
  return candidates.filter((candidate) => candidate.level > 0);
}

// Light to strong along the levels; style.css owns the two ends.
export function levelColour(level, levels) {
  const share = levels > 1 ? Math.round((100 * (level - 1)) / (levels - 1)) : 100;
  return `color-mix(in oklch, var(--level-last) ${share}%, var(--level-first))`;
}

export function highlight(root, digest, on) {
  for (const mark of root.querySelectorAll("[data-digest]")) {
    if (mark.dataset.digest === digest) mark.classList.toggle("lit", on);
  }
}

// One listener per chart instead of one per mark.
export function watch(chart, root, show) {
  const over = (event) => {
    const digest = event.target.closest?.("[data-digest]")?.dataset.digest;
    if (!digest) return;
    highlight(root, digest, true);
    show(digest);
  };
  const out = (event) => {
    const digest = event.target.closest?.("[data-digest]")?.dataset.digest;
    if (digest) highlight(root, digest, false);
  };
  chart.addEventListener("pointerover", over);
  chart.addEventListener("focusin", over);
  chart.addEventListener("pointerout", out);
  chart.addEventListener("focusout", out);
}

// How many layers of a candidate run in int8, where any do.
export function bits(candidate) {
  return candidate.int8_layers ? ` · ${candidate.int8_layers} layers in int8` : "";
}
