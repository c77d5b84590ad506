// Requests to the console, which passes them on to the launcher.

const PATIENCE = 15_000; // milliseconds for an answer to a question

/** Why something was not done; `status` 0: no answer at all; `busy`: something uses the disk. */
export class Problem extends Error {
  constructor(status, text, busy = false) {
    super(text);
    this.status = status;
    this.busy = busy;
  }
}

let csrf = "";

async function request(method, path, body) {
  const headers = {};
  if (method !== "GET") headers["X-Userdisk-CSRF"] = csrf;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method, headers, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) options.body = JSON.stringify(body);
  if (method === "GET") options.signal = AbortSignal.timeout(PATIENCE);
  let response;
  let text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    if (error.name === "TimeoutError") throw new Problem(504, "no answer yet; trying again");
    throw new Problem(0, "the console does not answer: has it ended? Type: userdisk console");
  }
  if (response.ok) return text;
  throw problem(response.status, text);
}

function problem(status, text) {
  try {
    const { error, busy } = JSON.parse(text);
    return new Problem(status, String(error), busy === true);
  } catch {
    return new Problem(status, `the answer has status ${status}`);
  }
}

const get = async (path) => JSON.parse(await request("GET", path));
const at = (id) => `/api/v1/instances/${encodeURIComponent(id)}`;

/** Log in with the token of a link. */
export const login = (token) => request("POST", "/login", { token });

export const logout = () => request("POST", "/logout");

/** Who is logged in; needed before anything is changed. */
export async function session() {
  const found = await get("/session");
  csrf = found.csrf;
  return found;
}

export const service = () => get("/api/v1/service");
export const classes = async () => (await get("/api/v1/classes")).classes;
export const instances = async () => (await get("/api/v1/instances")).instances;
export const stats = async () => (await get("/api/stats")).instances;
export const log = (id) => request("GET", `${at(id)}/log?lines=200`);

export async function start(kind, name, args) {
  return JSON.parse(await request("POST", "/api/v1/instances", { class: kind, name, arguments: args }));
}

export async function mount(id, folder) {
  return JSON.parse(await request("POST", `${at(id)}/mount`, { folder }));
}

export async function unmount(id) {
  return JSON.parse(await request("POST", `${at(id)}/unmount`, { force: false }));
}

/** Unmount, detach, flush and end a disk; returns remarks for people. */
export async function stop(id, force) {
  return JSON.parse(await request("DELETE", `${at(id)}?force=${force}`)).remarks;
}
