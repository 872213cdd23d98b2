"""The process starts, explains itself, refuses bad configuration and ends as the contract says."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import time
from types import SimpleNamespace

import httpx
import jwt
import pytest

from clients import EventStream, WebSocket
from conftest import need
from durable import FaultyDisk
from gateway import API_KEY, JWT_SECRET, Gateway, free_port, make_token, run_cli, wait_until
from raw import RawConnection, RawWebSocket

TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
SETTINGS = {"JWT_SECRET": JWT_SECRET, "API_KEY": API_KEY}


@pytest.fixture
def folder(new_folder):
    folder = new_folder("cli")
    folder.mkdir()
    return folder


def named(output: str, variable: str) -> bool:
    """Whether the text names a setting, by its variable or by its key in the file."""
    section, _, key = variable.lower().partition("_")
    return variable in output or f"{section}.{key}" in output or variable.lower() in output


# --- stopping

async def test_sigterm_tells_every_client_when_to_come_back_and_ends_cleanly(start_gateway):
    gateway = await start_gateway()
    async with contextlib.AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(WebSocket(gateway, f"w{n}")) for n in range(24)]
        streams = [await stack.enter_async_context(EventStream(gateway, f"s{n}")) for n in range(8)]
        begin = time.monotonic()
        gateway.signal(signal.SIGTERM)
        delays = []
        for client in sockets:
            message = await client.expect("shutdown")
            assert message["reason"]
            delays.append(message["reconnect_after_seconds"])
            assert await client.close_code() == 1001
        for stream in streams:
            event = await stream.event()
            assert event.event == "message"
            message = json.loads(event.data)
            assert message["type"] == "shutdown" and message["reason"]
            delays.append(message["reconnect_after_seconds"])
            # The stream was ended properly: a broken transfer would be a TransportError.
            with pytest.raises(AssertionError, match="the stream ended"):
                await stream.event()
            # The stream's retry now says the same.
            assert abs(stream.retry_ms - 1000 * message["reconnect_after_seconds"]) <= 1000
        assert await gateway.exit_code() == 0
        assert time.monotonic() - begin < 5, "nothing to wait for, so no grace is needed"
    assert all(delay >= 0 for delay in delays)
    assert len(set(delays)) >= 3, f"clients would all come back at once: {sorted(delays)}"


async def test_a_client_that_does_not_answer_holds_the_stop_for_a_moment_and_all_are_told_to_come_back_later(
        start_gateway):
    """Such as a phone out of reach. A client that comes back before the gateway is there may never try again."""
    gateway = await start_gateway(SERVER_SHUTDOWN_GRACE_SECONDS=10)
    async with RawWebSocket(gateway, "phone"), WebSocket(gateway, "laptop") as laptop, EventStream(gateway, "tab") as tab:
        told_at = time.monotonic()
        gateway.signal()
        delays = [(await laptop.expect("shutdown"))["reconnect_after_seconds"],
                  json.loads((await tab.event()).data)["reconnect_after_seconds"], tab.retry_ms / 1000]
        assert await gateway.exit_code() == 0
        stop_took = time.monotonic() - told_at
    assert stop_took < 3, "a closing client gets a moment, not the grace"
    assert min(delays) >= stop_took + 1, f"{delays}: a stop of {stop_took} s and a start are to fit in before"


@pytest.mark.parametrize("used", [True, False], ids=["used", "fresh"])
async def test_idle_callers_do_not_hold_the_stop(start_gateway, used):
    """A pool keeps connections open for later; a balancer opens them in advance."""
    gateway = await start_gateway(API_LISTEN=f"127.0.0.1:{free_port()}")
    api = SimpleNamespace(port=int(gateway.environment["API_LISTEN"].rpartition(":")[2]))
    async with RawConnection(gateway) as at_the_door, RawConnection(api) as at_the_api:
        for connection in (at_the_door, at_the_api) if used else ():
            await connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await connection.response())[0] == 200
        if not used:
            # An idle connection is accepted once a later one has been answered.
            async with RawConnection(api) as later:
                await later.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert (await later.response())[0] == 200
        begin = time.monotonic()
        gateway.signal()
        assert await at_the_api.to_the_end() == b"" and await at_the_door.to_the_end() == b""
        assert await gateway.exit_code() == 0
        assert time.monotonic() - begin < 1.5, "nobody was owed anything"


async def test_a_caller_whose_answer_is_under_way_gets_it(start_gateway):
    """The rest of its body comes when the gateway has begun to stop."""
    gateway = await start_gateway()
    body = b'{"event_type":"late","payload":{},"target_user_id":"nobody"}'
    async with RawConnection(gateway) as caller, WebSocket(gateway, "witness") as witness:
        request = caller.request("POST", "/api/v1/notifications/send", body, **gateway.headers())
        await caller.send(request[:-10])
        await gateway.get_ok("/stats")
        gateway.signal()
        await witness.expect("shutdown")
        await caller.send(request[-10:])
        status, _, answer = await caller.response()
        assert (status, json.loads(answer)["error"]["code"]) == (503, "SHUTTING_DOWN")
    assert await gateway.exit_code() == 0


async def test_readiness_turns_false_when_stopping(start_gateway):
    """Seen from a new connection and from one that was open before."""
    gateway = await start_gateway()
    async with RawWebSocket(gateway, "stuck", receive_buffer=4096), RawConnection(gateway) as kept:
        await fill_the_outbox_of_a_stuck_client(gateway)
        await kept.send(kept.request("GET", "/health/ready"))
        assert (await kept.response())[0] == 200
        async with WebSocket(gateway, "witness") as witness:
            gateway.signal()
            await witness.expect("shutdown")
        with contextlib.suppress(EOFError, ConnectionError):
            await kept.send(kept.request("GET", "/health/ready"))
            assert (await kept.response())[0] == 503
    assert await gateway.exit_code() == 0


async def take_slowly(client):
    """Goes on taking what it is owed, so that the stop waits for it."""
    while await asyncio.get_running_loop().sock_recv(client.socket, 4096):
        await asyncio.sleep(0.1)


async def test_whoever_comes_while_it_stops_is_told_when_to_come_back(start_gateway):
    """A refused connection would be the end of a browser's EventSource."""
    gateway = await start_gateway(SERVER_SHUTDOWN_GRACE_SECONDS=8)
    async with RawWebSocket(gateway, "slow", receive_buffer=4096) as slow, WebSocket(gateway, "witness") as witness:
        for _ in range(4):
            assert (await gateway.send("slow", payload={"fill": "x" * 60_000}))["delivered_to"] == 1
        taking = asyncio.create_task(take_slowly(slow))
        gateway.signal()
        told = (await witness.expect("shutdown"))["reconnect_after_seconds"]
        async with httpx.AsyncClient(trust_env=False) as client:
            stream = gateway.sse_url(make_token("early"))
            events = await client.get(stream, headers={"Accept": "text/event-stream"})
            assert events.status_code == 200 and '"code":"SHUTTING_DOWN"' in events.text
            assert int(events.text.removeprefix("retry: ").split("\n")[0]) / 1000 > told, "the stop lasts longer than told"
            for method, url in (("GET", stream), ("POST", f"{gateway.url}/api/v1/notifications/broadcast")):
                body = {"event_type": "e", "payload": 1}
                refused = await client.request(method, url, headers=gateway.headers(), json=body)
                assert refused.status_code == 503 and refused.json()["error"]["code"] == "SHUTTING_DOWN"
                assert int(refused.headers["retry-after"]) > told
            ready = await client.get(f"{gateway.url}/health/ready")
            assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
            assert (await client.get(f"{gateway.url}/health/live")).status_code == 200
        taking.cancel()
    assert await gateway.exit_code(20) == 0


