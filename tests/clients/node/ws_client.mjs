// npm ws, driven by JSON lines. Arguments: URL, and optionally a JSON object {protocols, options}.
// Commands: {"send": text} {"ping": text} {"close": [code, reason]}.
import WebSocket from "ws";
import { onCommand, print } from "./lines.mjs";

const [url, settings = "{}"] = process.argv.slice(2);
const { protocols = [], options = {} } = JSON.parse(settings);
const socket = new WebSocket(url, protocols, options);

socket.on("open", () => print({ event: "open", protocol: socket.protocol }));
socket.on("message", (data, binary) => print({ event: "message", binary, text: data.toString() }));
socket.on("ping", () => print({ event: "ping" }));
socket.on("pong", (data) => print({ event: "pong", text: data.toString() }));
socket.on("unexpected-response", (_request, response) => {
  let body = "";
  response.on("data", (part) => (body += part));
  response.on("end", () => {
    print({ event: "refused", status: response.statusCode, body });
    process.exit(0);
  });
});
socket.on("error", (error) => print({ event: "error", message: error.message }));
socket.on("close", (code, reason) => {
  print({ event: "close", code, reason: reason.toString() });
  process.exit(0);
});

onCommand((command) => {
  if (command.send !== undefined) socket.send(command.send);
  if (command.ping !== undefined) socket.ping(command.ping);
  if (command.close !== undefined) socket.close(...command.close);
});
