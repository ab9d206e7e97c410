// One job: state, progress, tree, plot, result, events. Everything comes from /v1/jobs/{id} and below.

import { ProblemError, all, download, get, hasKey, post } from "./api.js";
import { askBudget, resolve } from "./budget.js";
import { badge, h, ownPath, panel, slot, table } from "./dom.js";
import { clock, count, duration, interval, ms, number, percent, short } from "./format.js";
import { budgetText, isFinished } from "./jobs.js";
import { bits, follower, front, isPoint, searched, watch } from "./nodes.js";
import { resultPanel } from "./result.js";
import { scatterChart } from "./scatter.js";
import { treeChart } from "./tree.js";

const STEPS = ["queued", "preparing", "searching", "finetuning", "verifying"];
const SHOWN_EVENTS = 200;

export function jobView(id) {
  const base = `/v1/jobs/${encodeURIComponent(id)}`;
  const parts = Object.fromEntries(
    ["head", "notice", "steps", "tiles", "result", "charts", "front", "log"].map((name) => [name, slot()]));
  const events = [];
  const readTree = follower(`${base}/tree`);
  const element = h("article", {}, Object.values(parts).map((part) => part.element));
  const view = { title: "Job", element, refresh };

  async function refresh() {
    const job = await get(base).catch((error) => missing(error, parts, id));
    if (job === null) return 30;
    view.title = job.name || job.id;
    document.title = `${view.title} · Secateur`;
    const [tree, artifacts] = await Promise.all([readTree(), get(`${base}/artifacts`)]);
    await follow(base, events);
    show(parts, base, job, tree, artifacts.items, events, refresh);
    return isFinished(job) ? 10 : 1.5;
  }
  return view;
}

function missing(error, parts, id) {
  if (!(error instanceof ProblemError) || error.status !== 404) throw error;
  parts.head.show(id, () => h("div", { class: "panel" }, h("h1", {}, "No such job"), h("p", {}, error.message)));
  return null;
}

// Two refreshes may overlap (a poll and a button): an event that the other one added is skipped.
async function follow(base, events) {
  const last = () => (events.length ? events[events.length - 1].number : 0);
  let page;
  do {
    page = await get(`${base}/events?after=${last()}&limit=500`);
    events.push(...page.items.filter((event) => event.number > last()));
  } while (page.next !== null);
}

function show(parts, base, job, tree, artifacts, events, refresh) {
  const levels = Math.max(1, job.progress?.levels ?? job.spec.search?.levels ?? 1, ...tree.items.map((c) => c.level));
  const best = job.result?.candidate ?? job.result?.plan_digest ?? job.progress?.best?.digest ?? null;
  parts.head.show([job.name, job.state, job.stop_requested, job.cancel_requested, artifacts.length],
    () => heading(base, job, artifacts, refresh));
  parts.notice.show([job.waiting_for, job.problem, job.state, job.result, job.progress?.advice], () => notices(job));
  parts.steps.show([job.state, events.length], () => steps(job, events));
  parts.tiles.show([job.progress, job.result, job.spec, job.state, tree.dense_latency_ms], () => tiles(job, tree));
  parts.result.show([job.result, artifacts], () => resultPanel(base, job, artifacts, saver));
  parts.charts.show([tree.changes, tree.budget_ratio, best, levels], () => charts(job, tree, levels, best));
  parts.front.show([tree.changes, best, isFinished(job)], () => frontTable(base, tree, best, isFinished(job)));
  parts.log.show(events.length, () => log(events));
}

// With a key a plain link would be refused: the file is fetched with the key and saved.
function saver(path, name, look = {}) {
  const save = (event) => {
    if (!hasKey()) return;
    event.preventDefault();
    download(path, name);
  };
  return h("a", { href: ownPath(path), onclick: save, ...look }, name);
}

function heading(base, job, artifacts, refresh) {
  const report = artifacts.find((artifact) => artifact.name === "report.html");
  const act = (verb, question) => async (event) => {
    if (question && !confirm(question)) return;
    event.target.disabled = true;
    await post(`${base}/${verb}`).catch((error) => alert(error.message));
    refresh();
  };
  return h("header", { class: "head" },
    h("div", {},
      h("p", { class: "crumb" }, h("a", { href: "#/jobs" }, "Jobs"), " / ", h("span", { class: "mono" }, job.id)),
      h("h1", {}, job.name || job.id, " ", badge(job.state)),
      h("p", { class: "dim" }, summary(job))),
    h("div", { class: "row" },
      report ? saver(`${base}/artifacts/report.html`, "report.html", { class: "button" }) : null,
      isFinished(job) ? h("button", { onclick: () => askBudget(base, job) }, "Another budget") : null,
      isFinished(job) ? null : h("button", { onclick: act("stop"), disabled: job.stop_requested || job.cancel_requested },
        job.stop_requested ? "Stopping …" : "Stop with best so far"),
      isFinished(job) ? null : h("button", { class: "danger", disabled: job.cancel_requested,
        onclick: act("cancel", "Cancel this job? It ends without a result.") },
      job.cancel_requested ? "Cancelling …" : "Cancel")));
}

