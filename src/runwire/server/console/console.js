"use strict";

// Relative to this page: a proxy may have put a prefix before all addresses.
const RUNS = new URL("api/agents/runs", document.baseURI).pathname;
const DOCS = new URL("docs/", document.baseURI).href;
const OVER = ["finished", "failed", "cancelled"];
const REFRESH_MS = 2000;
const RETRY_MS = 3000;
const LOOK_MS = 200;
const TIMELINE_MAX = 2000;

const at = (id) => document.getElementById(id);
let selected = null; // the run whose timeline is shown
let source = null; // its EventSource
let lastSeq = 0; // what the timeline has
let startedMs = 0;
let nodeStarts = new Map();
let retryTimer = 0;
let lookTimer = 0;
let token = sessionStorage.getItem("runwire.token") || ""; // of this tab; sent in a header, never in a URL

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function notify(text) {
  at("notice").textContent = text;
  at("notice").hidden = !text;
}

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) at("credentials").hidden = false;
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(body.detail || `HTTP ${response.status}`), { status: response.status });
  return body;
}

function duration(ms) {
  if (ms < 1000) return `${ms} ms`;
  if (ms < 60000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60000)} min ${Math.round((ms % 60000) / 1000)} s`;
}

// ---------------------------------------------------------------- runs

function runItem(run) {
  const item = element("li");
  if (run.runId === selected) item.setAttribute("aria-current", "true");
  const button = element("button");
  button.type = "button";
  const state = element("span", "state", run.state);
  state.dataset.state = run.state;
  const when = new Date(run.createdAt).toLocaleTimeString();
  const took = run.finishedAt && run.startedAt ? ` · ${duration(run.finishedAt - run.startedAt)}` : "";
  button.append(
    element("code", "", run.runId),
    state,
    element("small", "", `${run.agent} · ${when} · ${run.lastSeq} events${took}`),
  );
  button.addEventListener("click", () => select(run.runId));
  item.append(button);
  return item;
}

async function refresh() {
  try {
    const page = await call(`${RUNS}?limit=50`);
    const focused = document.activeElement && document.activeElement.closest("#runs li");
    const focusedAt = focused ? [...at("runs").children].indexOf(focused) : -1;
    at("runs").replaceChildren(...page.runs.map(runItem));
    if (focusedAt >= 0) at("runs").children[focusedAt]?.firstChild.focus();
    at("no-runs").hidden = page.runs.length > 0;
    const shown = page.runs.find((run) => run.runId === selected);
    if (shown) showState(shown.state);
    else if (selected && at("run-state").dataset.state && !OVER.includes(at("run-state").dataset.state)) lookSoon();
    if (at("notice").dataset.from === "refresh") notify("");
  } catch (error) {
    at("notice").dataset.from = "refresh";
    notify(`The list of runs cannot be read: ${error.message}`);
  }
}

async function keepRefreshing() {
  if (!document.hidden) await refresh();
  setTimeout(keepRefreshing, REFRESH_MS);
}

// ---------------------------------------------------------------- one run

function showState(state) {
  at("run-state").textContent = state;
  at("run-state").dataset.state = state;
  at("cancel").hidden = !state || OVER.includes(state);
}

// The run as the service has it, which alone knows its state: events say what happened, not what it waits for.
async function look(runId) {
  try {
    const run = await call(`${RUNS}/${encodeURIComponent(runId)}`);
    if (runId !== selected) return null;
    showState(run.state);
    return run;
  } catch (error) {
    if (runId === selected && error.status === 404) showNone();
    throw error;
  }
}

function lookSoon() {
  if (lookTimer) return;
  lookTimer = setTimeout(() => {
    lookTimer = 0;
    if (selected) look(selected).catch(() => {});
  }, LOOK_MS);
}

function showNone() {
  if (source) source.close();
  clearTimeout(retryTimer);
  showState("");
  showLink("no such run");
}

function showLink(link) {
  at("link").textContent = link;
  at("link").dataset.link = link;
}

async function select(runId) {
  if (source) source.close();
  clearTimeout(retryTimer);
  selected = runId;
  lastSeq = 0;
  startedMs = 0;
  nodeStarts = new Map();
  at("timeline").replaceChildren();
  at("run-id").textContent = runId;
  at("count").textContent = "";
  at("run").hidden = false;
  at("nothing").hidden = true;
  showState("");
  showLink("connecting");
  if (wanted() !== runId) history.replaceState(null, "", `#${encodeURIComponent(runId)}`);
  for (const item of at("runs").children) {
    if (item.querySelector("code").textContent === runId) item.setAttribute("aria-current", "true");
    else item.removeAttribute("aria-current");
  }
  try {
    if (await look(runId)) listen(runId);
  } catch (error) {
    if (runId === selected && error.status !== 404) retryTimer = setTimeout(() => resume(runId), RETRY_MS);
  }
}

