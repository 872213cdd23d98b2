// Sends and receives notifications: npm install ws eventsource
//
//   node client.mjs send USER EVENT_TYPE PAYLOAD      with ARA_API_KEY
//   node client.mjs websocket [CHANNEL...]            with ARA_TOKEN
//   node client.mjs sse                               with ARA_TOKEN
//
// ARA_URL is the gateway's address. What is received is printed, one line a notification.
import { randomUUID } from "node:crypto";
import { EventSource } from "eventsource";
import WebSocket from "ws";

const { ARA_URL = "http://127.0.0.1:8081", ARA_API_KEY, ARA_TOKEN } = process.env;
const bearer = { Authorization: `Bearer ${ARA_TOKEN}` };

// Your code. It may see a notification twice: its id tells.
function handle(notification) {
  console.log(JSON.stringify(notification));
}

async function post(path, headers, body) {
  const response = await fetch(ARA_URL + path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${response.status} ${answer.error.code}: ${answer.error.message}`);
  return answer;
}

// With the same key the request can be repeated after a failure: it is sent once.
const send = (user, eventType, payload) =>
  post("/api/v1/notifications/send", { "X-API-Key": ARA_API_KEY, "Idempotency-Key": randomUUID() },
    { target_user_id: user, event_type: eventType, payload });

function receiveByWebSocket(channels, attempt = 0) {
  const socket = new WebSocket(ARA_URL.replace("http", "ws") + "/ws", { headers: bearer });
  // Each attempt a little later than the one before, and not all clients at once.
  let pauseMs = Math.min(30_000, 500 * 2 ** attempt) * (0.5 + Math.random() / 2);
  socket.on("open", () => {
    attempt = 0;
    if (channels.length) socket.send(JSON.stringify({ type: "Subscribe", payload: { channels } }));
  });
  socket.on("message", (text) => {
    const message = JSON.parse(text);
    if (message.type === "notification") {
      handle(message);
      socket.send(JSON.stringify({ type: "Ack", payload: { notification_id: message.id } }));
    } else if (message.type === "shutdown") {
      pauseMs = message.reconnect_after_seconds * 1000;
    }
  });
  socket.on("error", (problem) => console.error(`connecting again: ${problem.message}`));
  socket.on("close", () => setTimeout(receiveByWebSocket, pauseMs, channels, attempt + 1));
}

function receiveBySse() {
  // It connects again by itself, with Last-Event-ID, when the gateway's `retry` is over.
  const source = new EventSource(ARA_URL + "/sse", {
    fetch: (url, options) => fetch(url, { ...options, headers: { ...options.headers, ...bearer } }),
  });
  source.addEventListener("notification", async (event) => {
    handle(JSON.parse(event.data));
    await post("/api/v1/acks", bearer, { notification_ids: [event.lastEventId] }).catch(console.error);
  });
  source.addEventListener("error", (event) => console.error(`connecting again: ${event.data ?? event.message}`));
}

const [command, ...rest] = process.argv.slice(2);
if (command === "send") console.log(JSON.stringify(await send(rest[0], rest[1], JSON.parse(rest[2]))));
else if (command === "websocket") receiveByWebSocket(rest);
else if (command === "sse") receiveBySse();
else throw new Error("use send, websocket or sse: see the head of this file");
