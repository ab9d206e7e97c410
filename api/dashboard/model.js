// One model: what can be pruned, how much that is, why the rest cannot be. All from /v1/models/{id}.

import { ProblemError, get } from "./api.js";
import { badge, h, panel, slot, table } from "./dom.js";
import { ago, count, percent } from "./format.js";

const NAMES = 3;
const STATUS = { prunable: "exact" };
const RESULT = { module: "your class", graph: "PrunedGraph" };

export function modelView(id) {
  const parts = Object.fromEntries(["head", "notice", "tiles", "frozen", "groups"].map((name) => [name, slot()]));
  const element = h("article", {}, Object.values(parts).map((part) => part.element));
  const view = { title: "Model", element, refresh };

  async function refresh() {
    const model = await get(`/v1/models/${encodeURIComponent(id)}`).catch((error) => missing(error, parts, id));
    if (model === null) return 30;
    view.title = model.name;
    document.title = `${view.title} · Secateur`;
    show(parts, model);
    return model.state === "checking" ? 2 : 30;
  }
  return view;
}

function missing(error, parts, id) {
  if (!(error instanceof ProblemError) || error.status !== 404) throw error;
  parts.head.show(id, () => h("div", { class: "panel" }, h("h1", {}, "No such model"), h("p", {}, error.message)));
  return null;
}

function show(parts, model) {
  const report = model.report ?? {};
  parts.head.show([model.name, model.state], () => heading(model));
  parts.notice.show([model.state, model.problem, report.parts, report.complete], () => notices(model));
  parts.tiles.show(report, () => (model.report ? tiles(report) : null));
  parts.frozen.show(report, () => (report.frozen?.length ? frozenPanel(report) : null));
  parts.groups.show(report, () => (report.groups?.length ? groupsPanel(report) : null));
}

function heading(model) {
  const shape = (model.spec?.input_shape ?? model.report?.input_shape ?? []).join(" × ");
  return h("header", { class: "head" }, h("div", {},
    h("p", { class: "crumb" }, h("a", { href: "#/models" }, "Models"), " / ", h("span", { class: "mono" }, model.id)),
    h("h1", {}, model.name, " ", badge(model.state)),
    h("p", { class: "dim" }, `${model.spec?.architecture ?? ""} on inputs of ${shape}, added ${ago(model.created_at)}`)));
}

function notices(model) {
  if (model.problem) {
    return h("div", { class: "notice bad", role: "alert" },
      h("strong", {}, model.problem.title ?? "Problem"), h("p", {}, model.problem.detail ?? ""));
  }
  const parts = model.report?.parts ?? [];
  const told = [];
  if (parts.length) {
    told.push(h("strong", {}, `Only parts of it could be traced: ${parts.join(", ")}`), h("p", {}, model.report.obstacle ?? ""));
  }
  if (model.report?.complete === false) told.push(h("strong", {}, unfinished(model.report)), h("p", {}, model.report.unfinished_because ?? ""));
  if (told.length) return h("div", { class: "notice", role: "status" }, ...told);
  return model.state === "checking"
    ? h("p", { class: "notice", role: "status" }, "A worker is building and tracing this model.") : null;
}

function unfinished(report) {
  const names = report.unfinished ?? [];
  return names.length
    ? `Unfinished: ${names.length} of ${report.groups.length} groups and blocks were not verified in time, and stay whole`
    : "Unfinished: whether your class can lose some groups was not tried in time; they need a PrunedGraph";
}

function tiles(report) {
  const half = report.half_width ?? {};
  const found = (report.groups ?? []).filter((group) => group.kind !== "block");
  const of = (status) => found.filter((group) => group.status === status).length;
  const extra = (value, text) => (value > 0 ? `${percent(value)} ${text}` : "");
  const tile = (name, value, below) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value), below ? h("dd", { class: "below" }, below) : null);
  return h("dl", { class: "tiles" },
    tile("Parameters", count(report.parameters), `${percent(report.prunable_parameter_share)} can be pruned`),
    tile("MACs per example", count(report.macs), `${percent(report.prunable_mac_share)} can be pruned`),
    tile("Groups", count(found.length),
      `${of("prunable")} exact, ${of("approximate")} approximate, ${of("frozen")} frozen`),
    tile("Blocks", count(report.removable_blocks ?? 0), "can be removed whole by a job that asks for it"),
    tile("MACs gone at half width", percent(half.mac_share_exact),
      extra(half.mac_share_approximate, "more by approximate groups")),
    tile("Parameters gone at half width", percent(half.parameter_share_exact),
      extra(half.parameter_share_approximate, "more by approximate groups")),
    tile("Pruned models are", report.graph_form_groups?.length ? "PrunedGraph" : "your class",
      report.graph_form_groups?.length ? `where ${some(report.graph_form_groups)} lose units, else your class` : ""));
}

function frozenPanel(report) {
  const rows = report.frozen.map((entry) =>
    [entry.cause, count(entry.groups.length), count(entry.units), percent(entry.mac_share), some(entry.groups)]);
  return panel("Why groups are frozen",
    table("Causes of frozen groups", ["Why", "Groups", "Units", "MACs touched", "Such as"], rows, ""));
}

function groupsPanel(report) {
  const sorted = [...report.groups].sort((a, b) => (b.macs ?? 0) - (a.macs ?? 0));
  const rows = sorted.map((group) => [
    h("span", { class: "mono" }, group.name),
    group.kind,
    count(group.width),
    percent(report.macs ? group.macs / report.macs : undefined),
    STATUS[group.status] ?? group.status,
    group.status === "frozen" ? "–" : RESULT[group.form] ?? "–",
    group.reason || "–",
  ]);
  const headings = ["Group", "Kind", "Width", "MACs touched", "Status", "Result", "Reason"];
  return panel("Groups, costliest first", table("Groups", headings, rows, ""));
}

function some(names) {
  const more = names.length > NAMES ? ` and ${names.length - NAMES} more` : "";
  return names.slice(0, NAMES).join(", ") + more;
}
