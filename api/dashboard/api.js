// Reads the REST API: remembers ETags, sends the key if one was given, turns problems into errors.

const KEY = "secateur-key";
const remembered = new Map();

export class ProblemError extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `HTTP ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

export function rememberKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

function headers(extra = {}) {
  const key = sessionStorage.getItem(KEY);
  return { Accept: "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}), ...extra };
}

async function refuse(response) {
  const problem = await response.json().catch(() => ({}));
  throw new ProblemError(response.status, problem);
}

// An answer that is asked for once, as what changed since a moment: nothing of it is remembered.
export async function news(path) {
  const response = await fetch(path, { headers: headers(), cache: "no-store" });
  return response.ok ? response.json() : refuse(response);
}

export async function get(path) {
  const old = remembered.get(path);
  const condition = old ? { "If-None-Match": old.etag } : {};
  const response = await fetch(path, { headers: headers(condition), cache: "no-store" });
  if (response.status === 304) return old.body;
  if (!response.ok) return refuse(response);
  const body = await response.json();
  const etag = response.headers.get("ETag");
  if (etag) remembered.set(path, { etag, body });
  return body;
}

export async function post(path, document = null) {
  const sent = document === null ? { headers: headers() }
    : { headers: { ...headers(), "content-type": "application/json" }, body: JSON.stringify(document) };
  const response = await fetch(path, { method: "POST", ...sent });
  return response.ok ? response.json() : refuse(response);
}

export async function download(path, name) {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok) return refuse(response);
  const address = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

export async function all(path, limit = 200) {
  const items = [];
  let after = null;
  do {
    const query = after === null ? `?limit=${limit}` : `?limit=${limit}&after=${encodeURIComponent(after)}`;
    const page = await get(path + query);
    items.push(...page.items);
    after = page.next;
  } while (after !== null && items.length < 5000);
  return items;
}
