// The server's endpoints, and its errors in one line for people.

const LOST = "The connection to the server was lost. What you chose and typed is still here: try again.";
const SILENT = "The server does not answer. Check that it is still running, then try again.";

class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

let token = sessionStorage.getItem("token") ?? "";

export function setToken(given) {
  token = given;
  sessionStorage.setItem("token", given);
}

/** The form of a study, as every endpoint for one takes it. */
export function studyForm(files, fields) {
  const form = new FormData();
  for (const file of files) form.append("files", file);
  for (const [name, value] of Object.entries(fields)) if (value) form.append(name, value);
  return form;
}

export async function getJson(path) {
  return (await ask(path, {})).json();
}

export async function getText(path) {
  return (await ask(path, {})).text();
}

/** A file that belongs to the page. */
export async function getFile(path, name) {
  return new File([await (await ask(path, {})).blob()], name);
}

export function post(path, form, signal) {
  return ask(path, { method: "POST", body: form, signal });
}

/** The events of a stream as [name, values], one after the other. */
export async function* postForEvents(path, form, signal) {
  const response = await post(path, form, signal);
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let ended = false;
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new ServerError(LOST);
    });
    if (done && ended) return;
    if (done) throw new ServerError(LOST);
    rest += decoder.decode(value, { stream: true });
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const text of events) {
      const name = /^event: (.*)$/m.exec(text)?.[1];
      const data = /^data: (.*)$/m.exec(text)?.[1];
      if (name === "error") throw new ServerError(line(JSON.parse(data)));
      ended = name === "done";
      if (name) yield [name, JSON.parse(data)];
    }
  }
}

async function ask(path, options) {
  let response;
  try {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError(SILENT);
  }
  if (response.ok) return response;
  const said = line(await response.json().catch(() => null)) ?? `The server answered ${response.status}.`;
  const wait = response.headers.get("Retry-After");
  throw new ServerError(wait ? `${said} Try again in ${wait} s.` : said, response.status);
}

function line(body) {
  const message = body?.error?.message;
  if (!message) return null;
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