@pytest.mark.parametrize("path, needs", [("notifications/send", "key"), ("acks", "token"), ("notifications/send", "nothing")])
async def test_a_body_that_does_not_come_holds_the_stop_for_a_moment(start_gateway, path, needs):
    gateway = await start_gateway(SERVER_SHUTDOWN_GRACE_SECONDS=10)
    async with RawConnection(gateway) as caller, WebSocket(gateway, "witness") as witness:
        headers = {"key": gateway.headers(), "token": {"Authorization": f"Bearer {make_token('witness')}"}, "nothing": {}}
        request = caller.request("POST", f"/api/v1/{path}", b"{" * 100, **headers[needs])
        await caller.send(request[:-50])
        await gateway.get_ok("/stats")
        begin = time.monotonic()
        gateway.signal()
        told = (await witness.expect("shutdown"))["reconnect_after_seconds"]
        answer = await caller.to_the_end()
        assert answer.startswith(b"HTTP/1.1 401 " if needs == "nothing" else b"HTTP/1.1 503 "), answer
        assert await gateway.exit_code() == 0
        assert time.monotonic() - begin < told, "the next process could not start before clients come back"


async def test_what_was_accepted_is_written_before_the_close(start_gateway, user):
    gateway = await start_gateway()
    async with WebSocket(gateway, user) as client:
        for n in range(100):
            await gateway.send(user, payload=n)
        gateway.signal()
        assert [(await client.notification())["payload"] for _ in range(100)] == list(range(100))
        await client.expect("shutdown")
        assert await client.close_code() == 1001


