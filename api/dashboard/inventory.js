// The lists of models, data sets and devices.

import { all } from "./api.js";
import { badge, h, slot, table } from "./dom.js";
import { ago, count, percent } from "./format.js";

function reason(problem) {
  return problem ? h("span", { class: "bad" }, problem.detail ?? problem.title ?? "") : null;
}

function labels(map) {
  return Object.entries(map ?? {}).map(([key, value]) => h("span", { class: "label" }, `${key}=${value}`));
}

function runtimes(capabilities) {
  return Object.entries(capabilities?.runtimes ?? {}).map(([name, info]) =>
    h("div", {}, `${name} ${info.version ?? ""}`));
}

function listView(title, path, headings, row, empty) {
  const list = slot();
  return {
    title,
    element: h("div", {}, h("h1", {}, title), h("div", { class: "panel" }, list.element)),
    async refresh() {
      const items = await all(path);
      list.show([items, Math.floor(Date.now() / 15000)], () => table(title, headings, items.map(row), empty));
      return 5;
    },
  };
}

export function modelsView() {
  const row = (model) => [
    h("a", { href: `#/models/${encodeURIComponent(model.name)}` }, h("strong", {}, model.name)),
    [badge(model.state), reason(model.problem)],
    h("span", { class: "mono" }, model.spec?.architecture ?? "–"),
    (model.spec?.input_shape ?? []).join("\u00a0×\u00a0") || "–",
    count(model.report?.parameters),
    percent(model.report?.prunable_mac_share, 0),
    ago(model.created_at),
  ];
  const headings = ["Model", "State", "Architecture", "Input", "Parameters", "Prunable MACs", "Added"];
  return listView("Models", "/v1/models", headings, row, "No model yet. Add one with “secateur models add”.");
}

export function datasetsView() {
  const row = (dataset) => [
    h("strong", {}, dataset.name),
    [badge(dataset.state), reason(dataset.problem)],
    dataset.spec?.format ?? "–",
    count(dataset.info?.train_images),
    count(dataset.info?.classes),
    ago(dataset.created_at),
  ];
  const headings = ["Data set", "State", "Format", "Training images", "Classes", "Added"];
  return listView("Data sets", "/v1/datasets", headings, row, "No data set yet. Add one with “secateur datasets add”.");
}

export function devicesView() {
  const row = (device) => [
    [h("a", { href: `#/devices/${encodeURIComponent(device.id)}` }, h("strong", {}, device.name)), h("div", { class: "mono dim" }, device.id)],
    [badge(device.state), reason(device.problem)],
    device.capabilities?.cpu ?? "–",
    count(device.capabilities?.cores),
    runtimes(device.capabilities),
    labels(device.labels),
    device.last_seen ? ago(device.last_seen) : "never",
  ];
  const headings = ["Device", "State", "Processor", "Cores", "Runtimes", "Labels", "Last seen"];
  return listView("Devices", "/v1/devices", headings, row,
    "No device yet. Start an agent with a token from POST /v1/devices/tokens.");
}
