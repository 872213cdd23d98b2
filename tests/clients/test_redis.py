"""Triggers come in through Redis, and nothing Redis does takes the gateway down or stops the HTTP API.

Set-up: a real redis-server on a free port; triggers through `redis-cli publish`; short breaker and
backoff times, so that recovery takes moments.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
import time

import pytest
import pytest_asyncio
import redis.asyncio
import redis.exceptions

from clients import EventStream, WebSocket
from conftest import need
from gateway import Gateway, free_port, run_cli, wait_until
from redis_server import RECOVERY_S, RedisServer, trigger, wait_for_redis

TIMINGS = {
    "REDIS_CIRCUIT_BREAKER_FAILURE_THRESHOLD": 2,
    "REDIS_CIRCUIT_BREAKER_SUCCESS_THRESHOLD": 1,
    "REDIS_CIRCUIT_BREAKER_RESET_TIMEOUT_SECONDS": 1,
    "REDIS_BACKOFF_INITIAL_DELAY_MS": 50,
    "REDIS_BACKOFF_MAX_DELAY_MS": 400,
}


@pytest_asyncio.fixture(scope="module")
async def shared_redis(new_folder):
    server = RedisServer(new_folder("redis"))
    try:
        yield await server.start()
    finally:
        server.kill()


@pytest_asyncio.fixture
async def own_redis(new_folder):
    """A Redis of its own, for tests that stop or kill it."""
    server = RedisServer(new_folder("redis"))
    try:
        yield await server.start()
    finally:
        server.kill()


@pytest_asyncio.fixture(scope="module")
async def listening(new_folder, shared_redis):
    """A gateway, tenants on, that is subscribed to the shared Redis."""
    gateway = Gateway(new_folder(), REDIS_URL=shared_redis.url, TENANT_ENABLED="true", **TIMINGS)
    try:
        await gateway.start()
        await wait_for_redis(gateway)
        yield gateway
        await gateway.stop()
    finally:
        gateway.kill()


async def test_what_comes_through_redis_for_an_absent_user_is_queued(start_gateway, shared_redis, user):
    gateway = await start_gateway(REDIS_URL=shared_redis.url, QUEUE_ENABLED="true", **TIMINGS)
    await wait_for_redis(gateway)
    await shared_redis.publish(f"notification:user:{user}", trigger("user", user, payload=1))
    await wait_until(lambda: gateway.queue(user), what="it waits")
    async with WebSocket(gateway, user) as client:
        message = await client.notification()
        assert (message["payload"], message["replayed"]) == (1, True)


@pytest.mark.parametrize("kind, on", [
    ("user", "notification:user:{user}"), ("channel", "notification:channel:{channel}"),
    ("broadcast", "notification:broadcast"), ("users", "notification:broadcast"), ("users", "notification:user:many"),
    ("channels", "notification:broadcast"), ("channels", "notification:channel:many"),
])
async def test_each_type_of_trigger_arrives(listening, shared_redis, user, channel, kind, on):
    target = {"user": user, "users": [user, "absent"], "broadcast": None, "channel": channel,
              "channels": [channel, f"{channel}.b"]}[kind]
    async with WebSocket(listening, user) as client, EventStream(listening, user) as stream:
        await client.subscribe(channel, f"{channel}.b")
        message = trigger(kind, target, payload={"n": 1}, priority="High", ttl=30, correlation_id="c-1")
        assert await shared_redis.publish(on.format(user=user, channel=channel), message) == 1
        received = await client.notification()
        assert received["event_type"] == "redis.event" and received["payload"] == {"n": 1}
        metadata = received["metadata"]
        assert (metadata["priority"], metadata["ttl"], metadata["correlation_id"]) == ("High", 30, "c-1")
        assert (await stream.notification())["id"] == received["id"]
        await client.assert_nothing_waits()


async def test_the_bytes_of_a_payload_are_unchanged(listening, shared_redis, user):
    payload = '{"b":12345678901234567890.10,"a":1e400, "z":[1.0,  2]}'
    text = f'{{"type":"user","target":"{user}","event":{{"event_type":"raw","payload":{payload}}}}}'
    async with WebSocket(listening, user) as client:
        await shared_redis.publish(f"notification:user:{user}", text)
        assert f'"payload":{payload}' in await client.text()


async def test_a_trigger_reaches_its_tenant_only(listening, shared_redis, user, channel):
    async with WebSocket(listening, user, claims={"tenant_id": "red"}) as red, \
            WebSocket(listening, user, claims={"tenant_id": "blue"}) as blue, WebSocket(listening, user) as default:
        clients = {"red": red, "blue": blue, None: default}
        for client in clients.values():
            await client.subscribe(channel)
        for on, kind, target in ((f"notification:user:{user}", "user", user),
                                 (f"notification:channel:{channel}", "channel", channel),
                                 ("notification:broadcast", "broadcast", None)):
            for tenant in clients:
                await shared_redis.publish(on, trigger(kind, target, payload=f"{kind} {tenant}", tenant=tenant))
            for tenant, client in clients.items():
                assert (await client.notification())["payload"] == f"{kind} {tenant}"
        for client in clients.values():
            await client.assert_nothing_waits()


def bad_messages(user: str, channel: str) -> dict[str, tuple[str, str]]:
    def on_user(message):
        return f"notification:user:{user}", message if isinstance(message, str) else json.dumps(message)

    good = trigger("user", user, payload="secret-payload")
    event = good["event"]
    return {
        "not-json": on_user("secret-payload"),
        "empty": on_user(""),
        "array": on_user("[]"),
        "no-type": on_user({k: v for k, v in good.items() if k != "type"}),
        "unknown-type": on_user(good | {"type": "everybody"}),
        "no-target": on_user({k: v for k, v in good.items() if k != "target"}),
        "target-of-the-wrong-kind": on_user(good | {"target": [user]}),
        "no-event": on_user({k: v for k, v in good.items() if k != "event"}),
        "no-event-type": on_user(good | {"event": {"payload": "secret-payload"}}),
        "no-payload": on_user(good | {"event": {"event_type": "e"}}),
        "unknown-priority": on_user(good | {"event": event | {"priority": "Urgent"}}),
        "bad-tenant": on_user(good | {"tenant_id": "not a tenant"}),
        "target-disagrees-with-the-channel": (f"notification:user:{user}-2", json.dumps(good)),
        "bad-channel-name": ("notification:channel:a b", json.dumps(trigger("channel", "a b"))),
        "channel-disagrees": (f"notification:channel:{channel}x", json.dumps(trigger("channel", channel))),
        "no-users": ("notification:broadcast", json.dumps(trigger("users", []))),
        "cut-off": on_user(json.dumps(good)[:-1]),
    }


async def test_bad_messages_are_ignored_counted_and_not_logged(listening, shared_redis, user, channel):
    async with WebSocket(listening, user) as client:
        await client.subscribe(channel)
        for on, text in bad_messages(user, channel).values():
            assert await shared_redis.publish(on, text) == 1
        # Bytes that are no UTF-8 and no text at all.
        connection = redis.asyncio.Redis(port=shared_redis.port)
        await connection.publish(f"notification:user:{user}", b'\xff\x00{"type":"user"}')
        await connection.aclose()
        await shared_redis.publish(f"notification:user:{user}", trigger("user", user, payload="good"))
        assert (await client.notification())["payload"] == "good"
        await client.assert_nothing_waits()
    await wait_until(lambda: "WARN" in listening.log(), what="a warning: a bad message is worth one")
    assert "secret-payload" not in listening.log()
    assert listening.running and (await listening.health())["status"] == "healthy"


@contextlib.asynccontextmanager
async def stream_of_triggers(server: RedisServer, gateway: Gateway, user: str):
    """Publishes to `user` all the time, whatever happens; meanwhile HTTP triggers must all be answered at once."""
    over = asyncio.Event()
    slowest_s = 0.0
    answered = 0

    async def publish():
        n = 0
        while not over.is_set():
            connection = redis.asyncio.Redis(port=server.port, socket_timeout=0.3, socket_connect_timeout=0.3)
            try:
                while not over.is_set():
                    n += 1
                    await connection.publish(f"notification:user:{user}", json.dumps(trigger("user", user, payload=n)))
                    await asyncio.sleep(0.005)
            except (redis.exceptions.RedisError, OSError):
                await asyncio.sleep(0.05)
            finally:
                await connection.aclose()

    async def send():
        nonlocal slowest_s, answered
        while not over.is_set():
            begin = time.monotonic()
            await gateway.send("http-user")
            slowest_s = max(slowest_s, time.monotonic() - begin)
            answered += 1
            await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(publish()), asyncio.create_task(send())]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*tasks)
    assert answered >= 10, "HTTP triggers went on"
    assert slowest_s < 2.0, f"an HTTP trigger waited {slowest_s:.1f} s for Redis"
    assert gateway.running


async def assert_triggers_arrive(server, gateway, client, channel):
    """Every kind of subscription is back. What is left of the stream is skipped."""
    await wait_for_redis(gateway)
    for on, message in ((f"notification:user:{client.user}", trigger("user", client.user, payload="after user")),
                        (f"notification:channel:{channel}", trigger("channel", channel, payload="after channel")),
                        ("notification:broadcast", trigger("broadcast", payload="after broadcast"))):
        assert await server.publish(on, message) >= 1
        while (await client.notification())["payload"] != message["event"]["payload"]:
            pass


async def redis_statuses_until(gateway, wanted: set[str]) -> dict:
    async def reached():
        health = await gateway.health()
        return health if health["redis"]["status"] in wanted else None

    return await wait_until(reached, RECOVERY_S, f"redis.status in {wanted}")


async def test_redis_killed_and_started_again(start_gateway, own_redis):
    gateway = await start_gateway(REDIS_URL=own_redis.url, **TIMINGS)
    await wait_for_redis(gateway)
    async with WebSocket(gateway, "watcher") as client, WebSocket(gateway, "busy") as busy:
        await client.subscribe("news")
        drain = asyncio.create_task(read_all(busy))
        async with stream_of_triggers(own_redis, gateway, "busy"):
            own_redis.kill()
            health = await redis_statuses_until(gateway, {"reconnecting", "circuit_open"})
            assert health["status"] == "degraded" and health["redis"]["connected"] is False
            await redis_statuses_until(gateway, {"circuit_open"})
            stats = (await gateway.get_ok("/stats"))["redis"]
            assert stats["connected"] is False and stats["circuit_breaker_failures"] >= 2
            assert (await gateway.send("watcher", payload="by http"))["delivered_to"] == 1
            assert (await client.notification())["payload"] == "by http"
            await own_redis.start()
            await assert_triggers_arrive(own_redis, gateway, client, "news")
        assert (await gateway.get_ok("/stats"))["redis"]["total_reconnections"] >= 1
        drain.cancel()


async def read_all(client):
    """A client that keeps up with the stream."""
    with contextlib.suppress(Exception):
        async for _ in client.socket:
            pass


async def test_the_subscription_is_killed_again_and_again(start_gateway, own_redis):
    gateway = await start_gateway(REDIS_URL=own_redis.url, **TIMINGS)
    await wait_for_redis(gateway)
    async with WebSocket(gateway, "watcher") as client, WebSocket(gateway, "busy") as busy:
        await client.subscribe("news")
        drain = asyncio.create_task(read_all(busy))
        async with stream_of_triggers(own_redis, gateway, "busy"):
            for _ in range(3):
                assert int(await own_redis.cli("CLIENT", "KILL", "TYPE", "pubsub")) >= 1

                async def subscribed():
                    return int((await own_redis.cli("PUBSUB", "NUMPAT")).strip()) == 2

                await wait_until(subscribed, RECOVERY_S, "both patterns subscribed again")
                await assert_triggers_arrive(own_redis, gateway, client, "news")
        assert (await gateway.get_ok("/stats"))["redis"]["total_reconnections"] >= 3
        drain.cancel()


async def test_redis_stopped_and_continued(start_gateway, own_redis):
    gateway = await start_gateway(REDIS_URL=own_redis.url, **TIMINGS)
    await wait_for_redis(gateway)
    async with WebSocket(gateway, "watcher") as client, WebSocket(gateway, "busy") as busy:
        await client.subscribe("news")
        drain = asyncio.create_task(read_all(busy))
        async with stream_of_triggers(own_redis, gateway, "busy"):
            own_redis.signal(signal.SIGSTOP)
            try:
                for n in range(30):
                    assert (await gateway.send("watcher", payload=n))["delivered_to"] == 1
                    assert (await client.notification())["payload"] == n
                    await asyncio.sleep(0.05)
            finally:
                own_redis.signal(signal.SIGCONT)
            await assert_triggers_arrive(own_redis, gateway, client, "news")
        drain.cancel()


async def test_a_gateway_started_without_its_redis_finds_it_later(start_gateway, new_folder):
    server = RedisServer(new_folder("redis"))
    gateway = await start_gateway(wait_for="/health/live", REDIS_URL=server.url, **TIMINGS)
    try:
        async with WebSocket(gateway, "watcher") as client:
            await client.subscribe("news")
            assert (await gateway.health())["status"] == "degraded"
            assert (await gateway.send("watcher"))["delivered_to"] == 1
            await client.notification()
            await server.start()
            await assert_triggers_arrive(server, gateway, client, "news")
    finally:
        server.kill()


# --- TLS

def make_certificate(folder, name: str, extensions: str, issuer: str | None = None):
    """A key and a certificate, self-signed as `openssl req -x509` makes them or issued by another one."""
    by = ["-CA", folder / f"{issuer}.pem", "-CAkey", folder / f"{issuer}.key"] if issuer else []
    request = [need("openssl"), "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
               "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key"]
    if issuer is None:
        subprocess.run([*request, "-x509", "-days", "2", "-addext", extensions, "-out", folder / f"{name}.pem"],
                       check=True, capture_output=True)
        return
    subprocess.run([*request, "-out", folder / "request"], check=True, capture_output=True)
    (folder / "extensions").write_text(extensions)
    subprocess.run([need("openssl"), "x509", "-req", "-days", "2", "-in", folder / "request", *by, "-CAcreateserial",
                    "-extfile", folder / "extensions", "-out", folder / f"{name}.pem"], check=True, capture_output=True)


@pytest_asyncio.fixture
async def redis_with_tls(new_folder):
    """Starts a Redis that speaks TLS on a second port, with the certificate `server` of a folder."""
    servers = []

    async def start(folder, *arguments: str) -> tuple[RedisServer, str]:
        port = free_port()
        server = RedisServer(new_folder("redis"), "--tls-port", str(port), "--tls-cert-file", str(folder / "server.pem"),
                             "--tls-key-file", str(folder / "server.key"), *arguments)
        servers.append(server)
        await server.start()
        return server, f"rediss://localhost:{port}"

    try:
        yield start
    finally:
        for server in servers:
            server.kill()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REDIS_TLS_CA"])
async def test_a_self_signed_certificate_that_was_named_is_trusted(
        redis_with_tls, start_gateway, tmp_path, user, variable):
    make_certificate(tmp_path, "server", "subjectAltName=DNS:localhost")
    server, url = await redis_with_tls(
        tmp_path, "--tls-ca-cert-file", str(tmp_path / "server.pem"), "--tls-auth-clients", "no")
    gateway = await start_gateway(REDIS_URL=url, **TIMINGS, **{variable: tmp_path / "server.pem"})
    await wait_for_redis(gateway)
    async with WebSocket(gateway, user) as client:
        await server.publish(f"notification:user:{user}", trigger("user", user, payload="over TLS"))
        assert (await client.notification())["payload"] == "over TLS"


async def test_a_redis_that_asks_for_a_client_certificate_gets_it(redis_with_tls, start_gateway, tmp_path, user):
    """As Redis does by default; without one the log says what to set."""
    make_certificate(tmp_path, "ca", "keyUsage=keyCertSign")
    make_certificate(tmp_path, "server", "subjectAltName=DNS:localhost", "ca")
    make_certificate(tmp_path, "client", "extendedKeyUsage=clientAuth", "ca")
    server, url = await redis_with_tls(tmp_path, "--tls-ca-cert-file", str(tmp_path / "ca.pem"))
    settings = {"REDIS_URL": url, "REDIS_TLS_CA": tmp_path / "ca.pem"} | TIMINGS
    without = await start_gateway(**settings)
    await wait_until(lambda: "redis.tls_cert" in without.log(), RECOVERY_S, "the advice in the log")
    assert (await without.health())["redis"]["connected"] is False
    gateway = await start_gateway(REDIS_TLS_CERT=tmp_path / "client.pem", REDIS_TLS_KEY=tmp_path / "client.key", **settings)
    await wait_for_redis(gateway)
    async with WebSocket(gateway, user) as client:
        await server.publish(f"notification:user:{user}", trigger("user", user))
        await client.notification()


def test_what_the_subscriber_would_refuse_for_ever_check_config_refuses(tmp_path):
    make_certificate(tmp_path, "ca", "keyUsage=keyCertSign")
    make_certificate(tmp_path, "other", "keyUsage=keyCertSign")
    ca = {"REDIS_TLS_CA": tmp_path / "ca.pem"}
    for settings, named in [
        ({"REDIS_URL": "rediss://:hunter2@h/#insecure"}, "#insecure"),
        ({"REDIS_TLS_CA": tmp_path / "absent.pem"}, "absent.pem"),
        ({"REDIS_TLS_CA": tmp_path / "ca.key"}, "ca.key"),
        ({"SSL_CERT_FILE": tmp_path / "absent.pem"}, "absent.pem"),
        (ca | {"REDIS_TLS_CERT": tmp_path / "ca.pem"}, "redis.tls_key"),
        (ca | {"REDIS_TLS_CERT": tmp_path / "ca.pem", "REDIS_TLS_KEY": tmp_path / "other.key"}, "other.key is not the key"),
    ]:
        for command in ("check-config", "serve"):
            result = run_cli(command, cwd=tmp_path, **{"REDIS_URL": "rediss://h", "SERVER_PORT": 0} | settings)
            assert result.returncode == 2, (settings, result.stdout, result.stderr)
            assert named in result.stderr and "hunter2" not in result.stderr, result.stderr