async def fill_the_outbox_of_a_stuck_client(gateway):
    """Less than the outbox holds, so the client stays, with more than the kernel takes."""
    for _ in range(4):
        assert (await gateway.send("stuck", payload={"fill": "x" * 60_000}))["delivered_to"] == 1


async def test_the_grace_bounds_the_stop(start_gateway):
    gateway = await start_gateway(SERVER_SHUTDOWN_GRACE_SECONDS=2)
    async with RawWebSocket(gateway, "stuck", receive_buffer=4096):
        await fill_the_outbox_of_a_stuck_client(gateway)
        begin = time.monotonic()
        gateway.signal()
        assert await gateway.exit_code(8) == 0
        assert time.monotonic() - begin < 5


async def test_a_stuck_client_that_reads_again_gets_everything_within_the_grace(start_gateway):
    gateway = await start_gateway(SERVER_SHUTDOWN_GRACE_SECONDS=10)
    async with RawWebSocket(gateway, "stuck", receive_buffer=4096) as stuck, WebSocket(gateway, "witness") as witness:
        await fill_the_outbox_of_a_stuck_client(gateway)
        gateway.signal()
        await witness.expect("shutdown")
        kinds = [(await stuck.message())["type"] for _ in range(5)]
        assert kinds == ["notification"] * 4 + ["shutdown"]
        assert await stuck.close_code() == 1001
        assert await gateway.exit_code() == 0


async def test_a_second_signal_stops_at_once(new_folder):
    gateway = await Gateway(new_folder(), SERVER_SHUTDOWN_GRACE_SECONDS=60).start()
    try:
        async with RawWebSocket(gateway, "stuck", receive_buffer=4096):
            await fill_the_outbox_of_a_stuck_client(gateway)
            async with WebSocket(gateway, "witness") as witness:
                gateway.signal()
                await witness.expect("shutdown")
                assert await witness.close_code() == 1001
            await asyncio.sleep(0.15)  # Two signals closer together are one: nothing else tells them apart.
            assert gateway.running, "the stuck client was cut at once"
            gateway.signal()
            await gateway.exit_code(3)
    finally:
        await gateway.client.aclose()
        gateway.kill()


async def test_a_stop_that_arrives_as_two_signals_is_one(new_folder):
    """`timeout` and wrappers that forward signals reach a process by its id and by its group."""
    for _ in range(20):
        gateway = await Gateway(new_folder()).start()
        try:
            async with WebSocket(gateway, "client") as client:
                first = time.monotonic()
                gateway.signal(signal.SIGTERM)
                # The second must be a signal of its own: the first has been taken by then.
                while "stopping" not in gateway.log():
                    pass
                gateway.signal(signal.SIGINT)
                is_one = time.monotonic() - first < 0.09
                if is_one:
                    await client.expect("shutdown")
                    assert await client.close_code() == 1001
                    assert await gateway.exit_code() == 0
                    return
        finally:
            await gateway.client.aclose()
            gateway.kill()
    pytest.fail("this machine is too slow to send two signals within 90 ms")


async def test_a_signal_during_a_slow_start_stops_cleanly(new_store, new_folder):
    store = new_store()
    disk = FaultyDisk(store, FaultyDisk.compile(new_folder("faulty")))
    gateway = Gateway(new_folder(), **store.settings)
    try:
        with disk.does("sync", "hold"):
            gateway.spawn()
            await wait_until(disk.held.exists, 20, "the start waiting for its disk")
            gateway.signal()
            assert await gateway.exit_code(5) == 0
        assert "stopped before it was ready" in gateway.log()
    finally:
        await gateway.client.aclose()
        gateway.kill()


async def test_sigint_stops_cleanly_too(start_gateway, user):
    gateway = await start_gateway()
    async with WebSocket(gateway, user) as client:
        gateway.signal(signal.SIGINT)
        await client.expect("shutdown")
        assert await gateway.exit_code() == 0


# --- request heads that are never complete, or too long

