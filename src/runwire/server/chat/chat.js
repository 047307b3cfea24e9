// The page. Its state is the service's: the list of a session's runs, and their streams. A reload forgets nothing.

import { made } from "./markdown.js";
import { bytes, call, follow, useToken } from "./service.js";
import { Turn } from "./turn.js";
import { TurnView } from "./view.js";

const AGENT = "chat";
const TURNS_MAX = 50;
const STREAMS_MAX = 2; // of six connections that a browser opens to a host; the session has one, too
const CONVERSATIONS_MAX = 12;
const HISTORY_TURNS = 10;
const MESSAGE_CHARS = 20000;
const PAINT_MS = 30;
const RETRY_MS = 3000;

const at = (id) => document.getElementById(id);
let session = null; // the conversation on the screen
let turns = new Map(); // its turns, by run
let streams = []; // what is followed, to be closed with it
let queue = []; // turns to follow
let following = 0;
let earliest = 0;
let unsent = { text: "", key: "" };
const titles = new Map(); // of conversations
const mine = new Set(); // runs that this tab has started

// ---------------------------------------------------------------- a conversation

async function open(wanted) {
  for (const stream of streams) stream.close();
  [session, turns, streams, queue, following, earliest] = [wanted, new Map(), [], [], 0, 0];
  at("turns").replaceChildren();
  at("earlier").hidden = true;
  at("welcome").hidden = Boolean(wanted);
  at("link").textContent = "";
  notify("");
  compose();
  list();
  if (!wanted) return;
  try {
    const page = await call(`runs?session=${encodeURIComponent(wanted)}&agent=${AGENT}&limit=${TURNS_MAX}`);
    if (session !== wanted) return;
    at("earlier").hidden = !page.nextCursor;
    if (page.nextCursor) earliest = Math.min(...page.runs.map((run) => run.createdAt));
    for (const run of page.runs.reverse()) add(run);
    listen(wanted);
  } catch (error) {
    if (session !== wanted) return;
    notify(`The conversation cannot be read: ${error.message}`);
    if (temporary(error)) setTimeout(() => session === wanted && open(wanted), RETRY_MS);
  }
}

/** Hears of runs that start later, in this tab or in another one. */
function listen(wanted) {
  const name = `session=${encodeURIComponent(wanted)}`;
  const stream = { path: "stream", query: { session: wanted }, ticket: `stream-ticket?${name}` };
  const asked = new Set();
  streams.push(
    follow(stream, {
      link,
      async event({ runId }) {
        if (turns.has(runId) || asked.has(runId)) return;
        asked.add(runId);
        try {
          const run = await call(`runs/${encodeURIComponent(runId)}`);
          if (session === wanted && run.agent === AGENT && run.createdAt >= earliest) add(run);
        } catch {
          asked.delete(runId); // its next event asks again
        }
      },
    }),
  );
}

function add(run) {
  if (turns.has(run.runId)) return turns.get(run.runId);
  const turn = new Turn(run);
  turn.view = new TurnView(turn, { decide, download });
  turns.set(turn.runId, turn);
  const after = [...turns.values()].sort(inOrder);
  const next = after[after.indexOf(turn) + 1];
  at("turns").insertBefore(turn.view.element, next?.view.element ?? null);
  paint(turn);
  queue.push(turn);
  queue.sort(inOrder);
  pump();
  return turn;
}

const inOrder = (a, b) => a.createdAt - b.createdAt || (a.runId < b.runId ? -1 : 1);

/** Follows the newest turns first. */
function pump() {
  while (following < STREAMS_MAX && queue.length) {
    following += 1;
    watch(queue.pop());
  }
}

function watch(turn) {
  const path = `runs/${encodeURIComponent(turn.runId)}`;
  const here = session;
  const over = (state) => {
    turn.end(state);
    stream.close();
    if (session !== here) return;
    following -= 1;
    paint(turn);
    pump();
    if (mine.has(turn.runId)) say(turn.view.note.textContent || "The answer is complete.");
    list();
  };
  const stream = follow(
    { path: `${path}/stream`, query: { parts: "*" }, ticket: `${path}/stream-ticket` },
    {
      event(event) {
        turn.event(event);
        paint(turn);
        if (turn.asking) say("Your approval is needed.");
      },
      part(piece) {
        turn.piece(piece);
        paint(turn);
        if (piece.part === 1) list(); // the question, by which a conversation is called
      },
      end: ({ state }) => over(state),
      restart: () => turn.restart(),
      async refused() {
        const run = await call(path);
        if (!run.outcome || turn.seq < run.lastSeq) return false;
        over(run.outcome); // all of it is here
        return true;
      },
    },
  );
  streams.push(stream);
}

const temporary = ({ status }) => !status || status >= 500 || status === 429;

/** Shows the turn as it is, soon. A timer, not a frame: a tab in the background has no frames. */
function paint(turn) {
  if (turn.painting) return;
  turn.painting = setTimeout(() => {
    turn.painting = 0;
    const page = document.documentElement;
    const atEnd = page.scrollHeight - page.clientHeight - page.scrollTop < 80;
    turn.view.update();
    compose();
    if (atEnd) scrollTo(0, page.scrollHeight);
  }, PAINT_MS);
}

// ---------------------------------------------------------------- the message

const live = () => [...turns.values()].filter((turn) => !turn.over).sort(inOrder).at(-1);

function compose() {
  const busy = Boolean(live());
  at("stop").hidden = !busy;
  at("send").hidden = busy;
}

