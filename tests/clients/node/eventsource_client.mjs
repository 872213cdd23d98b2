// npm eventsource, driven by JSON lines. Arguments: URL, and optionally a token for the header.
import { EventSource } from "eventsource";
import { onCommand, print } from "./lines.mjs";

const [url, token] = process.argv.slice(2);
const source = new EventSource(url, {
  fetch: (input, init) =>
    fetch(input, token ? { ...init, headers: { ...init.headers, Authorization: `Bearer ${token}` } } : init),
});

for (const kind of ["connected", "notification", "heartbeat", "message"]) {
  source.addEventListener(kind, (event) => print({ event: kind, id: event.lastEventId, text: event.data }));
}
// "error" is the transport's when it carries no data, the gateway's when it does.
source.addEventListener("error", (event) =>
  print(event.data === undefined ? { event: "broken", status: event.code ?? null, state: source.readyState }
                                 : { event: "error", text: event.data }));

onCommand((command) => {
  if (command.close) {
    source.close();
    process.exit(0);
  }
});
