// One device: what it is, and its last check. From /v1/devices/{id} and its checks.

import { ProblemError, get, post } from "./api.js";
import { historyChart, trialsChart } from "./checkchart.js";
import { badge, h, panel, slot, table } from "./dom.js";
import { ago, count, ms, percent } from "./format.js";

const LIVE = new Set(["pending", "running"]);

export function deviceView(id) {
  const base = `/v1/devices/${encodeURIComponent(id)}`;
  const parts = Object.fromEntries(["head", "notice", "facts", "check", "all"].map((name) => [name, slot()]));
  const element = h("article", {}, Object.values(parts).map((part) => part.element));
  const view = { title: "Device", element, refresh };

  async function refresh() {
    const device = await get(base).catch((error) => missing(error, parts, id));
    if (device === null) return 30;
    view.title = device.name;
    document.title = `${view.title} · Secateur`;
    const checks = (await get(`${base}/checks?limit=20`)).items;
    show(parts, base, device, checks, refresh);
    return checks.some((check) => LIVE.has(check.state)) ? 1.5 : 5;
  }
  return view;
}

function missing(error, parts, id) {
  if (!(error instanceof ProblemError) || error.status !== 404) throw error;
  parts.head.show(id, () => h("div", { class: "panel" }, h("h1", {}, "No such device"), h("p", {}, error.message)));
  return null;
}

function show(parts, base, device, checks, refresh) {
  const live = checks.find((check) => LIVE.has(check.state)) ?? null;
  const last = checks.find((check) => check.state === "done") ?? null;
  const failed = checks[0]?.state === "failed" ? checks[0] : null;
  const quarter = Math.floor(Date.now() / 15000);
  parts.head.show([device.name, device.state, live?.id, quarter], () => heading(base, device, live, refresh));
  parts.notice.show([device.problem, live, failed], () => notices(device, live, failed));
  parts.facts.show([device.capabilities, device.labels], () => facts(device));
  parts.check.show(last, () => (last ? checkPanels(last) : noCheck(device)));
  parts.all.show([checks, quarter], () => (checks.length ? allChecks(checks) : null));
}

function heading(base, device, live, refresh) {
  const act = (path) => async (event) => {
    event.target.disabled = true;
    await post(path).catch((error) => alert(error.message));
    refresh();
  };
  const button = live
    ? h("button", { class: "danger", onclick: act(`/v1/checks/${live.id}/cancel`) }, "Cancel the check")
    : h("button", { onclick: act(`${base}/checks`), disabled: device.state === "revoked" }, "Check this device");
  return h("header", { class: "head" },
    h("div", {},
      h("p", { class: "crumb" }, h("a", { href: "#/devices" }, "Devices"), " / ", h("span", { class: "mono" }, device.id)),
      h("h1", {}, device.name, " ", badge(device.state)),
      h("p", { class: "dim" }, `Last seen ${device.last_seen ? ago(device.last_seen) : "never"}`)),
    h("div", { class: "row" }, button));
}

function notices(device, live, failed) {
  return [
    device.problem ? h("div", { class: "notice bad", role: "alert" },
      h("strong", {}, device.problem.title ?? "Problem"), h("p", {}, device.problem.detail ?? "")) : null,
    live ? h("p", { class: "notice good", role: "status" }, h("strong", {}, "Checking: "),
      `${live.progress?.ended ?? 0} of ${live.progress?.of ?? "?"} measurements`,
      live.waiting_for ? `, waiting for ${live.waiting_for}` : "") : null,
    !live && failed ? h("p", { class: "notice bad", role: "alert" },
      h("strong", {}, "The last check failed: "), failed.error ?? "") : null,
  ].filter(Boolean);
}

function facts(device) {
  const found = device.capabilities ?? {};
  const runtimes = Object.entries(found.runtimes ?? {}).map(([name, info]) => [
    h("strong", {}, name), info.version ?? "–", (info.providers ?? []).join(", "),
  ]);
  return panel("Machine",
    h("p", {}, [found.cpu ?? "unknown processor", `${count(found.cores)} cores`, `${count(found.memory_mb)} MB`, found.os]
      .filter(Boolean).join(" · ")),
    h("p", {}, Object.entries(device.labels ?? {}).map(([key, value]) => h("span", { class: "label" }, `${key}=${value}`))),
    table("Runtimes", ["Runtime", "Version", "Providers"], runtimes, "It announced no runtime."));
}

function noCheck(device) {
  return panel("Check", h("p", { class: "empty" }, "Not checked yet. A check measures one model against itself and tells which ",
    "differences this device resolves: the button above, or ", h("code", {}, `secateur devices check ${device.id}`)));
}

function checkPanels(check) {
  const found = check.result;
  const chart = (title, drawn) => panel(title, drawn);
  return [
    panel(`Check of ${ago(check.finished_at)}`, h("p", { class: "dim" }, `${check.workload} on ${targetText(check.target)}`), tiles(found),
      table("Smallest difference of two candidates", ["Time per candidate", "Replicates", "Smallest difference"],
        found.resolution.map((row) => [`${row.seconds} s`, count(row.replicates), percent(row.difference, 2)]), "")),
    h("div", { class: "charts" },
      chart("The model against itself", trialsChart(found.trials)),
      chart("Sentinel and reference", historyChart(found.history))),
  ];
}

function targetText(target) {
  const threads = `${target.threads} thread${target.threads === 1 ? "" : "s"}`;
  return `${target.runtime} with ${target.provider}, batch ${target.batch_size}, ${threads}`;
}

function tiles(found) {
  const tile = (name, value, below) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value), below ? h("dd", { class: "below" }, below) : null);
  const seconds = (value) => (Number.isFinite(value) ? `${value.toFixed(2)} s` : "–");
  return h("dl", { class: "tiles" },
    tile("Screening resolves", percent(found.screening, 2), "the smallest difference at 95 %"),
    tile("A/A ratio", percent(found.ratio, 2), `${percent(found.ratio_low, 2)} to ${percent(found.ratio_high, 2)}`),
    tile("Within 1 %", percent(found.within_1_percent, 0), `${percent(found.within_2_percent, 0)} within 2 %`),
    tile("Intervals that hold 1", percent(found.coverage, 0), `of ${found.trials.length} measurements`),
    tile("Processes differ by", percent(found.between_sd, 2), `rounds of one by ${percent(found.within_sd, 2)}`),
    tile("A replicate costs", seconds(found.replicate_s), `set-up ${seconds(found.setup_s)}, timing ${seconds(found.timing_s)}`),
    tile("Latency", ms(found.reference_ms), "of the model itself"));
}

function allChecks(checks) {
  const rows = checks.map((check) => [
    h("span", { class: "mono" }, check.id), badge(check.state), check.workload,
    percent(check.result?.screening, 2), check.error ?? "–", ago(check.created_at),
  ]);
  return panel("Checks, newest first", table("Checks", ["Check", "State", "Model", "Screening resolves", "Error", "Started"], rows, ""));
}
