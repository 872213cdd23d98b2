"""The files of deploy/ work as they are: real proxies in front of a real gateway, and systemd's own verdict.

Set-up: nginx, HAProxy and Apache with the file that the documents name, in which only ports, files and
the certificate are replaced; clients speak TLS to them.
"""

import asyncio
import contextlib
import json
import os
import re
import ssl
import subprocess
from pathlib import Path

import httpx
import httpx_sse
import pytest
import pytest_asyncio

from clients import PATIENCE_S, WebSocket
from conftest import need
from gateway import REPOSITORY, Gateway, base_environment, free_port, gateway_binary, make_token, query_string, wait_until

DEPLOY = REPOSITORY / "deploy"
MODULES = Path("/usr/lib/apache2/modules")
APACHE_MODULES = ("mpm_event", "authz_core", "socache_shmcb", "ssl", "proxy", "proxy_http",
                  "proxy_wstunnel", "deflate", "filter", "reqtimeout")


def replaced(name: str, *pairs: tuple[str, str]) -> str:
    """A file of deploy/ with these texts replaced, each of which must be in it."""
    text = (DEPLOY / name).read_text()
    for old, new in pairs:
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    return text


class Proxy:
    """One of the proxies, on a port of its own."""

    def __init__(self, kind: str, folder: Path, gateway: Gateway, server_options: str = ""):
        """`server_options`: for HAProxy, put behind the gateway's address."""
        self.kind = kind
        self.server_options = server_options
        self.folder = folder
        self.gateway = gateway
        self.port = free_port()
        self.process: subprocess.Popen | None = None
        folder.mkdir()
        self.certificate, self.key = folder / "cert.pem", folder / "key.pem"
        subprocess.run(
            [need("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-keyout", self.key, "-out", self.certificate],
            check=True, capture_output=True)
        self.tls = ssl.create_default_context(cafile=str(self.certificate))

    @property
    def origin(self) -> str:
        return f"https://localhost:{self.port}"

    def commands(self) -> tuple[list[str], list[str]]:
        """What checks the configuration, and what runs it in the foreground."""
        return getattr(self, f"_{self.kind}")()

    def _common(self) -> list[tuple[str, str]]:
        return [("127.0.0.1:8081", f"127.0.0.1:{self.gateway.port} {self.server_options}".rstrip())]

    def _nginx(self):
        site = replaced(
            "nginx.conf", *self._common(),
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"), ("    listen [::]:443 ssl;\n", ""),
            ("/etc/ssl/push.example.org.pem", str(self.certificate)), ("/etc/ssl/push.example.org.key", str(self.key)),
            ("/var/log/nginx/ara-gateway.log", str(self.folder / "access.log")))
        (self.folder / "site.conf").write_text(site)
        paths = "".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.folder / "nginx.conf").write_text(
            f"pid {self.folder}/pid; error_log {self.folder}/error.log; worker_processes 1; daemon off;\n"
            f"events {{}}\nhttp {{ gzip on; gzip_types *; {paths} include {self.folder}/site.conf; }}\n")
        run = [need("nginx"), "-c", str(self.folder / "nginx.conf"), "-e", str(self.folder / "error.log")]
        return [*run, "-t"], run

    def _haproxy(self):
        both = self.folder / "both.pem"
        both.write_text(self.certificate.read_text() + self.key.read_text())
        # As many connections as this machine's file limit allows; the log goes to standard output.
        configuration = replaced(
            "haproxy.cfg", *self._common(), ("bind :443", f"bind 127.0.0.1:{self.port}"),
            ("/etc/haproxy/push.example.org.pem", str(both)), ("maxconn 100000", "maxconn 1000"),
            ("log /dev/log local0", "log stdout format raw local0"))
        (self.folder / "haproxy.cfg").write_text(configuration)
        run = [need("haproxy"), "-db", "-f", str(self.folder / "haproxy.cfg")]
        return [*run, "-c"], run

    def _apache(self):
        site = replaced(
            "apache.conf", *self._common(), ("*:443", f"127.0.0.1:{self.port}"),
            ("/etc/ssl/push.example.org.pem", str(self.certificate)), ("/etc/ssl/push.example.org.key", str(self.key)))
        modules = "".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so\n" for name in APACHE_MODULES)
        (self.folder / "apache.conf").write_text(
            f"ServerRoot {self.folder}\nServerName localhost\nPidFile {self.folder}/pid\n"
            f"ErrorLog {self.folder}/error.log\nDefine APACHE_LOG_DIR {self.folder}\n{modules}"
            f"Listen 127.0.0.1:{self.port}\nUser nobody\nGroup nogroup\n"
            f"AddOutputFilterByType DEFLATE text/event-stream application/json\n{site}")
        run = [need("apache2"), "-f", str(self.folder / "apache.conf")]
        return [*run, "-t"], [*run, "-DFOREGROUND"]

    async def start(self) -> "Proxy":
        check, run = self.commands()
        checked = await asyncio.to_thread(subprocess.run, check, capture_output=True, text=True)
        output = checked.stdout + checked.stderr
        assert checked.returncode == 0 and not re.search(r"\[(warn|WARNING)|\[alert", output), output
        with (self.folder / "output.log").open("wb") as log:
            self.process = subprocess.Popen(run, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        async def answers():
            assert self.process.poll() is None, (self.folder / "output.log").read_text()
            with contextlib.suppress(httpx.TransportError):
                async with self.client() as client:
                    return (await client.get("/none")).status_code == 404

        await wait_until(answers, 10, f"{self.kind} answers")
        return self

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.origin, verify=self.tls, timeout=PATIENCE_S, trust_env=False)

    def web_socket(self, user: str, **options) -> WebSocket:
        url = f"wss://localhost:{self.port}/ws{query_string(token=make_token(user))}"
        return WebSocket(self.gateway, user, url=url, ssl=self.tls, origin=self.origin, **options)

    @contextlib.asynccontextmanager
    async def event_stream(self, user: str):
        """Yields a function that returns the next event that is no heartbeat."""
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(self.client())
            headers = {"Authorization": f"Bearer {make_token(user)}", "Origin": self.origin,
                       "Accept-Encoding": "gzip, deflate, br"}
            source = await stack.enter_async_context(
                httpx_sse.aconnect_sse(client, "GET", "/sse", headers=headers, timeout=None))
            assert source.response.status_code == 200, await source.response.aread()
            events = source.aiter_sse()

            async def event() -> httpx_sse.ServerSentEvent:
                async with asyncio.timeout(PATIENCE_S):
                    while (found := await anext(events)).event == "heartbeat" or not found.data:
                        pass
                    return found

            assert (await event()).event == "connected"
            yield event
            await events.aclose()

    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


