// What a finished job hands back: before and after, and the files.

import { h, panel, table } from "./dom.js";
import { bytes, count, interval, ms, percent } from "./format.js";

const DASH = "–";

export function resultPanel(base, job, artifacts, saver) {
  if (!job.result && artifacts.length === 0) return null;
  return panel("Result", job.result ? comparison(job.result) : null, files(base, artifacts, saver));
}

function comparison(result) {
  const bounds = [interval(result.ratio_low, result.ratio_high), `budget ${percent(result.budget_ratio)}`].join(", ");
  const tested = result.test_images ? `on ${count(result.test_images)} test images` : "";
  const rows = [
    ["Latency", ms(result.dense_latency_ms), ms(result.latency_ms), where(result)],
    ["Share of dense", percent(1), percent(result.ratio), bounds],
    ...(result.further_devices ?? []).map((there) => [
      `Latency on ${there.device}`, ms(there.dense_latency_ms), ms(there.latency_ms),
      `${percent(there.ratio)} (${interval(there.ratio_low, there.ratio_high)}), budget ${percent(there.budget_ratio)}`,
    ]),
    ["Accuracy", percent(result.dense_accuracy, 2), percent(result.accuracy, 2), tested],
    ["Size", bytes(result.dense_bytes), bytes(result.bytes), ""],
  ].filter(([, before, after]) => before !== DASH || after !== DASH);
  return h("div", {},
    table("Before and after", ["", "Dense", "Pruned", ""], rows.map(emphasised), "No figures were stored."),
    runtimes(result),
    notes(result).map((note) => h("p", { class: "dim" }, note)));
}

// The dense model in each runtime, where the job chose one of them.
function runtimes(result) {
  const rows = (result.runtimes ?? []).map(({ runtime, format, latency_ms: latency, ratio, error }) =>
    [runtime === result.runtime ? h("strong", {}, runtime) : runtime, format, ms(latency), error ?? percent(ratio)]);
  if (rows.length === 0) return null;
  return h("div", {},
    table("Runtimes", ["Runtime", "Format", "Latency", "Of its float latency"], rows, ""),
    h("p", { class: "dim" }, `Deploy the result in ${result.runtime}: everything else was measured in it.`));
}

function notes(result) {
  const { reused, from_jobs: jobs } = result.measurements ?? {};
  const devices = (result.devices ?? []).filter((device) => device.note);
  return [
    ...(result.warning ? [result.warning] : []),
    ...(result.disturbed_ratio ? [`${percent(result.disturbed_ratio)} of dense while the device was disturbed`] : []),
    ...(reused ? [`${count(reused)} measurements reused from ${jobs.join(", ")}`] : []),
    ...devices.map((device) => `${device.name ?? device.id}: ${device.note}`),
  ];
}

function emphasised([name, before, after, note]) {
  return [name, before, h("strong", {}, after), h("span", { class: "dim" }, note)];
}

function where(result) {
  const runtime = [result.runtime, result.runtime_version].filter(Boolean).join(" ");
  return [result.device, runtime].filter(Boolean).join(", ");
}

function files(base, artifacts, saver) {
  const rows = artifacts.map((artifact) => [
    saver(`${base}/artifacts/${encodeURIComponent(artifact.name)}`, artifact.name),
    bytes(artifact.size),
    h("code", { class: "dim" }, artifact.sha256.slice(0, 16)),
  ]);
  return artifacts.length ? table("Files", ["File", "Size", "SHA-256"], rows, "") : null;
}
