// Another budget for a job that has ended: a form, and the job that answers it.

import { all, post } from "./api.js";
import { h } from "./dom.js";

// Opens the form; the page goes to the new job once it is made.
export async function askBudget(base, job) {
  const devices = await all("/v1/devices").catch(() => []);
  const budget = h("input", { name: "budget", required: true, placeholder: "40% or 20ms", autocomplete: "off" });
  const device = h("select", { name: "device" },
    h("option", { value: "" }, `as this job: ${job.spec.target?.device ?? "any"}`),
    devices.map((each) => h("option", { value: `id:${each.id}` }, each.name)));
  const wrong = h("p", { class: "wrong", role: "alert" });
  const dialog = h("dialog", { "aria-labelledby": "another" },
    h("form", { onsubmit: submit },
      h("h2", { id: "another" }, "Another budget"),
      h("p", { class: "dim" }, "A new job answers it from what this one found out: no network is measured again that the device has measured."),
      h("label", {}, "Latency", budget),
      h("label", {}, "Device", device),
      wrong,
      h("div", { class: "row" },
        h("button", { type: "submit" }, "Start"),
        h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();

  async function submit(event) {
    event.preventDefault();
    wrong.textContent = "";
    const asked = { budget: budget.value.trim(), device: device.value || null };
    const refused = await resolve(base, asked);
    if (refused) wrong.textContent = refused;
    else dialog.close();
  }
}

// A new job like this one, which measures nothing again; the words of the refusal, if it is refused.
export async function resolve(base, asked) {
  try {
    const made = await post(`${base}/resolve`, asked);
    location.hash = `#/jobs/${made.id}`;
    return null;
  } catch (error) {
    return error.message;
  }
}