SETTINGS = {
    "QUEUE_ENABLED": "on", "ACK_ENABLED": "Yes", "RUN_MODE": "production",
    "WEBSOCKET_HEARTBEAT_INTERVAL": "1",
}


@pytest_asyncio.fixture
async def behind(start_gateway, new_folder):
    """Starts a gateway and a proxy of this kind before it."""
    proxies = []

    async def start(kind: str, server_options: str = "", **settings) -> Proxy:
        gateway = await start_gateway(**SETTINGS | settings)
        proxies.append(Proxy(kind, new_folder(kind), gateway, server_options))
        return await proxies[-1].start()

    try:
        yield start
    finally:
        for proxy in proxies:
            proxy.stop()


PROXIES = pytest.mark.parametrize("kind", ["nginx", "haproxy", "apache"])


@PROXIES
async def test_clients_are_served_through_the_documented_proxy(behind, kind, user):
    """Its own pages (by their Origin), WebSocket, an event stream at once, acknowledgement, and nothing else."""
    proxy = await behind(kind)
    gateway = proxy.gateway
    async with proxy.web_socket(f"{user}-w") as socket, proxy.event_stream(f"{user}-s") as event:
        await socket.subscribe("news")
        answer = await gateway.trigger("channel", channel="news", payload="ë")
        assert (await socket.notification())["payload"] == "ë"
        received = await event()
        assert received.id == answer["notification_id"] and json.loads(received.data)["payload"] == "ë"
        sent = await gateway.send(f"{user}-w", payload=1)
        await socket.notification()
        await socket.ack(sent["notification_id"])
        sent = await gateway.send(f"{user}-s", payload=2)
        received = await event()
        async with proxy.client() as client:
            token = make_token(f"{user}-s")
            acked = await client.post("/api/v1/acks", json={"notification_ids": [received.id]},
                                      headers={"Authorization": f"Bearer {token}", "Origin": proxy.origin})
            assert acked.status_code == 200 and acked.json()["acked"] == [sent["notification_id"]], acked.text
            assert acked.headers["access-control-allow-origin"] == proxy.origin
            for path in ("/", "/stats", "/metrics", "/health", "/api/v1/channels", "/api/v1/notifications/send",
                         "/ws/", "/sse/x"):
                assert (await client.get(path, headers=gateway.headers())).status_code == 404, path
            # What is matched when the path is decoded is also what the gateway is asked for: never the API.
            disguised = await client.get("/api/v1/channels/..%2f..%2f..%2fws", headers=gateway.headers())
            assert disguised.status_code in (404, 426), disguised.text
            foreign = await client.get("/sse", headers={"Authorization": f"Bearer {token}",
                                                        "Origin": "https://elsewhere.example"})
            assert foreign.status_code == 403
    # Both have left, and the gateway learns of it.
    await gateway.wait_for_connections(0)
    proxy.stop()
    log = proxy.log()
    assert "/ws" in log and "/sse" in log, log
    assert "token" not in log and make_token(user)[:20] not in log, log


