// The service: requests with the tab's token, and streams that come back until they are closed.

// Relative to this page: a proxy may have put a prefix before all addresses.
const ROOT = new URL("../api/agents/", document.baseURI).pathname;
const RETRY_MS = 2000;
const REFUSALS_MAX = 3;

let token = sessionStorage.getItem("runwire.token") || ""; // of this tab; sent in a header, never in a URL

export function useToken(text) {
  token = text;
  sessionStorage.setItem("runwire.token", text);
}

async function answered(path, { method = "GET", body, headers = {} } = {}) {
  const sent = { ...headers };
  if (token) sent.Authorization = `Bearer ${token}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  const response = await fetch(ROOT + path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body) });
  if (response.ok) return response;
  if (response.status === 401) document.dispatchEvent(new Event("unauthenticated"));
  const problem = await response.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail || `HTTP ${response.status}`), { status: response.status, code: problem.code });
}

/** The JSON that the service answers. Throws an Error with `status` and `code`. */
export async function call(path, options) {
  return (await answered(path, options)).json();
}

/** The bytes that the service answers. */
export async function bytes(path) {
  return (await answered(path)).blob();
}

/**
 * Follows a stream until `close` is called. The browser reconnects by itself and sends the last id. When it has given up,
 * because of a ticket that is too old for example, a new EventSource resumes at that id.
 *
 * `handle` has a function for each kind of message: `event`, `part` and `end`. `link` hears "live" and "reconnecting".
 * `refused` hears that the browser has given up. It may answer true: then nothing is left to follow. `restart` hears that
 * the next message is the first one again, because the service knows the id no more.
 */
export function follow({ path, query, ticket }, handle) {
  let source = null;
  let timer = 0;
  let lastId = "";
  let refusals = 0;
  let closed = false;

  async function open() {
    const asked = new URLSearchParams(query);
    if (lastId) asked.set("lastEventId", lastId);
    try {
      if (token) asked.set("ticket", (await call(ticket, { method: "POST" })).ticket);
    } catch {
      return later();
    }
    if (closed) return;
    source = new EventSource(`${ROOT}${path}?${asked}`);
    source.onopen = () => {
      refusals = 0;
      handle.link?.("live");
    };
    for (const [type, name] of [["message", "event"], ["part", "part"], ["end", "end"]]) {
      source.addEventListener(type, (message) => {
        if (message.lastEventId) lastId = message.lastEventId;
        handle[name]?.(JSON.parse(message.data));
      });
    }
    source.onerror = async () => {
      handle.link?.("reconnecting");
      if (source.readyState !== EventSource.CLOSED || closed) return; // the browser reconnects by itself
      if (await Promise.resolve(handle.refused?.()).catch(() => false)) return close();
      refusals += 1;
      if (refusals >= REFUSALS_MAX && lastId) {
        lastId = "";
        handle.restart?.();
      }
      later();
    };
  }

  function later() {
    if (!closed) timer = setTimeout(open, RETRY_MS);
  }

  function close() {
    closed = true;
    clearTimeout(timer);
    source?.close();
  }

  open();
  return { close };
}
