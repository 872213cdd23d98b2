"""The clients of the suite, thin wrappers around libraries that are not ours.

`WebSocket` is PyPI websockets, `EventStream` is PyPI httpx-sse, `LineProcess` is any program that
prints one JSON value a line (the node scripts, curl).
"""

import asyncio
import contextlib
import json
import os
import signal
import ssl
from pathlib import Path

import httpx
import httpx_sse
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import openapi
from gateway import HERE, Gateway, make_token

PATIENCE_S = 5.0
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the system's certificates would take longer than a test


def check_handshake(response):
    """Holds the answer to a WebSocket handshake against the document."""
    headers = {name.lower(): value for name, value in response.headers.raw_items()}
    openapi.document.check("GET", "/ws", response.status_code, headers, response.body)


class WebSocket:
    """A connected client. Use as `async with WebSocket(gateway, "user") as client`."""

    def __init__(self, gateway: Gateway, user: str = "", *, token: str | None = None, claims: dict | None = None,
                 url: str | None = None, **options):
        token = token or make_token(user, **(claims or {}))
        self.user = user
        self._connect = connect(
            url or gateway.ws_url(token),
            **({"compression": None, "ping_interval": None, "proxy": None, "open_timeout": PATIENCE_S} | options),
        )

    async def __aenter__(self) -> "WebSocket":
        try:
            self.socket = await self._connect
        except InvalidStatus as refused:
            check_handshake(refused.response)
            raise
        check_handshake(self.socket.response)
        try:
            self.connected = await self.expect("connected")
        except BaseException:
            await self.socket.close()
            raise
        return self

    async def __aexit__(self, *_):
        await self.socket.close()

    async def send(self, message):
        await self.socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    async def text(self, patience_s: float = PATIENCE_S) -> str:
        """The next message as it was received, heartbeats left out."""
        async with asyncio.timeout(patience_s):
            while True:
                text = await self.socket.recv(decode=True)
                message = json.loads(text)
                openapi.document.check_message(message)
                if message["type"] != "heartbeat":
                    return text

    async def next(self, patience_s: float = PATIENCE_S) -> dict:
        return json.loads(await self.text(patience_s))

    async def expect(self, kind: str, patience_s: float = PATIENCE_S) -> dict:
        message = await self.next(patience_s)
        assert message["type"] == kind, f"expected {kind}, received {message}"
        return message

    async def notification(self, patience_s: float = PATIENCE_S) -> dict:
        return await self.expect("notification", patience_s)

    async def subscribe(self, *channels: str):
        await self.send({"type": "Subscribe", "payload": {"channels": list(channels)}})
        answer = await self.expect("subscribed")
        assert sorted(answer["payload"]) == sorted(channels), answer

    async def unsubscribe(self, *channels: str):
        await self.send({"type": "Unsubscribe", "payload": {"channels": list(channels)}})
        answer = await self.expect("unsubscribed")
        assert sorted(answer["payload"]) == sorted(channels), answer

    async def ack(self, notification_id: str):
        """Acknowledges a notification, which must have awaited it."""
        await self.send({"type": "Ack", "payload": {"notification_id": notification_id}})
        assert await self.expect("acked") == {"type": "acked", "notification_id": notification_id}

    async def error(self, code: str) -> dict:
        message = await self.expect("error")
        assert message["code"] == code, message
        assert message["message"], message
        return message

    async def assert_nothing_waits(self):
        """Nothing was sent to this client: what it receives next is the answer to its ping."""
        await self.send({"type": "Ping"})
        await self.expect("pong")

    async def close_code(self, patience_s: float = PATIENCE_S) -> int | None:
        """Reads to the end of the connection and returns the server's close code."""
        async with asyncio.timeout(patience_s):
            await self.socket.wait_closed()
        return self.socket.close_code


async def open_all(sockets: list[WebSocket]) -> tuple[list[WebSocket], list]:
    """Connects all at once. Those that were taken, and the answers to the others."""
    async def attempt(socket: WebSocket):
        try:
            return await socket.__aenter__()
        except InvalidStatus as refused:
            return refused.response

    outcomes = await asyncio.gather(*map(attempt, sockets))
    taken = [one for one in outcomes if isinstance(one, WebSocket)]
    return taken, [one for one in outcomes if not isinstance(one, WebSocket)]


