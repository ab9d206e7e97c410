// Builds elements. Data only ever becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function build(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") element.style.cssText = value; // the policy refuses style attributes
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(tag, props, ...children) {
  return build(document.createElement(tag), props, children);
}

export function svg(tag, props, ...children) {
  return build(document.createElementNS(SVG, tag), props, children);
}

// A place on the page that is rebuilt only when the data it shows has changed: focus, selection
// and scrolling survive the polls in between.
export function slot(tag = "div", props = {}) {
  const element = h(tag, props);
  let seen;
  return {
    element,
    show(data, draw) {
      const signature = JSON.stringify(data);
      if (signature === seen) return;
      seen = signature;
      const drawn = draw();
      element.replaceChildren(...(drawn === null ? [] : [drawn].flat()));
    },
  };
}

// Only addresses of this service may become links.
export function ownPath(path) {
  return typeof path === "string" && /^\/(?!\/)/.test(path) ? path : null;
}

export function table(caption, headings, rows, empty) {
  if (rows.length === 0) return h("p", { class: "empty" }, empty);
  const head = headings.map((heading) => h("th", { scope: "col" }, heading));
  const body = rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

export function panel(title, ...content) {
  return h("section", { class: "panel" }, h("h2", {}, title), content);
}

export function badge(state) {
  return h("span", { class: "badge", "data-state": state }, state);
}