async function getFiles(base, candidate) {
  const refused = await resolve(base, { budget: { ratio: Number((candidate.ratio / AIM).toFixed(4)) } });
  if (refused) alert(refused);
}

function summary(job) {
  const { model, dataset, target, budget, further_devices: further } = job.spec;
  if (!target || !budget) return "what was asked for cannot be read by this version";
  const runtime = `${target.runtime}, batch ${target.batch_size}, ${target.threads} thread${target.threads === 1 ? "" : "s"}`;
  const also = (further ?? []).map((each) => ` and ${budgetText(each)} on ${each.device}`).join("");
  return `${model} on ${dataset}, ${budgetText(budget)} latency on ${target.device}${also} (${runtime})`;
}

function notices(job) {
  const waits = job.waiting_for && !isFinished(job);
  return [
    waits ? h("p", { class: "notice", role: "status" }, h("strong", {}, "Waiting: "), job.waiting_for) : null,
    job.progress?.advice ? h("p", { class: "notice", role: "status" }, `Note: ${job.progress.advice}.`) : null,
    job.problem ? h("div", { class: "notice bad", role: "alert" },
      h("strong", {}, job.problem.title ?? "Problem"), h("p", {}, job.problem.detail ?? ""),
      h("ul", {}, (job.problem.errors ?? []).map((error) => h("li", {}, h("code", {}, error.field), " ", error.message)))) : null,
    job.result?.unpruned ? h("p", { class: "notice good", role: "status" },
      "The budget is above the dense latency: the model is returned unpruned.") : null,
    job.result?.within_budget === false ? h("p", { class: "notice", role: "status" },
      "The interval of the measured latency is not wholly within the budget.") : null,
  ].filter(Boolean);
}

function steps(job, events) {
  const passed = new Set(events.filter((event) => event.kind === "state").map((event) => event.data.from));
  const end = isFinished(job) ? job.state : "done";
  return h("ol", { class: "steps", "aria-label": "Progress of the job" }, [...STEPS, end].map((name) => {
    const status = name === job.state ? "now" : passed.has(name) ? "past" : "later";
    return h("li", { class: status, "data-state": name, "aria-current": status === "now" ? "step" : null }, name);
  }));
}

function tiles(job, tree) {
  const progress = job.progress ?? {};
  const best = job.result ?? progress.best ?? {};
  const level = progress.levels ? `${progress.level ?? 0} / ${progress.levels}` : "–";
  const bar = progress.fraction > 0 && !isFinished(job)
    ? h("progress", { max: 1, value: progress.fraction, "aria-label": "Part of the job that is done" }) : null;
  return [bar, h("dl", { class: "tiles" },
    tile("Level", level, progress.phase ?? ""),
    tile("Measured", count(progress.measured), progress.planned > progress.measured
      ? `of about ${count(progress.planned)}, ${count(progress.scored)} scored` : `${count(progress.scored)} scored`),
    tile(job.result ? "Result" : "Best so far", percent(best.ratio),
      best.ratio_low ? interval(best.ratio_low, best.ratio_high) : Number.isFinite(best.loss) ? `loss ${number(best.loss, 3)}` : ""),
    tile("Budget", percent(tree.budget_ratio), budgetText(job.spec.budget)),
    tile("Dense latency", ms(tree.dense_latency_ms), "measured on the device"),
    isFinished(job) ? tile("Took", duration((Date.parse(job.finished_at) - Date.parse(job.created_at)) / 1000))
      : tile("Time left", timeLeft(progress), "estimate"),
    job.state === "preparing" && progress.sensitivities ? sensitivities(progress.sensitivities) : null,
    job.state === "finetuning" ? training(progress.finetuning) : null)].filter(Boolean);
}

function sensitivities(now) {
  return tile("Sensitivities", `${count(now.done)} / ${count(now.of)}`, "what each layer can lose");
}

function timeLeft(progress) {
  const [low, high] = progress.seconds_left_range ?? [];
  return Number.isFinite(high) ? `${duration(low)} to ${duration(high)}` : duration(progress.seconds_left);
}

