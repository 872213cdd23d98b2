"""How often somebody may do something: requests, connections, messages, and attempts that fail.

Set-up: four shards; every test has addresses of its own (127.x.y.z, all of them this machine) and API keys of its own.
Property: of many at once exactly as many are taken as a full bucket has, and what came in meanwhile; everybody else
notices nothing. Why it matters: a limit that leaks protects nobody, and one that counts too much locks customers out.
"""

import asyncio
import itertools
import json
import time

import httpx
import pytest
import websockets

from clients import WebSocket, open_all
from conftest import gateway_module_fixture
from gateway import ALLOWED_ORIGIN, Gateway, assert_error, free_port, make_token, wait_until
from keys import FROM_FILE, entry, reload

BURST, CONNECTIONS, FAILURES, MESSAGES = 40, 12, 6, 10
KEYS = {name: f"key-of-{name}-0123456789" for name in ("one", "two", "three", "four", "live", "watch")}
LIMITS = f"""
[ratelimit]
enabled = true
http_requests_per_second = 1
http_burst_size = {BURST}
ws_connections_per_minute = {CONNECTIONS}
ws_messages_per_second = {MESSAGES}
auth_failures_per_minute = {FAILURES}
cleanup_interval_seconds = 0.2
"""
ENTRIES = "".join(entry(name, key, "read", "send", "admin") for name, key in KEYS.items())

gateway = gateway_module_fixture(**FROM_FILE, SHARDS_COUNT="4", SHARDS_PIN_TO_CORES="false", QUEUE_ENABLED="true",
                                 ACK_ENABLED="true", files={"config.toml": ENTRIES + LIMITS})
addresses = (f"127.{second}.{third}.1" for second, third in itertools.product(range(10, 250), range(250)))


@pytest.fixture
def address() -> str:
    return next(addresses)


def caller(gateway: Gateway, address: str, key: str | None = None) -> httpx.AsyncClient:
    """Calls from an address, with many connections at once, which the kernel spreads over the shards."""
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=httpx.Limits(max_connections=50))
    headers = {"X-API-Key": KEYS.get(key, key)} if key else {}
    return httpx.AsyncClient(base_url=gateway.url, transport=transport, headers=headers, timeout=10)


def socket_from(gateway: Gateway, address: str, user: str = "u", **options) -> WebSocket:
    return WebSocket(gateway, user, local_addr=(address, 0), **options)


class Stopwatch:
    """How many tokens a bucket was given meanwhile, at most."""

    def __init__(self, seconds_each: float):
        self.began, self.seconds_each = time.monotonic(), seconds_each

    def most(self, burst: int) -> int:
        return burst + int((time.monotonic() - self.began) / self.seconds_each)


def limit_headers(response: httpx.Response) -> list[int]:
    return [int(response.headers[f"x-ratelimit-{name}"]) for name in ("limit", "remaining", "reset")]


def assert_limited(response: httpx.Response, limit: str, burst: int, seconds_each: float):
    error = assert_error(response, 429, "RATE_LIMITED")
    seconds = int(response.headers["retry-after"])
    assert 1 <= seconds <= seconds_each + 1
    assert error["message"] == f"Too many requests, please retry after {seconds} seconds"
    assert error["details"] == {"limit": limit}
    assert limit_headers(response)[:2] == [burst, 0]


async def ratelimit_stats(gateway: Gateway) -> dict:
    async with caller(gateway, "127.0.0.1", "watch") as http:
        return (await http.get("/stats")).json()["ratelimit"]


async def test_a_key_may_ask_so_often_wherever_it_is_used(gateway, address):
    before, watch = await ratelimit_stats(gateway), Stopwatch(1)
    async with caller(gateway, address, "one") as http, caller(gateway, next(addresses), "one") as elsewhere:
        answers = await asyncio.gather(*((http, elsewhere)[n % 2].get("/api/v1/channels") for n in range(2 * BURST)))
        taken = [answer for answer in answers if answer.status_code == 200]
        assert BURST <= len(taken) <= watch.most(BURST)
        for answer in answers:
            if answer.status_code != 200:
                assert_limited(answer, "requests", BURST, 1)
        levels = [limit_headers(answer) for answer in taken]
        assert {limit for limit, _, _ in levels} == {BURST}
        assert sorted({left for _, left, _ in levels})[:BURST] == list(range(BURST))
        assert all(BURST - left - 1 <= reset <= BURST - left for _, left, reset in levels)
        assert (await http.get("/health")).status_code == 200
        assert "x-ratelimit-limit" not in (await http.get("/health/live")).headers
    async with caller(gateway, address, "two") as http:
        answer = await http.get("/api/v1/channels")
        assert answer.status_code == 200 and limit_headers(answer)[1] == BURST - 1, "another key has its own"
    after = await ratelimit_stats(gateway)
    assert after["requests_denied"] - before["requests_denied"] == 2 * BURST - len(taken)
    assert after["enabled"] and after["untracked"] == 0


