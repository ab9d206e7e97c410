// The list of jobs.

import { get } from "./api.js";
import { badge, h, slot, table } from "./dom.js";
import { ago, percent } from "./format.js";

const FINISHED = new Set(["succeeded", "infeasible", "failed", "cancelled"]);

export function isFinished(job) {
  return FINISHED.has(job.state);
}

export function budgetText(budget) {
  if (typeof budget?.ratio === "number") return `≤ ${percent(budget.ratio)}`;
  return `≤ ${budget?.latency_ms ?? "–"} ms`;
}

export function levelText(progress) {
  return progress?.levels ? `${progress.level ?? 0} / ${progress.levels}` : "–";
}

function row(job) {
  return [
    h("a", { href: `#/jobs/${encodeURIComponent(job.id)}` }, job.name || job.id),
    [badge(job.state), job.waiting_for && !isFinished(job) ? h("span", { class: "waiting" }, "waiting") : null],
    job.spec?.model ?? "–",
    h("span", { class: "mono" }, job.spec?.target?.device ?? "–"),
    budgetText(job.spec?.budget),
    percent(job.result?.ratio ?? job.progress?.best?.ratio),
    levelText(job.progress),
    h("time", { datetime: job.created_at, title: job.created_at }, ago(job.created_at)),
  ];
}

export function jobsView() {
  const list = slot();
  const headings = ["Job", "State", "Model", "Device", "Budget", "Best latency", "Level", "Submitted"];
  return {
    title: "Jobs",
    element: h("div", {}, h("h1", {}, "Jobs"), h("div", { class: "panel" }, list.element)),
    async refresh() {
      const page = await get("/v1/jobs?limit=100");
      const minute = Math.floor(Date.now() / 60000);
      list.show([page, minute], () =>
        table("Jobs, newest first", headings, page.items.map(row),
          "No job yet. Submit one with “secateur jobs submit” or POST /v1/jobs."));
      return page.items.every(isFinished) ? 5 : 2;
    },
  };
}
