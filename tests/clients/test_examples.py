"""The programs of docs/examples do what they say: they send, receive, acknowledge, and come back by themselves.

Each talks to the gateway through a relay that can cut its connection and sees what it sends.
"""

import asyncio
import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from clients import LineProcess, WebSocket, node
from conftest import QuietHandler, gateway_module_fixture, need
from gateway import API_KEY, HERE, REPOSITORY, make_token, wait_until
from redis_server import RedisServer

EXAMPLES = REPOSITORY / "docs" / "examples"
GO_PACKAGES = "/usr/share/gocode"  # where Debian puts Go's: golang-github-gorilla-websocket-dev
START_S = 20

gateway = gateway_module_fixture(QUEUE_ENABLED="true", ACK_ENABLED="true", CORS_ORIGINS="*")


class Relay:
    """Hands bytes on between clients and a gateway."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.received = b""
        self._tasks: set[asyncio.Task] = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        await self.cut()

    async def cut(self):
        """Ends every connection."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            from_gateway, to_gateway = await asyncio.open_connection("127.0.0.1", self.gateway.port)
            with contextlib.closing(writer), contextlib.closing(to_gateway):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._hand_on(reader, to_gateway, self._look))
                    # The reader comes back sooner than it is told: nobody waits for three seconds here.
                    group.create_task(self._hand_on(from_gateway, writer,
                                                    lambda data: data.replace(b"retry: 3000", b"retry: 0100")))
        except* OSError:
            pass

    def _look(self, data: bytes) -> bytes:
        self.received += data.lower()
        return data

    async def _hand_on(self, reader, writer, change):
        while data := await reader.read(65536):
            writer.write(change(data))
            await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The command of each example, made ready when it is first asked for."""
    folder = tmp_path_factory.mktemp("examples")

    @functools.cache
    def command(language: str) -> tuple[str, ...]:
        match language:
            case "python":
                return (sys.executable, str(EXAMPLES / "python/client.py"))
            case "node":  # finds its packages beside it
                shutil.copy(EXAMPLES / "node/client.mjs", folder)
                (folder / "node_modules").symlink_to(HERE / "node_modules")
                return (need("node"), str(folder / "client.mjs"))
            case "php":
                return (need("php"), str(EXAMPLES / "php/client.php"))
            case "curl":
                return (need("bash"), str(EXAMPLES / "curl/client.sh"))
            case "go":
                if shutil.which("go") is None or not os.path.isdir(f"{GO_PACKAGES}/src/github.com/gorilla/websocket"):
                    pytest.skip("Go is too large to install for this: apt-get install golang-go golang-github-gorilla-websocket-dev")
                environment = os.environ | {"GO111MODULE": "off", "GOPATH": GO_PACKAGES, "GOCACHE": str(folder / "cache")}
                program = folder / "go-client"
                subprocess.run(["go", "build", "-o", program, "main.go"], cwd=EXAMPLES / "go", env=environment, check=True)
                return (str(program),)

    return command


def run(program: tuple[str, ...], *arguments: str, **environment: str) -> LineProcess:
    """The program with these variables, printing lines."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    return LineProcess("env", *variables, *program, *arguments)


async def all_acknowledged(gateway, user: str):
    async def empty():
        return await gateway.queue(user) == []

    await wait_until(empty, what=f"an Ack of {user}")


@pytest.mark.parametrize("language, way", [
    ("python", "websocket"), ("node", "websocket"), ("go", "websocket"),
    ("python", "sse"), ("node", "sse"), ("php", "sse"), ("curl", "sse"), ("go", "sse"),
])
async def test_an_example_sends_receives_acknowledges_and_comes_back(gateway, programs, user, channel, language, way):
    program = programs(language)
    channels = [channel] if way == "websocket" else []
    async with Relay(gateway) as relay:
        async with run(program, way, *channels, ARA_URL=relay.url, ARA_TOKEN=make_token(user)) as client:
            async def listens():
                response = await gateway.get(f"/api/v1/users/{user}/subscriptions")
                return response.status_code == 200 and response.json()["subscriptions"] == channels

            await wait_until(listens, START_S, f"{language} listening")
            payload = {"text": "é 😀", "n": 1}
            async with run(program, "send", user, "order.shipped", json.dumps(payload),
                           ARA_URL=relay.url, ARA_API_KEY=API_KEY) as sender:
                answer = await sender.next(START_S)
            assert (answer["success"], answer["delivered_to"]) == (True, 1)
            received = await client.next()
            assert received["id"] == answer["notification_id"] and received["payload"] == payload
            await all_acknowledged(gateway, user)
            if channels:
                answer = await gateway.trigger("channel", channel=channel)
                assert (await client.next())["id"] == answer["notification_id"]

            await relay.cut()
            answer = await gateway.send(user)
            received = await client.next(START_S)
            assert received["id"] == answer["notification_id"]
            await all_acknowledged(gateway, user)
            if way == "sse":
                previous = [line["id"] for line in client.lines][-2]
                assert f"last-event-id: {previous}".encode() in relay.received


