"""Gateways that run one after another on one queue directory, and faults of that directory."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from clients import WebSocket
from gateway import HERE, Gateway, base_environment, free_port, gateway_binary

MIB = 1 << 20


class Store:
    """A queue directory, and the gateway that runs on it now. Each start may have other settings."""

    def __init__(self, new_folder, path: Path | None = None, **settings):
        self.new_folder = new_folder
        self.path = path or new_folder("queue")
        self.settings = {
            "QUEUE_ENABLED": "true",
            "QUEUE_BACKEND": "disk",
            "QUEUE_PATH": self.path,
            "QUEUE_FSYNC": "always",
            "QUEUE_MAX_SIZE_PER_USER": 0,
            "WEBSOCKET_HEARTBEAT_INTERVAL": 0,
            "SERVER_PORT": free_port(),  # the same after a restart, so that clients find it
        } | settings
        self.gateway: Gateway | None = None
        self.logs: list[Path] = []

    async def start(self, **settings) -> Gateway:
        self.settings |= settings
        self.gateway = Gateway(self.new_folder(), **self.settings)
        self.logs.append(self.gateway.log_path)
        try:
            return await self.gateway.start()
        except BaseException:
            await self.kill()
            raise

    async def stop(self):
        """SIGTERM; it must end with 0."""
        if self.gateway is not None:
            await self.gateway.stop()
            self.gateway = None

    async def kill(self):
        """SIGKILL; nothing of the process is left when this returns."""
        if self.gateway is not None:
            self.gateway.kill()
            await self.gateway.client.aclose()
            self.gateway = None

    async def end(self, how: str):
        await {"killed": self.kill, "stopped": self.stop}[how]()

    async def restart(self, how: str, **settings) -> Gateway:
        await self.end(how)
        return await self.start(**settings)

    def refused(self, before: list[str] = (), timeout_s: float = 15, **settings) -> subprocess.CompletedProcess:
        """Starts a gateway that must end by itself; `before` are words to put before its command line."""
        folder = self.new_folder()
        folder.mkdir(parents=True)
        gateway = Gateway(folder, **self.settings | {"SERVER_PORT": free_port()} | settings)
        return subprocess.run(
            [*before, str(gateway_binary())], cwd=folder, env=base_environment() | gateway.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s)

    # --- what is on the disk

    def files(self) -> list[Path]:
        return [path for path in self.path.rglob("*") if path.is_file()] if self.path.exists() else []

    def journals(self) -> list[Path]:
        """The journal's files, the one written last at the end."""
        return sorted(self.path.rglob("*.journal"), key=lambda path: (path.stat().st_mtime_ns, path.name))

    def bytes_used(self) -> int:
        """What the directory occupies on the file system, without the reserves, which the bound leaves out."""
        return sum(path.stat().st_blocks * 512 for path in self.files() if path.name != "reserve")

    def holds(self, text: str) -> bool:
        return any(text.encode() in path.read_bytes() for path in self.journals())


async def everything_before_is_on_disk(gateway: Gateway, name: str = "barrier"):
    """Returns when everything sent before is on disk. Journals are written in order: once these messages
    for every shard are answered `queued`, all before them are written."""
    users = [f"{name}-{n}" for n in range(64)]
    answer = await gateway.trigger("send-to-users", target_user_ids=users)
    assert all(result["queued"] for result in answer["results"].values()), answer


async def receive_waiting(gateway: Gateway, user: str, *, tenant: str | None = None,
                          acknowledge: bool = False) -> list[dict]:
    """Connects and receives what waits, which comes before anything live and so before the marker sent here."""
    async with WebSocket(gateway, user, claims={"tenant_id": tenant} if tenant else None) as client:
        marker = (await gateway.send(user, tenant))["notification_id"]
        received = []
        while (message := await client.notification())["id"] != marker:
            received.append(message)
        if acknowledge:
            for taken in [*received, message]:
                await client.ack(taken["id"])
        await client.assert_nothing_waits()
    await gateway.wait_until_away(user, tenant)
    return received


@contextlib.contextmanager
def mounted(path: Path, size_bytes: int):
    """A file system of its own, in memory, of this size. Skips where mounting is not allowed."""
    path.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", f"size={size_bytes},mode=777", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def mount(*arguments: str):
    result = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip(f"mounting is not possible here: {result.stderr.strip()}")


def without_privileges() -> list[str]:
    """The beginning of a command line that takes from root the right to ignore the modes of files."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


class FaultyDisk:
    """Makes a store's disk fail or wait while the gateway runs: see faulty_disk.c."""

    def __init__(self, store: Store, library: Path):
        self.store = store
        self.control = store.new_folder("faults").with_suffix(".txt")
        self.held = self.control.with_name(f"{self.control.name}.held")
        store.settings |= {"LD_PRELOAD": library, "FAULT_PATH": store.path, "FAULT_CONTROL": self.control}

    @staticmethod
    def compile(folder: Path) -> Path:
        folder.mkdir(parents=True)
        library = folder / "faulty_disk.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "faulty_disk.c", "-ldl"], check=True)
        return library

    @contextlib.contextmanager
    def does(self, what: str, error: int | str):
        """Writes or syncs end with this error, or `hold` until the end of the block."""
        new = self.control.with_suffix(".new")
        new.write_text(f"{what} {error}\n")
        new.rename(self.control)
        try:
            yield
        finally:
            self.control.unlink()
