// The page's frame: hash routes, polling, the key form, the connection notice.

import { ProblemError, rememberKey } from "./api.js";
import { deviceView } from "./device.js";
import { h } from "./dom.js";
import { datasetsView, devicesView, modelsView } from "./inventory.js";
import { jobView } from "./job.js";
import { jobsView } from "./jobs.js";
import { modelView } from "./model.js";

const content = document.querySelector("#content");
const connection = document.querySelector("#connection");
const lists = { jobs: jobsView, models: modelsView, datasets: datasetsView, devices: devicesView };
let current = { stop() {} };

function viewOf(section, id) {
  if (section === "jobs" && id) return jobView(id);
  if (section === "models" && id) return modelView(id);
  if (section === "devices" && id) return deviceView(id);
  return (lists[section] ?? jobsView)();
}

function route() {
  const [section = "jobs", id] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.section === (section || "jobs")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  current.stop();
  current = poll(viewOf(section, id));
}

// A view is {element, title, refresh() -> seconds until the next refresh}.
function poll(view) {
  let timer;
  let stopped = false;
  content.replaceChildren(view.element);
  document.title = `${view.title} · Secateur`;
  async function turn() {
    clearTimeout(timer);
    let wait = 5;
    if (!document.hidden) {
      try {
        wait = await view.refresh();
        connection.textContent = "";
      } catch (error) {
        if (!stopped) fail(error);
      }
    }
    if (!stopped) timer = setTimeout(turn, 1000 * wait);
  }
  turn();
  return {
    turn,
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}

function fail(error) {
  if (error instanceof ProblemError && error.status === 401) {
    current.stop();
    content.replaceChildren(keyForm(error));
  } else if (error instanceof ProblemError) {
    connection.textContent = error.message;
  } else {
    connection.textContent = "No answer from the service, trying again …";
  }
}

function keyForm(error) {
  const field = h("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true });
  const submit = (event) => {
    event.preventDefault();
    rememberKey(field.value.trim());
    route();
  };
  return h("form", { class: "panel key", onsubmit: submit },
    h("h1", {}, "This service needs a key"),
    h("p", {}, error.message),
    h("label", { for: "key" }, "API key (kept until this tab is closed)"),
    h("div", { class: "row" }, field, h("button", { class: "primary" }, "Continue")));
}

addEventListener("hashchange", () => {
  route();
  content.focus({ preventScroll: true });
  scrollTo(0, 0);
});
document.addEventListener("visibilitychange", () => document.hidden || current.turn?.());
route();