async def test_a_head_never_completed_is_closed_by_its_deadline(gateway, user):
    """10 s, whichever request it is of, and a byte now and then does not buy more. As long as that a caller may be
    idle that has shown no valid key, whatever it was answered; one that has shown one is still served after it."""
    begin = time.monotonic()

    async def partial(dripping: bool, later: bool) -> tuple[bytes, float]:
        async with RawConnection(gateway) as connection:
            if later:
                await connection.send(connection.request("GET", "/stats", X_API_Key=API_KEY))
                assert (await connection.response())[0] == 200
            await connection.send(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")

            async def drip():
                with contextlib.suppress(OSError):
                    while True:
                        await connection.send(b"x")
                        await asyncio.sleep(0.5)

            task = asyncio.create_task(drip()) if dripping else None
            answer = await connection.to_the_end(patience_s=16)
            if task:
                task.cancel()
            return answer, time.monotonic() - begin

    async def idle(path: str, key: str) -> tuple[bytes, float]:
        async with RawConnection(gateway) as connection:
            await connection.send(connection.request("GET", path, X_API_Key=key))
            await connection.response()
            return await connection.to_the_end(patience_s=16), time.monotonic() - begin

    keyless = [idle("/nothing", "junk"), idle("/health", API_KEY), idle("/stats", "junk"),
                 idle("/api/v1/notifications/send", "junk")]
    async with WebSocket(gateway, user) as client, RawConnection(gateway) as known:
        await known.send(known.request("GET", "/stats", X_API_Key=API_KEY))
        assert (await known.response())[0] == 200
        partials = [partial(dripping, later) for dripping in (False, True) for later in (False, True)]
        for answer, took_s in await asyncio.gather(*partials, *keyless):
            assert answer == b"" or answer.startswith(b"HTTP/1.1 408"), answer[:200]
            assert 8 <= took_s <= 14, took_s
        await known.send(known.request("GET", f"/sse?token={make_token(user)}"))
        assert (await known.head())[0] == 200
        await client.assert_nothing_waits()


@pytest.mark.parametrize("path", ["/health", "/ws", "/sse", "/api/v1/channels"])
async def test_an_oversized_head_is_431(gateway, path):
    async with RawConnection(gateway) as connection:
        await connection.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for n in range(32):
                await connection.send(f"X-Fill-{n}: ".encode() + b"x" * 4000 + b"\r\n")
            await connection.send(b"\r\n")
        status, _ = await connection.head()
        assert status == 431


# --- the command line

def test_help_and_version(folder):
    result = run_cli("--help", cwd=folder)
    assert result.returncode == 0
    for word in ("serve", "token", "check-config", "--config"):
        assert word in result.stdout, word
    result = run_cli("--version", cwd=folder)
    assert result.returncode == 0 and re.search(r"\d+\.\d+\.\d+", result.stdout)
    for command in ("serve", "token", "check-config"):
        assert run_cli(command, "--help", cwd=folder).returncode == 0


def test_an_unknown_argument_is_refused(folder):
    result = run_cli("--no-such-option", cwd=folder)
    assert result.returncode == 2 and "--no-such-option" in result.stderr


async def test_the_token_command_prints_a_token_that_works(gateway, folder):
    result = run_cli("token", "--user", "cli-user", "--role", "admin", "--role", "editor", "--tenant", "red",
                     "--ttl", "1h", cwd=folder, **SETTINGS)
    assert result.returncode == 0, result.stderr
    token = result.stdout.strip()
    claims = jwt.decode(token, JWT_SECRET, algorithms=["HS256"])
    assert claims["sub"] == "cli-user" and claims["roles"] == ["admin", "editor"] and claims["tenant_id"] == "red"
    assert 3590 <= claims["exp"] - time.time() <= 3610
    result = run_cli("token", "--user", "cli-user", cwd=folder, **SETTINGS)
    async with WebSocket(gateway, token=result.stdout.strip()) as client:
        assert client.connected["user_id"] == "cli-user"


def test_check_config_prints_what_is_in_force_without_secrets(folder):
    result = run_cli("check-config", cwd=folder, SERVER_PORT="23456", WEBSOCKET_HEARTBEAT_INTERVAL="17",
                     REDIS_URL="redis://ara:redis-password@127.0.0.1:6390/0", **SETTINGS)
    assert result.returncode == 0, result.stderr
    output = result.stdout + result.stderr
    assert "23456" in output and "17" in output and "6390" in output
    for secret in (JWT_SECRET, API_KEY, "redis-password"):
        assert secret not in output


BAD_CONFIG = """
[server]
prot = 8080
max_connections = -5

[websocket]
hearbeat_interval = 30

[jwt]
algorithm = "HS255"
"""


@pytest.mark.parametrize("arguments", [(), ("serve",), ("check-config",)], ids=["bare", "serve", "check-config"])
def test_a_bad_configuration_exits_2_with_every_fault_at_once(folder, arguments):
    (folder / "bad.toml").write_text(BAD_CONFIG)
    result = run_cli(*arguments, "--config", "bad.toml", cwd=folder, SHARDS_COUNT="many", **SETTINGS)
    assert result.returncode == 2, (result.stdout, result.stderr)
    output = result.stdout + result.stderr
    for fault in ("prot", "port", "hearbeat_interval", "heartbeat_interval", "max_connections", "algorithm", "HS255",
                  "many"):
        assert fault in output, f"{fault} is not named in:\n{output}"
    assert named(output, "SHARDS_COUNT"), output
    for secret in (JWT_SECRET, API_KEY):
        assert secret not in output
    assert "panicked" not in output


@pytest.mark.parametrize("name, value", [
    ("SERVER_PORT", "99999"), ("SERVER_PORT", "http"), ("SERVER_HOST", "not a host"), ("JWT_ALGORITHM", "none"),
    ("QUEUE_ENABLED", "perhaps"), ("WEBSOCKET_HEARTBEAT_INTERVAL", "-1"), ("REDIS_URL", "http://127.0.0.1"),
    ("CORS_ORIGINS", "not an origin"), ("RUN_MODE", "staging"),
])
def test_a_bad_variable_exits_2_and_is_named(folder, name, value):
    result = run_cli("check-config", cwd=folder, **SETTINGS | {name: value})
    output = result.stdout + result.stderr
    assert result.returncode == 2, output
    assert named(output, name) and "panicked" not in output


def test_a_missing_or_broken_file_exits_2_and_is_named(folder):
    result = run_cli("check-config", "--config", "absent.toml", cwd=folder, **SETTINGS)
    assert result.returncode == 2 and "absent.toml" in result.stdout + result.stderr
    (folder / "broken.toml").write_text("[server\nport = 1\n")
    result = run_cli("check-config", "--config", "broken.toml", cwd=folder, **SETTINGS)
    assert result.returncode == 2 and "broken.toml" in result.stdout + result.stderr


def test_the_file_then_dotenv_then_the_environment(folder):
    (folder / "my.toml").write_text("[server]\nport = 21001\n[websocket]\nmax_message_bytes = 21002\n"
                                    "[shards]\ninbox_capacity = 21003\n")
    (folder / ".env").write_text("WEBSOCKET_MAX_MESSAGE_BYTES=22002\nSHARDS_INBOX_CAPACITY=22003\n")
    result = run_cli("check-config", "--config", "my.toml", cwd=folder, SHARDS_INBOX_CAPACITY="23003", **SETTINGS)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert [number for number in ("21001", "22002", "23003") if number not in output] == []
    assert [number for number in ("21002", "21003", "22003") if number in output] == []
    result = run_cli("check-config", cwd=folder, ARA_CONFIG="my.toml", **SETTINGS)
    assert result.returncode == 0 and "21001" in result.stdout + result.stderr


def test_production_without_secrets_exits_2_and_names_all_that_miss(folder):
    result = run_cli(cwd=folder, RUN_MODE="production")
    output = result.stdout + result.stderr
    assert result.returncode == 2, output
    for name in ("JWT_SECRET", "API_KEY"):
        assert named(output, name), name
    assert "CORS_ORIGINS" in output or "cors_origins" in output


def test_production_refuses_a_short_secret(folder):
    result = run_cli(cwd=folder, RUN_MODE="production", JWT_SECRET="too-short-a-secret", API_KEY=API_KEY,
                     CORS_ORIGINS="https://app.example")
    output = result.stdout + result.stderr
    assert result.returncode == 2 and named(output, "JWT_SECRET") and "32" in output
    assert "too-short-a-secret" not in output


@pytest.mark.parametrize("by", ["another-program", "another-gateway"])
async def test_a_port_in_use_exits_1_and_is_named(gateway, folder, by):
    """Sharing the port of another gateway would give each half of the clients, unnoticed."""
    with socket.socket() as other:
        port = gateway.port
        if by == "another-program":
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
        result = await asyncio.to_thread(run_cli, cwd=folder, SERVER_PORT=port, **SETTINGS)
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert str(port) in output


async def test_development_mode_prints_a_block_that_can_be_pasted(start_gateway, folder):
    """Nothing but a port is configured: the printed token connects and the printed curl sends to it."""
    gateway = await start_gateway(defaults=False)

    def printed() -> str | None:
        log = gateway.log()
        return log if TOKEN.search(log) and "curl" in log else None

    block = await wait_until(printed, what="the development block")
    token = TOKEN.search(block).group()
    command = re.search(r"curl \S+/notifications/send (?:.*\\\n)*.*", block).group()
    async with WebSocket(gateway, token=token) as client:
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        output, errors = await process.communicate()
        assert re.search(rb'"success":\s*true', output), (command, output, errors)
        await client.notification()


# --- the environment of the process

def limited(files: int) -> tuple[str, ...]:
    """The words before a command that limit how many files it may have open."""
    return (need("prlimit"), f"--nofile={files}:{files}")


@pytest.mark.parametrize("files, wanted", [(100, 0), (100, 500), (160, 0)])
def test_too_few_open_files_for_clients_exit_1_and_say_what_to_raise(folder, files, wanted):
    result = run_cli(cwd=folder, before=limited(files), SERVER_PORT=0, SHARDS_COUNT=1,
                     WEBSOCKET_MAX_CONNECTIONS=wanted, **SETTINGS)
    output = result.stdout + result.stderr
    assert result.returncode == 1 and "ready" not in output, output
    assert f"open-file limit of {files}" in output and "LimitNOFILE" in output and "ulimit" in output, output


async def test_few_open_files_are_enough_for_as_few_clients_as_were_asked_for(new_folder, user):
    gateway = Gateway(new_folder(), before=limited(128), WEBSOCKET_MAX_CONNECTIONS=8, SHARDS_COUNT=1)
    try:
        await gateway.start()
        async with WebSocket(gateway, user):
            pass
        await gateway.stop()
    finally:
        gateway.kill()


@pytest.mark.parametrize("arguments", [("token", "--user", "anna"), ("check-config",), ("--help",), ("--version",)],
                         ids=lambda arguments: arguments[0])
def test_output_that_cannot_be_written_exits_1_and_says_so(folder, arguments):
    with open("/dev/full", "w") as full:
        result = run_cli(*arguments, cwd=folder, stdout=full, **SETTINGS)
    assert result.returncode == 1, result.stderr
    assert "standard output" in result.stderr and "No space left" in result.stderr, result.stderr


async def test_a_service_called_server_and_the_dotenv_of_others_do_not_stop_the_start(new_folder, user):
    """What Kubernetes injects for a neighbour, and a file of the whole project."""
    port = free_port()
    files = {
        "config.toml": f"server.port = {port}\n",
        ".env": "# the project's\r\nthis is no line of ours\n9LIVES=cat\nQUOTE='open\nexport QUEUE_MAX_SIZE_PER_USER=1\n",
    }
    gateway = Gateway(new_folder(), files=files, QUEUE_ENABLED="True", SERVER_SERVICE_HOST="10.0.0.1",
                      SERVER_SERVICE_PORT="8081", SERVER_PORT_8081_TCP="tcp://10.0.0.1:8081", SERVER_PORT=port)
    gateway.environment["SERVER_PORT"] = "tcp://10.0.0.1:8081"
    try:
        await gateway.start()
        assert "enableServiceLinks" in gateway.log()
        for _ in range(2):
            assert (await gateway.send(user))["queued"] is True
        assert len(await gateway.queue(user)) == 1, "the .env file was read"
        await gateway.stop()
    finally:
        gateway.kill()


def test_a_slip_in_a_name_is_warned_about(folder):
    (folder / ".env").write_text("SERVER_PROT=9000\n")
    result = run_cli("check-config", cwd=folder, JWT_PUBLIC_KEY="x", **SETTINGS)
    assert result.returncode == 0, result.stderr
    assert "is SERVER_PORT meant?" in result.stdout and "is JWT_PUBLICKEY meant?" in result.stdout, result.stdout


def test_a_queue_directory_that_cannot_be_made_is_named_in_full_with_what_to_do(folder):
    (folder / "data").write_text("in the way")
    result = run_cli(cwd=folder, SERVER_PORT=0, QUEUE_ENABLED="on", QUEUE_BACKEND="disk", **SETTINGS)
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert str(folder.resolve() / "data") in output and "QUEUE_PATH" in output and "StateDirectory" in output, output
