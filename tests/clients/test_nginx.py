"""Behind nginx, with the lines of deploy/nginx.conf for it, an EventSource survives a restart of the gateway.

Clients: headless Chromium's and npm's EventSource, and httpx, through a real nginx.
"""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
from urllib.parse import quote

import httpx
import pytest

from clients import PATIENCE_S, node
from conftest import need
from gateway import API_KEY, HERE, make_token, wait_until
from test_browser import START_S, collect

CONFIGURED = HERE.parent.parent / "deploy" / "nginx.conf"
# Where all of nginx's own files are.
CONFIGURATION = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    {http}
    server {{
        listen 127.0.0.1:{port};
        location /sse {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version {version};
            proxy_set_header Connection '';
            proxy_set_header Host $http_host;
            proxy_buffering off;
        }}
        {server}
    }}
}}
"""


def configured(first: str, last: str) -> str:
    """The lines of deploy/nginx.conf from the one that begins with `first` to the next that begins with `last`."""
    [(lines)] = re.findall(rf"^(\s*{first}.*?^\s*{last}.*?$)", CONFIGURED.read_text(), re.DOTALL | re.MULTILINE)
    return lines


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def nginx(folder, upstream: int, version: str):
    port = free_port()
    folder.mkdir()
    text = CONFIGURATION.format(http=configured("split_clients", ""), server=configured("error_page", "}"), port=port,
                                upstream=upstream, version=version)
    (folder / "nginx.conf").write_text(text)
    log = (folder / "output.log").open("wb")
    process = subprocess.Popen([need("nginx"), "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"],
                               stdout=log, stderr=log, start_new_session=True)

    async def accepts():
        assert process.poll() is None, (folder / "output.log").read_text()
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    try:
        await wait_until(accepts, what="nginx")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, PATIENCE_S)
        log.close()


# nginx asks with HTTP/1.0 unless told otherwise: then the stream comes without chunks.
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_an_eventsource_survives_a_restart_behind_nginx(start_gateway, new_folder, pages, user, version):
    need("node")
    token = make_token(user)
    origin = f"http://127.0.0.1:{pages}"
    first = await start_gateway(CORS_ORIGINS=origin)
    async with nginx(new_folder("nginx"), first.port, version) as proxy:
        stream = f"{proxy}/sse?token={token}"
        settings = {"socket": first.ws_url(), "protocols": ["ara.v1", f"bearer.{token}"], "stream": stream,
                    "api": first.url, "key": API_KEY, "channel": "news"}
        page_url = f"{origin}/page.html#{quote(json.dumps(settings))}"
        async with node("browser.mjs", need("chromium"), page_url) as page, \
                node("eventsource_client.mjs", stream) as client:
            await client.until(event="connected", patience_s=START_S)
            await collect(page, "sse-connected")
            first.signal()
            assert await first.exit_code() == 0

            away = [await client.until(event="error", patience_s=START_S), (await collect(page, "sse-error"))["sse-error"]]
            assert {json.loads(event["text"])["code"] for event in away} == {"UNAVAILABLE"}
            async with httpx.AsyncClient(trust_env=False) as caller:
                assert (await caller.get(stream)).status_code == 502

            second = await start_gateway(CORS_ORIGINS=origin, SERVER_PORT=first.port)
            await client.until(event="connected", patience_s=START_S)
            await collect(page, "sse-connected")
            answer = await second.send(user)
            assert answer["delivered_to"] == 2
            assert (await collect(page, "sse-notification"))["sse-notification"]["id"] == answer["notification_id"]
            assert (await client.until(event="notification"))["id"] == answer["notification_id"]
            broken = [line["state"] for line in page.lines if line.get("event") == "sse-broken"]
            assert set(broken) == {0}, "it would not have tried again"
            await page.command_line(quit=True)
            await collect(page, "quit")