@PROXIES
async def test_the_gateway_knows_a_client_by_its_own_address(behind, kind, user):
    """From the header that the proxy sets or adds to, whatever the client has sent in it."""
    proxy = await behind(kind, SERVER_TRUSTED_PROXIES="127.0.0.1")
    headers = {"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6"}
    # The certificate and the proxy are of 127.0.0.1; whoever connects has another address of this machine.
    async with proxy.web_socket(user, local_addr=("127.9.9.9", 0), additional_headers=headers):
        shown = await proxy.gateway.get_ok("/api/v1/connections")
        assert [connection["address"] for connection in shown["connections"]] == ["127.9.9.9"]


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
async def test_haproxy_names_a_client_by_the_proxy_protocol_too(behind, version, user):
    proxy = await behind("haproxy", server_options=f"source 127.0.0.9 {version}", SERVER_PROXY_PROTOCOL="true",
                         SERVER_TRUSTED_PROXIES="127.0.0.9")
    async with proxy.web_socket(user, local_addr=("127.9.9.9", 0)) as socket:
        port = socket.socket.transport.get_extra_info("sockname")[1]
        shown = await proxy.gateway.get_ok("/api/v1/connections")
        assert [connection["address"] for connection in shown["connections"]] == [f"127.9.9.9:{port}"]


async def test_haproxy_tells_the_gateway_at_once_that_a_client_has_left(behind, user):
    """Long before the next heartbeat: that is what `option abortonclose` is for."""
    proxy = await behind("haproxy", WEBSOCKET_HEARTBEAT_INTERVAL="60")
    async with proxy.event_stream(user):
        await proxy.gateway.wait_for_connections(1)
    await proxy.gateway.wait_for_connections(0)


@pytest.mark.parametrize("kind", ["nginx", "apache"])
async def test_the_proxy_lets_clients_through_as_soon_as_a_restart_is_over(behind, new_folder, kind, user):
    proxy = await behind(kind)
    old = proxy.gateway
    await old.stop()
    async with proxy.client() as client:
        assert (await client.get("/sse")).status_code in (502, 503)
    new = Gateway(new_folder(), **SETTINGS, SERVER_PORT=old.port)
    try:
        await new.start()
        async with proxy.event_stream(user):
            pass
        await new.stop()
    finally:
        new.kill()


async def test_haproxy_waits_for_a_gateway_that_restarts(behind, new_folder, user):
    proxy = await behind("haproxy")
    old = proxy.gateway
    await old.stop()
    opening = asyncio.create_task(through(proxy, user))
    new = Gateway(new_folder(), **SETTINGS, SERVER_PORT=old.port)
    try:
        await new.start()
        assert await opening == "connected"
        await new.stop()
    finally:
        new.kill()


async def through(proxy: Proxy, user: str) -> str:
    async with proxy.client() as client:
        headers = {"Authorization": f"Bearer {make_token(user)}"}
        async with httpx_sse.aconnect_sse(client, "GET", "/sse", headers=headers, timeout=20) as source:
            assert source.response.status_code == 200
            events = source.aiter_sse()
            while not (event := await anext(events)).data:
                pass
            return event.event


def test_systemd_accepts_the_unit_and_finds_little_to_harden(tmp_path):
    unit = tmp_path / "ara-gateway.service"
    unit.write_text(replaced("ara-gateway.service", ("/usr/local/bin/ara-gateway", str(gateway_binary()))))
    environment = base_environment() | {"SYSTEMD_LOG_LEVEL": "warning"}
    verify = subprocess.run([need("systemd-analyze"), "verify", "--man=no", unit], env=environment,
                            capture_output=True, text=True)
    mine = [line for line in verify.stderr.splitlines() if "ara-gateway" in line]
    assert verify.returncode == 0 and not mine, verify.stderr
    # 2.0 is systemd's own bound for "OK".
    security = subprocess.run([need("systemd-analyze"), "security", "--offline=true", "--threshold=20", unit],
                              env=environment, capture_output=True, text=True)
    assert security.returncode == 0, security.stdout[-600:]


def test_the_unit_gives_the_queue_a_place(tmp_path):
    """What relative paths begin at is the one directory that systemd makes and leaves writable."""
    lines = (DEPLOY / "ara-gateway.service").read_text().splitlines()
    assert "StateDirectory=ara-gateway" in lines and "WorkingDirectory=%S/ara-gateway" in lines
    assert os.path.normpath("/var/lib/ara-gateway/./data") in (DEPLOY / "ara-gateway.service").read_text()
