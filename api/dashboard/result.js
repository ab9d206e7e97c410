// What a finished job hands back: before and after, and the files.

import { h, panel, table } from "./dom.js";
import { bytes, interval, ms, percent } from "./format.js";

export function resultPanel(base, job, artifacts, saver) {
  if (!job.result && artifacts.length === 0) return null;
  return panel("Result", job.result ? comparison(job.result) : null, files(base, artifacts, saver));
}

function comparison(result) {
  const rows = [
    ["Latency", ms(result.dense?.latency_ms), ms(result.pruned?.latency_ms)],
    ["Latency, share of dense", percent(1), [percent(result.ratio), h("span", { class: "dim" }, ` ${interval(result.ratio_low, result.ratio_high)}`)]],
    ["Accuracy", percent(result.dense?.accuracy, 2), percent(result.pruned?.accuracy, 2)],
    ["Size", bytes(result.dense?.size), bytes(result.pruned?.size)],
  ].filter(([, before, after]) => before !== "–" || after !== "–");
  return table("Before and after", ["", "Dense", "Pruned"], rows, "No figures were stored.");
}

function files(base, artifacts, saver) {
  const rows = artifacts.map((artifact) => [
    saver(`${base}/artifacts/${encodeURIComponent(artifact.name)}`, artifact.name),
    bytes(artifact.size),
    h("code", { class: "dim" }, artifact.sha256.slice(0, 16)),
  ]);
  return artifacts.length ? table("Files", ["File", "Size", "SHA-256"], rows, "") : null;
}