@pytest.fixture
def example_page():
    """The address of the page, on a web server of its own."""
    handler = functools.partial(QuietHandler, directory=str(EXAMPLES / "browser"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/index.html"
        server.shutdown()
        thread.join()


async def test_the_page_receives_by_both_ways_and_comes_back(gateway, example_page, user):
    need("node")
    async with Relay(gateway) as relay, node("browser.mjs", need("chromium"), example_page) as page:
        await page.until(event="loaded", patience_s=40)
        settings = json.dumps({"url": relay.url, "token": make_token(user), "channel": "news"})
        await page.command_line(evaluate=f"""{{
            for (const [id, value] of Object.entries({settings})) document.getElementById(id).value = value;
            document.getElementById("settings").requestSubmit();
        }}""")

        async def both_listen():
            response = await gateway.get(f"/api/v1/users/{user}/subscriptions")
            return response.status_code == 200 and response.json() == {
                "user_id": user, "connection_count": 2, "subscriptions": ["news"]}

        async def shown():
            await page.command_line(evaluate="""console.log(JSON.stringify({ event: "shown",
                texts: [...document.querySelectorAll("#notifications li")].map((entry) => entry.textContent) }))""")
            return (await page.until(event="shown"))["texts"]

        for number in (1, 2):
            await wait_until(both_listen, START_S, "both connections")
            await gateway.send(user, event_type="hello", payload={"n": number})
            texts = await wait_until(lambda: shown_times(shown, number), what=f"{number} shown")
            assert texts[-1].endswith(f'hello {{"n":{number}}}'), texts
            await all_acknowledged(gateway, user)
            await relay.cut()
        await page.command_line(quit=True)
        await page.until(event="quit")


async def shown_times(shown, count: int):
    texts = await shown()
    return texts if len(texts) == count else None


async def test_the_redis_publishers_reach_a_user(start_gateway, new_folder, user):
    server = RedisServer(new_folder("redis"))
    try:
        await server.start()
        gateway = await start_gateway(REDIS_URL=server.url)

        async def subscribed():
            return (await gateway.health())["redis"]["connected"]

        await wait_until(subscribed, what="Redis connected")
        async with WebSocket(gateway, user) as client:
            publisher = (sys.executable, str(EXAMPLES / "redis/publish.py"), user, "hello", '{"n": 1}')
            process = await asyncio.create_subprocess_exec(*publisher, env=os.environ | {"REDIS_URL": server.url})
            assert await process.wait() == 0
            assert (await client.notification())["payload"] == {"n": 1}
            def notification(kind: str, name: str, n: int, payload) -> dict:
                return {"target": {"type": kind, "value": name}, "event_type": f"e{n}", "payload": payload}

            lines = [notification("user", user, n, n) for n in range(250)]
            lines[7]["event_type"] = ""
            lines += [lines[-1], *(notification("channel", "nobody", n, "x" * 40_000) for n in range(30))]
            publisher = (sys.executable, str(EXAMPLES / "redis/publish_batch.py"), "--deduplicate")
            process = await asyncio.create_subprocess_exec(
                *publisher, env=os.environ | {"REDIS_URL": server.url}, stdin=asyncio.subprocess.PIPE)
            await process.communicate("\n".join(map(json.dumps, lines)).encode())
            assert process.returncode == 0
            received = [(await client.notification())["payload"] for _ in range(249)]
            assert received == [n for n in range(250) if n != 7]
            await client.assert_nothing_waits()

            async def all_taken():
                stats = await gateway.get_ok("/stats")
                return stats if stats["messages"]["batch_notifications"] == len(lines) else None

            stats = await wait_until(all_taken, what="all batches taken")
            # The third is full by its bytes.
            assert (stats["messages"]["batches"], stats["messages"]["triggers"]) == (4, 1 + 249 + 30)
            assert {reason: count for reason, count in stats["redis"]["messages_rejected"].items() if count} == {"bad_event_type": 1}
    finally:
        server.kill()


async def test_the_template_of_the_example_is_kept_and_sent_by(gateway, user):
    async def call(*arguments: str) -> dict:
        process = await asyncio.create_subprocess_exec(
            need("bash"), str(EXAMPLES / "curl/templates.sh"), *arguments, stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"ARA_URL": gateway.url, "ARA_API_KEY": API_KEY})
        output, _ = await process.communicate()
        assert process.returncode == 0, output
        return json.loads(output)

    text = "Dear {{customer.name}}, order {{order}} is on its way."
    made = await call("put", "shipped", "order.shipped", json.dumps({"order": "{{order}}", "text": "soon"}))
    changed = await call("put", "shipped", "order.shipped", json.dumps({"order": "{{order}}", "text": text}))
    assert changed["created_at"] == made["created_at"] and changed["payload_template"]["text"] == text
    variables = json.dumps({"order": 1815, "customer": {"name": "Anna"}})
    payload = {"order": 1815, "text": "Dear Anna, order 1815 is on its way."}
    assert (await call("render", "shipped", variables))["payload"] == payload
    async with WebSocket(gateway, user) as client:
        assert (await call("send", user, "shipped", variables))["delivered_to"] == 1
        assert (await client.notification())["payload"] == payload
