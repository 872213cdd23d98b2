"""Starts, watches and stops the real gateway binary, and calls its HTTP API.

The binary is a black box: it is configured by environment variables only, runs in an empty folder,
and everything it prints goes to one log file that is shown when a test fails.
"""

import asyncio
import os
import random
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import jwt

import openapi

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent

JWT_SECRET = "client-suite-jwt-secret-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFG"
API_KEY = "client-suite-api-key-9b1f7d3c5e"
ALLOWED_ORIGIN = "http://allowed.example"

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 15.0


def binary(variable: str, *candidates: str) -> Path:
    """The path in the environment variable, else the first candidate under target/ that exists."""
    if os.environ.get(variable):
        return Path(os.environ[variable]).resolve()
    paths = [REPOSITORY / "target" / candidate for candidate in candidates]
    for path in paths:
        if path.exists():
            return path
    return paths[0]


def gateway_binary() -> Path:
    return binary("ARA_GATEWAY_BIN", "release/ara-gateway", "debug/ara-gateway")


def free_port() -> int:
    """A port below the ephemeral range, so that no outgoing connection can take it meanwhile."""
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


async def wait_until(condition, deadline_s: float = 5.0, what: str | None = None, every_s: float = 0.02):
    """Polls until `condition` (a function, plain or async) is truthy and returns its value."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what or condition}")
        await asyncio.sleep(every_s)


def make_token(user: str | None, *, secret: str = JWT_SECRET, algorithm: str = "HS256", **claims) -> str:
    """A JWT for `user`; a claim given as None is left out."""
    body = {"sub": user, "exp": int(time.time()) + 3600, "iat": int(time.time())} | claims
    return jwt.encode({k: v for k, v in body.items() if v is not None}, secret, algorithm=algorithm)


def query_string(**parameters: str | None) -> str:
    query = httpx.QueryParams({k: v for k, v in parameters.items() if v is not None})
    return f"?{query}" if query else ""


def base_environment() -> dict[str, str]:
    """What a process needs to run at all; nothing of the caller's configuration leaks in."""
    return {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}


def run_cli(*arguments: str, cwd: Path, timeout_s: float = 10, before: tuple[str, ...] = (), stdout=subprocess.PIPE,
            **environment) -> subprocess.CompletedProcess:
    """Runs the gateway's command line to its end; `before` are words to put before it."""
    return subprocess.run(
        [*before, str(gateway_binary()), *arguments],
        cwd=cwd,
        env=base_environment() | {k: str(v) for k, v in environment.items()},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout_s,
    )