async function send(text) {
  if (!text || live()) return;
  if (unsent.text !== text) unsent = { text, key: random() }; // sent again, it counts once
  const conversation = session ?? `chat-${random()}`;
  const input = { messages: [...history(), { role: "user", text }] };
  try {
    at("send").disabled = true;
    const headers = { "Idempotency-Key": unsent.key };
    const { runId } = await call("runs", { method: "POST", headers, body: { agent: AGENT, session: conversation, input } });
    unsent = { text: "", key: "" };
    at("message").value = "";
    fit();
    notify("");
    mine.add(runId);
    if (session === conversation) add({ runId, createdAt: Date.now() }).sent = text;
    else go(conversation);
    scrollTo(0, document.documentElement.scrollHeight);
  } catch (error) {
    notify(`The message was not sent: ${error.message}`);
  } finally {
    at("send").disabled = false;
  }
}

/** What has been said so far, for a model that remembers nothing. */
function history() {
  const told = [...turns.values()].sort(inOrder).filter((turn) => turn.over && turn.question && turn.answer);
  return told.slice(-HISTORY_TURNS).flatMap((turn) => [
    { role: "user", text: turn.question },
    { role: "assistant", text: [...turn.answer].slice(0, MESSAGE_CHARS).join("") },
  ]);
}

const random = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

async function stop() {
  const turn = live();
  if (!turn) return;
  try {
    await call(`runs/${encodeURIComponent(turn.runId)}/cancel`, { method: "POST" });
  } catch (error) {
    notify(error.message);
  }
}

/** Whether the decision is stored. Its id makes a second click, or a second tab, count once. */
async function decide(turn, n, name, comment) {
  try {
    const body = { name, data: { comment }, id: `proposal-${n}` };
    await call(`runs/${encodeURIComponent(turn.runId)}/signal`, { method: "POST", body });
    return true;
  } catch (error) {
    const decided = error.code === "signal_conflict" || error.code === "run_closed";
    notify(decided ? "Somebody has decided already." : error.message);
    return decided;
  }
}

async function download(turn, { n, name }) {
  try {
    const url = URL.createObjectURL(await bytes(`runs/${encodeURIComponent(turn.runId)}/artifacts/${n}`));
    const anchor = Object.assign(made("a"), { href: url, download: name });
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  } catch (error) {
    notify(error.message);
  }
}

// ---------------------------------------------------------------- the list of conversations

async function list() {
  let runs;
  try {
    ({ runs } = await call(`runs?agent=${AGENT}&limit=100`));
  } catch {
    return; // the conversation says so, too
  }
  const first = new Map(); // run of each conversation, the latest conversation first
  for (const run of runs) if (run.session) first.set(run.session, run);
  const shown = [...first].slice(0, CONVERSATIONS_MAX);
  await Promise.all(shown.map(([name, run]) => title(name, run)));
  at("conversations").replaceChildren(
    ...shown.map(([name]) => {
      const link = made("a", "", titles.get(name) ?? name);
      link.href = `?c=${encodeURIComponent(name)}`;
      if (name === session) link.setAttribute("aria-current", "page");
      link.addEventListener("click", (clicked) => within(clicked, name));
      const item = made("li");
      item.append(link);
      return item;
    }),
  );
}

/** A conversation is called by its first message. */
async function title(name, run) {
  if (titles.has(name)) return;
  let text = turns.get(run.runId)?.question;
  try {
    const path = `runs/${encodeURIComponent(run.runId)}/parts`;
    const [question] = text ? [] : (await call(path)).parts;
    if (question) text = await (await bytes(`${path}/${question.part}?offset=-1`)).text();
  } catch {
    // it keeps its name until the next time
  }
  if (text) titles.set(name, text.slice(0, 80));
}

function within(clicked, name) {
  if (clicked.metaKey || clicked.ctrlKey || clicked.shiftKey) return; // a new tab
  clicked.preventDefault();
  go(name);
  at("message").focus();
}

function go(name) {
  address(name);
  fold(true);
  open(name);
}

function address(name) {
  window.history.pushState(null, "", name ? `?c=${encodeURIComponent(name)}` : "./");
}

// ---------------------------------------------------------------- the page

function notify(text) {
  at("notice").textContent = text;
  at("notice").hidden = !text;
}

function say(text) {
  at("said").textContent = text;
}

function link(state) {
  at("link").dataset.link = state;
  at("link").textContent = state === "live" ? "Live." : "Reconnecting …";
}

function fold(folded) {
  at("menu").setAttribute("aria-expanded", String(!folded));
}

function fit() {
  at("message").style.height = "auto";
  at("message").style.height = `${Math.min(at("message").scrollHeight, 200)}px`;
}

at("composer").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  send(at("message").value.trim());
});
at("message").addEventListener("input", fit);
at("message").addEventListener("keydown", (pressed) => {
  if (pressed.key !== "Enter" || pressed.shiftKey || pressed.isComposing) return;
  pressed.preventDefault();
  send(at("message").value.trim());
});
at("stop").addEventListener("click", stop);
at("new").addEventListener("click", (clicked) => within(clicked, null));
at("menu").addEventListener("click", () => fold(at("menu").getAttribute("aria-expanded") === "true"));
for (const idea of document.querySelectorAll(".idea")) idea.addEventListener("click", () => send(idea.textContent));
at("credentials").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const field = at("credentials").elements.token;
  useToken(field.value.trim());
  field.value = "";
  at("credentials").hidden = true;
  open(session);
});
document.addEventListener("unauthenticated", () => (at("credentials").hidden = false));
document.addEventListener("visibilitychange", () => document.hidden || list());
addEventListener("keydown", (pressed) => pressed.key === "Escape" && stop());
const named = () => new URLSearchParams(location.search).get("c");
addEventListener("popstate", () => open(named()));
open(named());
if (matchMedia("(hover: hover)").matches) at("message").focus(); // elsewhere a keyboard would cover the page
