// One run as the page knows it: what its stream has said so far, folded into the parts that a person sees.

export const OVER = ["finished", "failed", "cancelled"];

export class Turn {
  constructor({ runId, createdAt, state = "pending" }) {
    this.runId = runId;
    this.createdAt = createdAt;
    this.state = state;
    this.sent = ""; // the message, if it was sent from this tab
    this.restart();
  }

  /** Forgets what the stream has said. */
  restart() {
    this.seq = 0;
    this.parts = new Map(); // by number, which is their order
    this.asking = false;
    this.resumed = false;
    this.error = "";
  }

  get over() {
    return OVER.includes(this.state);
  }

  get question() {
    return this.texts("question")[0] ?? this.sent;
  }

  /** The words of its answers. */
  get answer() {
    return this.texts("answer").join("\n\n");
  }

  texts(name) {
    return [...this.parts.values()].filter((part) => part.name === name && part.text).map((part) => part.text);
  }

  /** An event says what happens. It has no payload. */
  event({ seq, type, name, fn = "" }) {
    this.seq = seq;
    if (!this.over) this.state = "started";
    if (type === "NodeStarted") this.asking = false;
    if (type === "NodeFinished" && name === "Propose") this.asking = true;
    if (fn === "orchestrator.resumed") this.resumed = true;
    const [about, what, detail, step] = fn.split(":");
    if (about === "error") this.error = what;
    if (about === "part") this.step(what, Number(detail), step);
  }

  step(name, n, step) {
    if (!this.parts.has(n)) this.parts.set(n, { n, name, text: "", state: step });
    this.parts.get(n).state = step; // opened, sealed or abandoned
  }

  /** A piece has bytes. They come after the event that opened their part, and each comes once. */
  piece({ part: n, text = "", reset }) {
    const part = this.parts.get(n);
    part.text = reset ? text : part.text + text; // reset: a new attempt has begun, so the half of the last one goes
  }

  end(state) {
    this.state = state;
    this.asking = false;
  }
}

/** The values of a part that has a JSON object in each line. The last line may be on its way. */
export function lines(part) {
  return part.text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line));
}