class Gateway:
    """One running gateway process."""

    started: "list[Gateway]" = []

    def __init__(self, folder: Path, *, defaults: bool = True, before: tuple[str, ...] = (),
                 arguments: tuple[str, ...] = (), files: dict[str, str] | None = None, **environment):
        """`before` are words to put before the command line, `files` are put into the working directory."""
        self.folder = folder
        self.before = before
        self.files = files or {}
        self.arguments = arguments
        self.port = int(environment.get("SERVER_PORT") or free_port())
        self.log_path = folder.with_suffix(".log")
        self.log_offset = 0
        self.process: subprocess.Popen | None = None
        self.signalled = False
        settings = {"SERVER_PORT": self.port}
        if defaults:
            settings |= {
                "JWT_SECRET": JWT_SECRET,
                "API_KEY": API_KEY,
                "SHARDS_COUNT": 2,
                "CORS_ORIGINS": ALLOWED_ORIGIN,
                "SERVER_SHUTDOWN_GRACE_SECONDS": 5,
                "RUST_LOG": "info",
            }
        settings |= environment
        self.environment = {k: str(v) for k, v in settings.items() if v is not None}
        self.tenants_on = self.environment.get("TENANT_ENABLED") == "true"
        self.client = httpx.AsyncClient(base_url=self.url, timeout=10, trust_env=False, event_hooks=openapi.HOOKS)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ws_url(self, token: str | None = None, **query: str | None) -> str:
        return f"ws://127.0.0.1:{self.port}/ws{query_string(token=token, **query)}"

    def sse_url(self, token: str | None = None, **query: str | None) -> str:
        return f"{self.url}/sse{query_string(token=token, **query)}"

    # --- the process

    def spawn(self, output: int | None = None):
        """Starts the process. What it prints goes to this file, a test's pipe say, or else to the log file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (self.folder / name).write_bytes(text.encode())
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.before, str(gateway_binary()), *self.arguments],
                cwd=self.folder,
                env=base_environment() | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=subprocess.STDOUT,
            )
        Gateway.started.append(self)

    async def start(self, wait_for: str | None = "/health/ready", output: int | None = None) -> "Gateway":
        """`wait_for`: the path that must answer 200, or None where plain requests are refused."""
        self.spawn(output)
        if wait_for:
            await wait_until(lambda: self._answers(wait_for), START_DEADLINE_S, f"{wait_for} = 200")
            await openapi.learn(self.client)
        if output is None and self.environment.get("RUST_LOG", "info") == "info":
            # A thread of its own writes the log: once this line is there, so are all before it.
            await wait_until(lambda: re.search(r'ready.{0,9} address=|"ready"', self.log()), what="the line `ready`")
        return self

    async def _answers(self, path: str) -> bool:
        code = self.process.poll()
        assert code is None, f"the gateway ended with exit code {code} while starting:\n{self.log()[-4000:]}"
        try:
            return (await self.client.get(path)).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int = signal.SIGTERM):
        self.signalled = True
        self.process.send_signal(number)

    async def exit_code(self, deadline_s: float = STOP_DEADLINE_S) -> int:
        await wait_until(lambda: not self.running, deadline_s, "the gateway's end")
        return self.process.returncode

    async def stop(self):
        """SIGTERM unless the test sent one, and it must end cleanly."""
        await self.client.aclose()
        if self.process is None:
            return
        try:
            if not self.signalled:  # a second signal would end it at once, and not cleanly
                self.signal()
            code = await self.exit_code()
            assert code == 0, f"the gateway stopped with exit code {code}"
        finally:
            self.kill()

    def kill(self):
        if self.running:
            self.process.kill()
            self.process.wait()

    def log(self, since: int = 0) -> str:
        return self.log_path.read_bytes()[since:].decode(errors="replace") if self.log_path.exists() else ""

    # --- the HTTP API

    def headers(self, tenant: str | None = None) -> dict[str, str]:
        headers = {"X-API-Key": self.environment.get("API_KEY", API_KEY)}
        if tenant is not None:
            headers["X-Tenant-ID"] = tenant
        elif self.tenants_on:
            headers["X-Tenant-ID"] = "default"
        return headers

    async def get(self, path: str, tenant: str | None = None) -> httpx.Response:
        return await self.client.get(path, headers=self.headers(tenant))

    async def get_ok(self, path: str, tenant: str | None = None) -> dict:
        response = await self.get(path, tenant)
        assert response.status_code == 200, response.text
        return response.json()

    async def delete_ok(self, path: str, tenant: str | None = None) -> dict:
        response = await self.client.delete(path, headers=self.headers(tenant))
        assert response.status_code == 200, response.text
        return response.json()

    async def post(self, path: str, body, tenant: str | None = None, **headers) -> httpx.Response:
        """Posts JSON; a string goes out as it is, byte for byte."""
        headers = self.headers(tenant) | {"Content-Type": "application/json"} | headers
        if isinstance(body, (str, bytes)):
            return await self.client.post(path, content=body, headers=headers)
        return await self.client.post(path, json=body, headers=headers)

    async def trigger(self, kind: str, tenant: str | None = None, **body) -> dict:
        """POST /api/v1/notifications/{kind}; asserts 200 and returns the answer."""
        body = {"event_type": "test.event", "payload": {}} | body
        response = await self.post(f"/api/v1/notifications/{kind}", body, tenant)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["success"] is True, answer
        return answer

    async def send(self, user: str, tenant: str | None = None, **body) -> dict:
        return await self.trigger("send", tenant, target_user_id=user, **body)

    async def health(self) -> dict:
        response = await self.client.get("/health")
        assert response.status_code == 200, response.text
        return response.json()

    async def connection_count(self) -> int:
        stats = await self.get_ok("/stats")
        return sum(shard["connections"] for shard in stats["shards"])

    async def wait_until_away(self, user: str, tenant: str | None = None):
        """Returns when the gateway knows that the user has no connection left."""

        async def away():
            return (await self.get(f"/api/v1/users/{user}/subscriptions", tenant)).status_code == 404

        await wait_until(away, what=f"{user} away")

    async def queue(self, user: str, tenant: str | None = None) -> list[dict]:
        """What waits for a user or is not acknowledged yet: entries {attempts, in_flight, notification}."""
        return await self._messages(user, "queue", tenant)

    async def dead_letters(self, user: str, tenant: str | None = None) -> list[dict]:
        return await self._messages(user, "dead-letters", tenant)

    async def _messages(self, user: str, source: str, tenant: str | None) -> list[dict]:
        answer = await self.get_ok(f"/api/v1/users/{user}/{source}", tenant)
        assert set(answer) == {"user_id", "count", "notifications"} and answer["user_id"] == user, answer
        assert answer["count"] == len(answer["notifications"]), answer["count"]
        return answer["notifications"]

    async def wait_for_connections(self, count: int, deadline_s: float = 5.0):
        async def reached():
            return await self.connection_count() == count

        await wait_until(reached, deadline_s, f"{count} open connections in /stats")


def assert_error(response: httpx.Response, status: int, code: str | None = None) -> dict:
    """The one shape of every error: {"error": {"code", "message", "details"?}}."""
    assert response.status_code == status, f"{response.status_code}: {response.text[:500]}"
    assert response.headers["content-type"].split(";")[0].strip() == "application/json"
    body = response.json()
    assert set(body) == {"error"}, body
    error = body["error"]
    assert set(error) <= {"code", "message", "details"}, error
    assert isinstance(error["message"], str) and error["message"], error
    assert error["code"] == error["code"].upper(), error
    for leak in ("panicked", "backtrace", "src/", ".rs:"):
        assert leak not in response.text, f"an error answer shows internals: {response.text}"
    if code is not None:
        assert error["code"] == code, error
    return error