async def test_without_a_key_an_address_may_ask_so_often(gateway, address):
    watch = Stopwatch(1)
    async with caller(gateway, address) as http:
        paths = ["/openapi.json", "/nowhere", "/api/v1/channels", "/stats"]
        answers = await asyncio.gather(*(http.get(paths[n % 4]) for n in range(BURST + 20)))
        limited = [answer for answer in answers if answer.status_code == 429]
        assert BURST <= len(answers) - len(limited) <= watch.most(BURST)
        assert {answer.status_code for answer in answers} == {200, 404, 401, 429}
        preflight = await http.options("/stats", headers={"Origin": ALLOWED_ORIGIN})
        assert preflight.status_code == 429 and preflight.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
        answer = await http.get("/api/v1/channels", headers={"X-API-Key": KEYS["two"]})
        assert answer.status_code == 200, "a valid key is not its address"
    async with caller(gateway, next(addresses)) as http:
        assert (await http.get("/openapi.json")).status_code == 200


async def connect_many(gateway: Gateway, address: str, count: int, **options):
    """So many WebSockets at once, each of a user of its own. Those that were taken, and the refusals."""
    return await open_all([socket_from(gateway, address, f"user-{number}", **options) for number in range(count)])


async def test_an_address_may_connect_so_often_over_both_transports(gateway, address):
    watch = Stopwatch(60 / CONNECTIONS)
    taken, refused = await connect_many(gateway, address, 2 * CONNECTIONS)
    assert CONNECTIONS <= len(taken) <= watch.most(CONNECTIONS)
    for response in refused:
        error = json.loads(response.body)["error"]
        assert (response.status_code, error["code"]) == (429, "RATE_LIMITED")
        assert error["details"] == {"limit": "connections"}
        assert 1 <= int(response.headers["retry-after"]) <= 60 / CONNECTIONS + 1
        assert response.headers["x-ratelimit-limit"] == str(CONNECTIONS)
    for socket in taken:
        await socket.__aexit__(None, None, None)
    async with caller(gateway, address) as http:
        # That they have left gives nothing back: what is limited is coming.
        url = gateway.sse_url(make_token("stream"))
        answer = await http.get(url)
        if answer.status_code != 200:  # else one came in meanwhile
            assert_error(answer, 429, "RATE_LIMITED")
        events = await http.get(url, headers={"Accept": "text/event-stream"})
        assert events.status_code == 200 and "RATE_LIMITED" in events.text
        retry_ms = int(events.text.split("retry: ")[1].split("\n")[0])
        assert 1000 <= retry_ms <= (60 / CONNECTIONS + 1) * 1000 + 4000, "it is told when to come back"
    async with socket_from(gateway, next(addresses)):
        pass