function training(now) {
  if (!now) return null;
  const parts = [Number.isFinite(now.loss) ? `loss ${number(now.loss, 3)}` : null,
    Number.isFinite(now.accuracy) ? `accuracy ${percent(now.accuracy)}` : null].filter(Boolean);
  return tile("Training step", `${count(now.step)} / ${count(now.steps)}`, parts.join(", "));
}

function tile(name, value, below) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value), below ? h("dd", { class: "below" }, below) : null);
}

function charts(job, tree, levels, best) {
  const shown = searched(tree.items);
  if (shown.length === 0) {
    return panel("Search", h("p", { class: "empty" }, emptyText(job, tree.items)));
  }
  const box = h("div", { class: "charts" });
  const detail = h("p", { class: "detail mono", role: "status" }, "Point at a candidate to see what it is.");
  const byDigest = new Map(tree.items.map((candidate) => [candidate.digest, candidate]));
  const treePanel = panel("Search tree",
    h("div", { class: "canvas", tabindex: "0", role: "region", "aria-label": "Search tree" }, treeChart(tree.items, levels, best)));
  const plot = tree.items.some(isPoint)
    ? scatterChart(tree.items, { levels, budget: tree.budget_ratio, best })
    : h("p", { class: "empty" }, "No candidate has been scored yet.");
  box.append(treePanel, panel("Latency and loss", plot, legend()), detail);
  watch(box, box, (digest) => detail.replaceChildren(describe(byDigest.get(digest))));
  return box;
}

function emptyText(job, items) {
  if (items.length > 0 && isFinished(job)) return "This job ended before its tree began.";
  if (items.length > 0) return `${items.length} single-group measurements so far; the tree starts when the staircases are known.`;
  return isFinished(job) ? "This job ended before the search measured a candidate." : "The tree appears with the first candidates.";
}

function legend() {
  const entry = (kind, text) => h("li", {}, h("i", { class: kind }), text);
  return h("ul", { class: "legend" }, entry("kept", "kept for the next level"), entry("dropped", "measured, not kept"),
    entry("front", "Pareto front"), entry("budget", "budget"));
}

function describe(candidate) {
  if (!candidate) return "";
  const latency = candidate.error ?? `${percent(candidate.ratio)} of dense (${interval(candidate.ratio_low, candidate.ratio_high)}), ${ms(candidate.latency_ms)}`;
  return `${short(candidate.digest)} · level ${candidate.level} · ${candidate.origin ?? ""}${bits(candidate)} · ${latency} · loss ${number(candidate.loss)} · ${candidate.kept ? "kept" : "not kept"}`;
}

const AIM = 0.985; // of a budget: what a search proposes, so that the interval lies within

function frontTable(base, tree, best, finished) {
  const wanted = (candidate) => finished && candidate.ratio < AIM && candidate.digest !== best
    ? h("button", { title: "A job at this latency: it trains, measures and packages",
        onclick: () => getFiles(base, candidate) }, "Get files") : null;
  const rows = front(tree.items).map((candidate) => [
    [h("code", {}, short(candidate.digest)), candidate.digest === best ? h("span", { class: "label" }, finished ? "chosen" : "best so far") : null],
    percent(candidate.ratio), interval(candidate.ratio_low, candidate.ratio_high), ms(candidate.latency_ms),
    number(candidate.loss), String(candidate.level), candidate.origin ?? "–",
    wanted(candidate),
  ]);
  if (rows.length === 0) return null;
  const headings = ["Candidate", "Latency", "Interval", "Absolute", "Loss", "Level", "Origin", ""];
  return panel("Pareto front", table("Candidates that no other beats in both latency and loss", headings, rows, ""));
}

function log(events) {
  const shown = events.slice(-SHOWN_EVENTS).reverse();
  const line = (event) => h("li", {}, h("time", { datetime: event.at, title: event.at }, clock(event.at)),
    h("strong", {}, event.kind), h("span", {}, dataText(event.data)));
  const title = shown.length < events.length ? `Events (last ${shown.length} of ${events.length})` : "Events";
  return panel(title, shown.length
    ? h("ol", { class: "log", tabindex: "0", role: "region", "aria-label": "Events, newest first" }, shown.map(line))
    : h("p", { class: "empty" }, "Nothing has happened yet."));
}

function dataText(data) {
  return Object.entries(data ?? {}).filter(([, value]) => value !== null).map(([key, value]) =>
    `${key}: ${typeof value === "object" && value !== null ? JSON.stringify(value) : value}`).join(" · ");
}
