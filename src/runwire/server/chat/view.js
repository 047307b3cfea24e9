// A turn on the screen. Each part has one element, which changes in place.

import { made, show } from "./markdown.js";
import { lines } from "./turn.js";

const ERRORS = {
  model_unavailable: "The model does not answer.",
  model_refused: "The model refused the request.",
  timeout: "The answer took too long.",
};
const DECISIONS = { approve: "Approved", reject: "Rejected", timeout: "Nobody answered" };

export class TurnView {
  /** `actions` has `decide(turn, part, name, comment)` and `download(turn, file)`. */
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.nodes = new Map(); // of parts, by number
    this.question = made("p", "question");
    this.parts = made("div", "parts");
    this.status = made("p", "status");
    this.note = made("span");
    this.run = made("a", "run", "Events");
    this.run.href = `../#${encodeURIComponent(turn.runId)}`;
    this.run.title = "The events of this run, in the console";
    this.status.append(this.note, this.run);
    this.element = made("li", "turn");
    this.element.dataset.run = turn.runId;
    this.element.append(this.question, this.parts, this.status);
  }

  update() {
    const { turn } = this;
    this.element.dataset.state = turn.asking ? "asking" : turn.state;
    this.element.setAttribute("aria-busy", String(!turn.over && !turn.asking));
    this.question.textContent = turn.question || "…";
    for (const [n, node] of this.nodes) {
      if (turn.parts.has(n)) continue;
      node.element.remove();
      this.nodes.delete(n);
    }
    const parts = [...turn.parts.values()].filter((part) => part.name !== "question");
    for (const part of parts.sort((a, b) => a.n - b.n)) this.node(part).update(part);
    this.note.textContent = note(turn);
  }

  node(part) {
    if (!this.nodes.has(part.n)) {
      const Kind = KINDS[part.name] ?? Words;
      const node = new Kind(this.turn, this.actions);
      node.element.dataset.part = part.name;
      this.nodes.set(part.n, node);
      this.parts.append(node.element);
    }
    return this.nodes.get(part.n);
  }
}

function note(turn) {
  const resumed = turn.resumed ? " Another worker took over." : "";
  if (turn.state === "failed") return ERRORS[turn.error] ?? `The run failed: ${turn.error || "unknown"}.`;
  if (turn.state === "cancelled") return `Stopped.${resumed}`;
  if (turn.state === "finished") return resumed.trim();
  if (turn.asking) return `Waiting for you.${resumed}`;
  if (turn.state === "pending") return "Waiting for a worker …";
  const abandoned = [...turn.parts.values()].at(-1)?.state === "abandoned";
  return abandoned ? "The worker is gone. Another one begins again …" : `Working …${resumed}`;
}

class Words {
  constructor() {
    this.element = made("div", "words");
  }

  update(part) {
    this.element.dataset.state = part.state;
    this.element.hidden = !part.text;
    show(this.element, part.text);
  }
}

class Tool {
  constructor() {
    this.element = made("p", "tool");
  }

  update(part) {
    const [called, result] = lines(part);
    this.element.dataset.state = result ? "done" : part.state;
    this.element.hidden = !called;
    if (called) this.element.textContent = described(called, result);
  }
}

function described({ tool, arguments: given }, result) {
  const values = parsed(given);
  const about = tool === "distance" ? `${values.origin} → ${values.destination}` : Object.values(values).join(", ");
  if (!result) return `${tool}: ${about} …`;
  const said = result.error ?? (result.km === undefined ? JSON.stringify(result) : `${result.km.toLocaleString("en")} km`);
  return `${tool}: ${about} · ${said}`;
}

function parsed(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {}; // a model wrote it
  }
}

class Proposal {
  constructor(turn, actions) {
    this.turn = turn;
    this.element = made("section", "proposal");
    this.element.setAttribute("aria-label", "Approval");
    this.title = made("h2");
    this.text = made("div", "words");
    this.form = made("form");
    this.form.hidden = true;
    this.comment = made("textarea");
    this.comment.rows = 2;
    this.comment.maxLength = 2000;
    const label = made("label", "", "Comment, if you like");
    label.append(this.comment);
    this.buttons = ["approve", "reject"].map((name) => {
      const button = made("button", name, name === "approve" ? "Approve" : "Reject");
      button.value = name;
      return button;
    });
    const row = made("p", "row");
    row.append(...this.buttons);
    this.form.append(label, row);
    this.form.addEventListener("submit", async (submitted) => {
      submitted.preventDefault();
      this.busy(true);
      const decided = await actions.decide(turn, this.n, submitted.submitter?.value ?? "approve", this.comment.value.trim());
      if (!decided) this.busy(false);
    });
    this.details = made("details");
    this.details.append(made("summary", "", "The text"), this.text);
    this.element.append(this.title, this.details, this.form);
  }

  busy(busy) {
    for (const button of this.buttons) button.disabled = busy;
  }

  update(part) {
    this.n = part.n;
    const [call] = lines(part);
    this.element.hidden = !call;
    if (!call) return;
    const values = parsed(call.arguments);
    this.title.textContent = call.tool === "save_note" ? `May I save “${values.title}”?` : `May I use ${call.tool}?`;
    show(this.text, String(values.text ?? call.arguments));
    const asking = this.turn.asking && part.n === Math.max(...this.turn.parts.keys());
    if (asking === this.form.hidden) this.details.open = asking; // it closes with the decision
    this.form.hidden = !asking;
  }
}

class Decided {
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.element = made("p", "decision");
    this.name = made("strong");
    this.comment = made("q");
    this.file = made("button", "file");
    this.file.type = "button";
    this.element.append(this.name, this.comment, this.file);
  }

  update(part) {
    const [decision, result] = lines(part);
    this.element.hidden = !decision;
    if (!decision) return;
    this.element.dataset.decision = decision.decision;
    this.name.textContent = DECISIONS[decision.decision];
    this.comment.textContent = decision.comment;
    this.comment.hidden = !decision.comment;
    const file = result?.file;
    this.file.hidden = !file;
    if (!file) return;
    this.file.textContent = `${file.name}, ${file.size} bytes`;
    this.file.onclick = () => this.actions.download(this.turn, file);
  }
}

const KINDS = { answer: Words, tool: Tool, proposal: Proposal, decision: Decided };