async def test_tokens_that_fail_are_counted_over_all_shards_and_then_none_is_looked_at(gateway, address):
    before, watch = await ratelimit_stats(gateway), Stopwatch(60 / FAILURES)
    wrong = [make_token("u", secret="x" * 40), make_token("u", exp=1), "no.token.atall"]
    async with caller(gateway, address) as http:
        answers = await asyncio.gather(*(http.get(gateway.sse_url(wrong[n % 3])) for n in range(5 * FAILURES)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert FAILURES <= len(answers) - len(refused) <= watch.most(FAILURES)
        for answer in refused:
            assert_limited(answer, "failed_tokens", FAILURES, 60 / FAILURES)
        for answer in answers:
            if answer not in refused:
                assert_error(answer, 401, "UNAUTHORIZED")
                assert "invalid_token" in answer.headers["www-authenticate"]
        # Use up what may have come in meanwhile.
        while (await http.get(gateway.sse_url(wrong[0]))).status_code != 429:
            pass
        answer = await http.post("/api/v1/acks", json={"notification_ids": []},
                                 headers={"Authorization": f"Bearer {make_token('u')}"})
        assert_limited(answer, "failed_tokens", FAILURES, 60 / FAILURES)
        with pytest.raises(websockets.InvalidStatus) as refusal:
            await socket_from(gateway, address).__aenter__()
        assert refusal.value.response.status_code == 429, "nor is a valid one"
        assert (await http.get("/api/v1/channels", headers={"X-API-Key": KEYS["two"]})).status_code == 200
        assert_error(await http.get("/sse"), 401, "UNAUTHORIZED")  # nothing to look at
    async with socket_from(gateway, next(addresses)):
        pass
    after = await ratelimit_stats(gateway)
    assert after["failed_tokens_denied"] - before["failed_tokens_denied"] >= len(refused) + 2


async def test_keys_that_fail_are_counted_and_then_none_is_looked_at(gateway, address):
    watch = Stopwatch(60 / FAILURES)
    async with caller(gateway, address, "a-key-that-is-not-valid") as http:
        answers = await asyncio.gather(*(http.get("/api/v1/channels") for _ in range(3 * FAILURES)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert FAILURES <= len(answers) - len(refused) <= watch.most(FAILURES)
        for answer in refused:
            assert_limited(answer, "failed_keys", FAILURES, 60 / FAILURES)
        while (await http.get("/api/v1/channels")).status_code != 429:
            pass
        valid = await http.get("/api/v1/channels", headers={"X-API-Key": KEYS["two"]})
        assert_limited(valid, "failed_keys", FAILURES, 60 / FAILURES)
        assert (await http.get("/openapi.json")).status_code == 200
    async with caller(gateway, next(addresses), "two") as http:
        assert (await http.get("/api/v1/channels")).status_code == 200


async def test_a_client_may_send_so_many_messages_and_is_sent_away_if_it_goes_on(gateway, address):
    async with socket_from(gateway, address, "talker") as socket, socket_from(gateway, address, "other") as other:
        for _ in range(MESSAGES + 5):
            await socket.send({"type": "Ping"})
        answers = [await socket.next() for _ in range(MESSAGES + 5)]
        pongs = [answer for answer in answers if answer["type"] == "pong"]
        assert MESSAGES <= len(pongs) < MESSAGES + 5
        assert {answer["code"] for answer in answers if answer not in pongs} == {"RATE_LIMITED"}
        await other.assert_nothing_waits()
        # What it does not send it is not denied.
        await gateway.client.post("/api/v1/notifications/send", headers={"X-API-Key": KEYS["three"]},
                                  json={"target_user_id": "talker", "event_type": "e", "payload": 1})
        notification = await socket.notification()
        await socket.ack(notification["id"])
        for _ in range(200):
            await socket.send({"type": "Subscribe", "payload": {"channels": ["a"]}})
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                assert (await socket.next())["type"] in ("subscribed", "error")
        assert (socket.socket.close_code, socket.socket.close_reason) == (1008, "rate limit exceeded")
        await other.assert_nothing_waits()
    async with caller(gateway, address, "watch") as http:
        assert (await http.get("/stats")).json()["connections"]["rate_abuses"] >= 1


async def test_who_acknowledges_a_long_queue_at_once_is_not_held_back(gateway, address):
    count = 4 * MESSAGES
    items = [{"target": {"type": "user", "value": "away"}, "event_type": "e", "payload": n} for n in range(count)]
    async with caller(gateway, address, "three") as http:
        answer = await http.post("/api/v1/notifications/batch", json={"notifications": items})
        assert answer.json()["summary"]["succeeded"] == count
    async with socket_from(gateway, address, "away") as socket:
        waiting = [await socket.notification() for _ in range(count)]
        for notification in waiting:
            await socket.send({"type": "Ack", "payload": {"notification_id": notification["id"]}})
        for notification in waiting:
            assert await socket.expect("acked") == {"type": "acked", "notification_id": notification["id"]}
        for notification in waiting:  # again, which settles nothing
            await socket.send({"type": "Ack", "payload": {"notification_id": notification["id"]}})
        codes = [(await socket.expect("error"))["code"] for _ in waiting]
        assert codes.count("ACK_UNKNOWN") >= MESSAGES and set(codes[MESSAGES:]) >= {"RATE_LIMITED"}


async def test_pings_of_the_protocol_are_messages_too(gateway, address):
    async with socket_from(gateway, address, "pinger") as socket:
        pongs = [await socket.socket.ping() for _ in range(MESSAGES)]
        await asyncio.wait_for(asyncio.gather(*pongs), 5)
        for _ in range(5):
            await socket.socket.ping()
        await socket.error("RATE_LIMITED")


async def test_idle_buckets_leave(start_gateway, address):
    """Of every limit; rates so high that a bucket is full again in a moment."""
    quick = LIMITS.replace("per_second = 1", "per_second = 1000").replace("per_minute = ", "per_minute = 99")
    gateway = await start_gateway(**FROM_FILE, files={"config.toml": ENTRIES + quick})
    async with caller(gateway, address, "not-a-key-0123456789") as http:
        assert (await http.get("/stats")).status_code == 401
        assert (await http.get(gateway.sse_url("no.token.atall"))).status_code == 401
    async with socket_from(gateway, address):
        pass
    stats = await ratelimit_stats(gateway)
    counted = ("requests", "connections", "failed_tokens", "failed_keys")
    assert all(stats[f"{limit}_allowed"] >= 1 for limit in counted), stats

    async def only_who_asks_is_left():
        return (await ratelimit_stats(gateway))["buckets"] <= 1
    await wait_until(only_who_asks_is_left)


async def test_a_reload_changes_the_limits_and_a_restart_forgets_what_was_taken(start_gateway, address):
    narrow = LIMITS.replace(f"http_burst_size = {BURST}", "http_burst_size = 3")
    gateway = await start_gateway(**FROM_FILE, files={"config.toml": ENTRIES + narrow})

    async def taken_of(count: int) -> int:
        async with caller(gateway, address, "live") as http:
            answers = await asyncio.gather(*(http.get("/api/v1/channels") for _ in range(count)))
            return sum(answer.status_code == 200 for answer in answers)

    assert 3 <= await taken_of(10) <= 5
    outcome = await reload(gateway, ENTRIES + LIMITS)
    assert outcome["outcome"] == "applied" and outcome["keys"] == "ratelimit.http_burst_size"
    assert await taken_of(20) == 20
    assert (await reload(gateway, ENTRIES + LIMITS.replace("enabled = true", "enabled = false")))["outcome"] == "applied"
    assert await taken_of(2 * BURST) == 2 * BURST
    async with socket_from(gateway, address) as socket:
        for _ in range(3 * MESSAGES):
            await socket.send({"type": "Ping"})
        for _ in range(3 * MESSAGES):
            await socket.expect("pong")
        await reload(gateway, ENTRIES + narrow)
        for _ in range(3 * MESSAGES):
            await socket.send({"type": "Ping"})
        kinds = [(await socket.next())["type"] for _ in range(3 * MESSAGES)]
        assert "error" in kinds, "of a client that is connected too"
    assert await taken_of(10) <= 5
    gateway.kill()
    await gateway.start()
    assert 3 <= await taken_of(10) <= 5, "a full bucket again"


async def test_with_limits_off_nothing_is_counted_or_said(start_gateway, address):
    gateway = await start_gateway()
    answer = await gateway.get("/stats")
    assert answer.json()["ratelimit"] == dict.fromkeys(answer.json()["ratelimit"], 0) | {"enabled": False}
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    async with caller(gateway, address, "no-such-key-0123456789") as http:
        answers = await asyncio.gather(*(http.get("/stats") for _ in range(100)))
        assert {answer.status_code for answer in answers} == {401}


async def test_where_the_api_is_not_a_valid_key_is_as_good_as_none(start_gateway, address):
    """Or its own bucket would show that it is valid, and failures there would lock it out elsewhere."""
    port = free_port()
    gateway = await start_gateway(**FROM_FILE, API_LISTEN=f"127.0.0.1:{port}", files={"config.toml": ENTRIES + LIMITS})
    watch = Stopwatch(1)
    async with caller(gateway, address) as http:
        lefts = []
        for key in ("one", "a-wrong-key-0123456789", "one", *["a-wrong-key-0123456789"] * (2 * FAILURES)):
            answer = await http.get("/api/v1/channels", headers={"X-API-Key": KEYS.get(key, key)})
            assert answer.status_code == 404
            lefts.append(int(answer.headers["x-ratelimit-remaining"]))
        assert BURST - len(lefts) <= lefts[-1] <= watch.most(BURST) - len(lefts), "all are of one address"
        here = await http.get(f"http://127.0.0.1:{port}/api/v1/channels", headers={"X-API-Key": KEYS["one"]})
        assert here.status_code == 200 and limit_headers(here)[1] == BURST - 1