// The run that the address names; null when it names none.
function wanted() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || null;
  } catch {
    return null; // a percent sign that escapes nothing
  }
}

// An EventSource sends no header: where a token is needed, its URL has a ticket that lives for a minute.
async function streamUrl(runId) {
  const path = `${RUNS}/${encodeURIComponent(runId)}`;
  const url = `${path}/stream?fromSeq=${lastSeq}`;
  if (!token) return url;
  const { ticket } = await call(`${path}/stream-ticket`, { method: "POST" });
  return `${url}&ticket=${ticket}`;
}

async function listen(runId) {
  showLink("connecting");
  let url;
  try {
    url = await streamUrl(runId);
  } catch (error) {
    if (runId === selected) retryTimer = setTimeout(() => resume(runId), RETRY_MS);
    return;
  }
  if (runId !== selected) return;
  if (source) source.close();
  const opened = new EventSource(url);
  source = opened;
  opened.onopen = () => showLink("live");
  opened.onmessage = (message) => show(JSON.parse(message.data));
  opened.addEventListener("end", (message) => {
    opened.close();
    showState(JSON.parse(message.data).state);
    showLink("ended");
  });
  opened.onerror = () => {
    if (opened !== source) return;
    showLink("reconnecting");
    if (opened.readyState !== EventSource.CLOSED) return; // the browser reconnects by itself
    // It has given up: the run is over and all of it is here (204), the ticket is too old, or the server refused.
    retryTimer = setTimeout(() => resume(runId), RETRY_MS);
  };
}

async function resume(runId) {
  try {
    const run = await look(runId);
    if (!run) return;
    if (run.outcome && lastSeq >= run.lastSeq) showLink("ended");
    else listen(runId);
  } catch (error) {
    if (runId === selected && error.status !== 404) retryTimer = setTimeout(() => resume(runId), RETRY_MS);
  }
}

function show(event) {
  lastSeq = event.seq;
  if (event.type === "RunStarted") startedMs = event.ts;
  if (!OVER.includes(at("run-state").dataset.state)) lookSoon();
  let took = "";
  if (event.type === "NodeStarted") nodeStarts.set(event.name, event.ts);
  if (event.type === "NodeFinished" && nodeStarts.has(event.name)) took = duration(event.ts - nodeStarts.get(event.name));
  if (event.type === "RunFinished" && startedMs) took = duration(event.ts - startedMs);

  const item = element("li", event.type);
  if ((event.fn || "").startsWith("error:")) item.classList.add("error");
  const time = element("time", "", new Date(event.ts).toLocaleTimeString());
  time.dateTime = new Date(event.ts).toISOString();
  item.append(
    element("span", "seq", event.seq),
    time,
    element("span", "type", event.type),
    element("span", "what", event.name || event.fn || ""),
    element("span", "took", took),
  );
  const timeline = at("timeline");
  timeline.append(item);
  if (timeline.children.length > TIMELINE_MAX) timeline.firstChild.remove();
  at("count").textContent = `${event.seq} events`;
}

// ---------------------------------------------------------------- actions

at("cancel").addEventListener("click", async () => {
  try {
    await call(`${RUNS}/${encodeURIComponent(selected)}/cancel`, { method: "POST" });
  } catch (error) {
    notify(error.message);
  }
});

at("credentials").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const field = at("credentials").elements.token;
  token = field.value.trim();
  sessionStorage.setItem("runwire.token", token);
  field.value = "";
  at("credentials").hidden = true;
  refresh();
  if (selected) select(selected);
});

const form = at("start");

function fitForm() {
  const explore = form.elements.agent.value === "explore";
  form.elements.site.hidden = !explore;
  form.elements.site.required = explore;
  form.querySelector(".delay").hidden = explore;
  if (explore && !form.elements.site.value) form.elements.site.value = DOCS;
}

form.elements.agent.addEventListener("change", fitForm);

form.addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const agent = form.elements.agent.value;
  const input =
    agent === "explore"
      ? { site: form.elements.site.value }
      : { delay_ms: Math.max(0, Math.round(Number(form.elements.delay.value) || 0)) };
  try {
    const started = await call(RUNS, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ agent, input }),
    });
    notify("");
    select(started.runId);
    refresh();
  } catch (error) {
    at("notice").dataset.from = "start";
    notify(`The run was not started: ${error.message}`);
  }
});

fitForm();
addEventListener("hashchange", () => {
  const runId = wanted();
  if (runId && runId !== selected) select(runId);
});
if (wanted()) select(wanted());
keepRefreshing();