class EventStream:
    """One SSE stream. Use as `async with EventStream(gateway, "user") as stream`."""

    def __init__(self, gateway: Gateway, user: str = "", *, token: str | None = None, claims: dict | None = None,
                 channels: str | None = None, headers: dict | None = None, token_in_query: bool = True,
                 settled: str | None = None, query: dict | None = None):
        token = token or make_token(user, **(claims or {}))
        self._headers = dict(headers or {})
        if not token_in_query:
            self._headers["Authorization"] = f"Bearer {token}"
        self._url = gateway.sse_url(token if token_in_query else None, channels=channels, settled=settled,
                                    **(query or {}))
        self._stack = contextlib.AsyncExitStack()
        self.retry_ms: int | None = None

    async def __aenter__(self) -> "EventStream":
        try:
            client = await self._stack.enter_async_context(
                httpx.AsyncClient(timeout=None, trust_env=False, verify=NO_TLS, event_hooks=openapi.HOOKS)
            )
            source = await self._stack.enter_async_context(
                httpx_sse.aconnect_sse(client, "GET", self._url, headers=self._headers)
            )
            self.response = source.response
            assert self.response.status_code == 200, await self.response.aread()
            self._events = source.aiter_sse()
            self.connected = json.loads((await self.expect("connected")).data)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_):
        await self._events.aclose()
        await self._stack.aclose()

    async def event(self, patience_s: float = PATIENCE_S) -> httpx_sse.ServerSentEvent:
        """The next event, heartbeats left out. It must have data: many clients parse even an empty one as JSON."""
        async with asyncio.timeout(patience_s):
            async for event in self._events:
                if event.retry is not None:
                    self.retry_ms = event.retry
                assert event.data, f"a block without data: {event}"
                openapi.document.check_message(json.loads(event.data))
                if event.event != "heartbeat":
                    return event
        raise AssertionError("the stream ended")

    async def expect(self, kind: str, patience_s: float = PATIENCE_S) -> httpx_sse.ServerSentEvent:
        event = await self.event(patience_s)
        assert event.event == kind, f"expected {kind}, received {event}"
        return event

    async def notification(self, patience_s: float = PATIENCE_S) -> dict:
        event = await self.expect("notification", patience_s)
        message = json.loads(event.data)
        assert message["type"] == "notification", message
        assert event.id == message["id"], event
        return message


class LineProcess:
    """A program that prints JSON lines, and is commanded by JSON lines on its standard input."""

    def __init__(self, *command: str, cwd: Path = HERE, parse=json.loads):
        self.command = command
        self.cwd = cwd
        self.parse = parse
        self.lines: list = []

    async def __aenter__(self) -> "LineProcess":
        self.process = await asyncio.create_subprocess_exec(
            *self.command, cwd=self.cwd, start_new_session=True, limit=1 << 22,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )
        self._errors = asyncio.create_task(self.process.stderr.read())
        return self

    async def __aexit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        await self._errors

    async def command_line(self, **command):
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        await self.process.stdin.drain()

    async def next(self, patience_s: float = PATIENCE_S):
        async with asyncio.timeout(patience_s):
            line = await self.process.stdout.readline()
        if not line:
            raise AssertionError(f"{self.command[:2]} ended:\n{(await self._errors).decode(errors='replace')[-3000:]}")
        value = self.parse(line.decode())
        self.lines.append(value)
        return value

    async def until(self, patience_s: float = PATIENCE_S, **wanted):
        """The next line that has all these keys and values."""
        async with asyncio.timeout(patience_s):
            while True:
                value = await self.next(patience_s)
                if isinstance(value, dict) and all(value.get(k) == v for k, v in wanted.items()):
                    return value


def node(script: str, *arguments: str) -> LineProcess:
    return LineProcess("node", str(HERE / "node" / script), *arguments)
