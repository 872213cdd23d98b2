"""A real redis-server on a free port, and redis-cli to publish with."""

import asyncio
import json
import signal
import subprocess
from pathlib import Path

from conftest import need
from gateway import free_port, wait_until

RECOVERY_S = 10


class RedisServer:
    def __init__(self, folder: Path, *arguments: str):
        self.folder = folder
        self.arguments = arguments
        self.port = free_port()
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> "RedisServer":
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [need("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                 "--appendonly", "no", "--dir", str(self.folder), *self.arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )

        async def answers():
            return (await self.cli("PING", check=False)).strip() == "PONG"

        await wait_until(answers, 10, "redis-server's PONG")
        return self

    async def cli(self, *arguments: str, check: bool = True) -> str:
        process = await asyncio.create_subprocess_exec(
            need("redis-cli"), "-h", "127.0.0.1", "-p", str(self.port), *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        output, _ = await process.communicate()
        if check:
            assert process.returncode == 0, output
        return output.decode(errors="replace")

    async def publish(self, channel: str, message) -> int:
        """PUBLISH through redis-cli; returns how many subscribers took it."""
        text = message if isinstance(message, str) else json.dumps(message)
        return int(await self.cli("PUBLISH", channel, text))

    def signal(self, number: int):
        self.process.send_signal(number)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def trigger(kind: str, target=None, *, payload=None, tenant: str | None = None, **event) -> dict:
    message = {"type": kind, "event": {"event_type": "redis.event", "payload": payload} | event}
    if target is not None:
        message["target"] = target
    if tenant is not None:
        message["tenant_id"] = tenant
    return message


async def wait_for_redis(gateway):
    async def healthy():
        health = await gateway.health()
        return health["status"] == "healthy" and health["redis"] == health["redis"] | {
            "status": "healthy", "connected": True}

    await wait_until(healthy, RECOVERY_S, "redis healthy in /health")
