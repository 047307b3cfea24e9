// Follows a stream with the package `eventsource`, as its readme shows, and prints what happens, a JSON line each.
import { EventSource } from "eventsource";

const print = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const source = new EventSource(process.argv[2]);
// An EventSource that waits to come back keeps no process alive: this does, until a while after it was closed.
const alive = setInterval(() => {}, 1000);
source.onopen = () => print({ what: "open" });
source.onmessage = (message) => print({ what: "event", id: message.lastEventId, data: message.data });
source.addEventListener("end", (message) => print({ what: "end", data: message.data }));
source.onerror = () => {
  const closed = source.readyState === EventSource.CLOSED;
  print({ what: "error", closed });
  if (closed) setTimeout(() => clearInterval(alive), 500);
};
