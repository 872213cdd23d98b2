"""Batches through Redis: each notification is sent or counted by itself, and reaches whom it would have reached alone.

Set-up: a real redis-server, four shards, tenants, the queue on, room for 16 in a lane; what became of a batch is read from `/stats`,
since nobody is answered. Why it matters: a publisher that sends a hundred at once hears of nothing, so nothing may be lost for
the fault of another, and what is lost must be counted.
"""

import contextlib
import json

import pytest
import pytest_asyncio
import redis.asyncio

from clients import EventStream, WebSocket
from gateway import Gateway, wait_until
from redis_server import RedisServer, trigger, wait_for_redis
from test_batch import item

BROADCAST = "notification:broadcast"
BYTES_MAX = 1024 * 1024
LANE = 16


@contextlib.asynccontextmanager
async def subscribed(new_folder, **settings):
    """A Redis, and a gateway that is subscribed to it."""
    server = RedisServer(new_folder("redis"))
    gateway = Gateway(new_folder(), REDIS_URL=server.url, SHARDS_INBOX_CAPACITY=LANE, **settings)
    try:
        await server.start()
        await gateway.start()
        await wait_for_redis(gateway)
        yield server, gateway
        await gateway.stop()
    finally:
        gateway.kill()
        server.kill()


@pytest_asyncio.fixture(scope="module")
async def both(new_folder):
    async with subscribed(new_folder, TENANT_ENABLED="true", QUEUE_ENABLED="true", SHARDS_COUNT="4") as both:
        yield both


@pytest.fixture
def server(both):
    return both[0]


@pytest.fixture
def gateway(both):
    return both[1]


@pytest_asyncio.fixture
async def without_tenants(new_folder):
    async with subscribed(new_folder) as both:
        yield both


def batch(items: list, tenant: str | None = None, **options) -> str:
    message = {"type": "batch", "notifications": items, "options": options}
    return json.dumps(message if tenant is None else message | {"tenant_id": tenant})


class Published:
    """What one message has changed in the figures."""

    def __init__(self, before: dict, after: dict):
        def changed(section: str, name: str) -> int:
            return after[section][name] - before[section][name]

        self.batches = changed("messages", "batches"), changed("messages", "batch_notifications")
        self.triggers = changed("messages", "triggers")
        self.overloaded = changed("messages", "refused_overloaded")
        self.not_sent = changed("redis", "messages_not_sent")
        rejected = {reason: count - before["redis"]["messages_rejected"][reason]
                    for reason, count in after["redis"]["messages_rejected"].items()}
        self.rejected = {reason: count for reason, count in rejected.items() if count}


async def publish(server, gateway, message: str | bytes, on: str = BROADCAST) -> Published:
    """Publishes, and waits until the gateway has taken it."""
    before = await gateway.get_ok("/stats")
    connection = redis.asyncio.Redis(port=server.port)
    assert await connection.publish(on, message) == 1
    await connection.aclose()

    async def taken():
        stats = await gateway.get_ok("/stats")
        return stats if stats["redis"]["messages_received"] > before["redis"]["messages_received"] else None

    return Published(before, await wait_until(taken, what="the message taken"))


async def event_types(client, count: int) -> list[str]:
    return [(await client.notification())["event_type"] for _ in range(count)]


async def test_every_kind_of_target_is_reached_over_both_transports(server, gateway, user, channel):
    async with WebSocket(gateway, user) as socket, EventStream(gateway, f"{user}-sse", channels=channel) as stream:
        await socket.subscribe(channel)
        published = await publish(server, gateway, batch([
            item("user", user, "one"), item("users", [user, f"{user}-sse"], "two"), item("channel", channel, "three"),
            item("channels", [channel, "other"], "four"), item("broadcast", None, "five"), item("user", f"{user}-away", "six"),
        ]))
        assert (published.batches, published.triggers, published.rejected) == ((1, 6), 6, {})
        assert sorted(await event_types(socket, 5)) == ["five", "four", "one", "three", "two"]
        assert sorted(await event_types(stream, 4)) == ["five", "four", "three", "two"]
        await socket.assert_nothing_waits()
    [waiting] = await gateway.queue(f"{user}-away")
    assert waiting["notification"]["event_type"] == "six"


async def test_what_a_notification_says_arrives_unchanged(server, gateway, user):
    payload = '{"b":12345678901234567890.10,"a":1e400, "z":[1.0,  2]}'
    target = f'"target":{{"type":"user","value":"{user}"}}'
    text = (f'{{"notifications":[{{{target},"event_type":"raw","payload":{payload},"priority":"High","ttl":30,"correlation_id":"c-1"}},'
            f'{{{target},"event_type":"raw","payload":1,"source":"shop","priority":"High"}}],"type":"batch"}}')
    async with WebSocket(gateway, user) as client:
        await publish(server, gateway, text)
        first = await client.text()
        assert f'"payload":{payload}' in first
        metadata = {"source": "redis", "priority": "High", "ttl": 30, "correlation_id": "c-1"}
        assert json.loads(first)["metadata"] == metadata
        assert (await client.notification())["metadata"]["source"] == "shop"


async def test_one_user_gets_its_notifications_in_their_order(without_tenants, user):
    """A hundred are one parcel: it takes one place of a lane that has room for 16."""
    server, gateway = without_tenants
    async with WebSocket(gateway, user) as client:
        published = await publish(server, gateway, batch([item("user", user, f"e{n}") for n in range(100)]))
        assert (published.batches, published.triggers, published.not_sent) == ((1, 100), 100, 0)
        assert await event_types(client, 100) == [f"e{n}" for n in range(100)]
        await publish(server, gateway, json.dumps(trigger("user", user, event_type="after")), f"notification:user:{user}")
        assert await event_types(client, 1) == ["after"]


async def test_a_wrong_one_is_counted_and_named_in_the_log_and_the_others_are_sent(without_tenants, user):
    server, gateway = without_tenants
    wrong = [item("user", user, priority="secret-priority"), item("user", 7), item("user", user, colour=1), "secret", item("user", user, ttl=-1),
             item("user", user, payload="x" * 66_000), item("user", user, queue=True),
             {"target": {"type": "user", "value": user}, "template_id": "none"}]
    async with WebSocket(gateway, user) as client:
        published = await publish(server, gateway, batch([item("user", user, "first"), *wrong, item("user", user, "last")]))
        assert await event_types(client, 2) == ["first", "last"]
        await client.assert_nothing_waits()
    assert (published.batches, published.triggers, published.not_sent) == ((1, 10), 2, 0)
    assert published.rejected == {"bad_priority": 1, "bad_target": 1, "unknown_field": 1, "bad_json": 1, "bad_ttl": 1, "too_large": 1,
                                  "bad_audience": 1, "bad_template": 1}
    message = "rejected a notification of a batch from Redis"
    [line] = await wait_until(lambda: [line for line in gateway.log().splitlines() if message in line], what="one line")
    assert "index=1" in line and 'field="priority"' in line and 'reason="bad_priority"' in line, line
    assert "secret" not in gateway.log()


async def test_a_template_is_filled_in_with_the_variables_of_each(server, gateway, user):
    template = {"id": f"t-{user}", "event_type": "shipped", "payload_template": {"text": "Dear {{name}}", "n": "{{n}}"}}
    assert (await gateway.post("/api/v1/templates", template)).status_code == 201

    def by_template(**variables) -> dict:
        return {"target": {"type": "user", "value": user}, "template_id": template["id"], "variables": variables}

    async with WebSocket(gateway, user) as client:
        items = [by_template(name="Anna", n=1), by_template(name="Bob"), by_template(name=["Bob"], n=1), by_template(name="Cleo", n=[2])]
        published = await publish(server, gateway, batch(items))
        assert published.rejected == {"missing_variable": 1, "invalid_variable": 1}
        for payload in ({"text": "Dear Anna", "n": 1}, {"text": "Dear Cleo", "n": [2]}):
            notification = await client.notification()
            assert (notification["event_type"], notification["payload"]) == ("shipped", payload)
        assert (await publish(server, gateway, batch(items[:1], "beta"))).rejected == {"bad_template": 1}, "a tenant has its own"


async def test_deduplicate_skips_the_same_target_and_event_type(server, gateway, user):
    other = f"{user}-2"
    items = [item("user", 7), item("users", [user, other]), item("users", [other, user]), item("users", [user, other], "else"),
             item("user", user), item("users", [user])]
    async with WebSocket(gateway, user) as client:
        published = await publish(server, gateway, batch(items, deduplicate=True))
        assert (published.triggers, published.rejected) == (3, {"bad_target": 1})
        assert await event_types(client, 3) == ["e", "else", "e"]
        await client.assert_nothing_waits()
        assert (await publish(server, gateway, batch(items))).triggers == 5


async def test_stop_on_error_leaves_the_rest_alone_and_nobody_connected_is_no_error(server, gateway, user):
    async with WebSocket(gateway, user) as client:
        items = [item("channel", "nobody"), item("user", user, "before"), item("user", 7), item("user", user, "after"), item("user", 7)]
        published = await publish(server, gateway, batch(items, stop_on_error=True))
        assert (published.batches, published.triggers) == ((1, 5), 2)
        assert published.rejected == {"bad_target": 1, "not_attempted": 2}
        assert await event_types(client, 1) == ["before"]
        await client.assert_nothing_waits()


async def test_a_batch_is_of_its_tenant(server, gateway, user, channel):
    tenants = ("alpha", "beta", None)
    clients = {tenant: WebSocket(gateway, user, claims={"tenant_id": tenant} if tenant else None) for tenant in tenants}
    async with clients["alpha"], clients["beta"], clients[None]:
        for client in clients.values():
            await client.subscribe(channel)
        for tenant in tenants:
            items = [item(kind, value, f"{kind} of {tenant}") for kind, value in
                     [("user", user), ("channel", channel), ("broadcast", None)]]
            foreign = item("user", user, tenant_id="alpha")
            published = await publish(server, gateway, batch([*items, foreign], tenant))
            assert (published.triggers, published.rejected) == (3, {"unknown_field": 1})
        for tenant, client in clients.items():
            assert await event_types(client, 3) == [f"{kind} of {tenant}" for kind in ("user", "channel", "broadcast")]
            await client.assert_nothing_waits()


async def test_what_finds_no_room_in_its_lane_is_counted_and_the_others_are_sent(server, gateway, user):
    """Where tenants share a lane, each notification takes a place, and a tenant may have as many as are free: half of 16."""
    async with WebSocket(gateway, user) as client:
        items = [item("user", user, f"e{n}") for n in range(12)] + [item("user", user, "urgent", priority="Critical")]
        published = await publish(server, gateway, batch(items))
        assert (published.triggers, published.not_sent, published.overloaded, published.rejected) == (9, 4, 4, {})
        assert sorted(await event_types(client, 9)) == sorted([*(f"e{n}" for n in range(8)), "urgent"])
        published = await publish(server, gateway, batch(items, stop_on_error=True))
        assert (published.triggers, published.not_sent, published.rejected) == (8, 1, {"not_attempted": 4})
        assert await event_types(client, 8) == [f"e{n}" for n in range(8)]
        await client.assert_nothing_waits()
    await wait_until(lambda: "a Redis trigger was not sent" in gateway.log(), what="a line about what was not sent")


async def test_what_is_no_batch_is_one_rejected_message_and_nothing_of_it_is_sent(server, gateway, user):
    one = item("user", user)
    good = batch([one])
    cases = [
        (batch([]), "bad_batch"), (batch([one] * 101), "bad_batch"), (batch([one], stop=True), "unknown_field"),
        (batch([one], deduplicate="yes"), "bad_batch"), (batch([one], "not a tenant"), "bad_tenant"), (good[:-1], "bad_json"),
        (json.dumps({"type": "batch"}), "bad_batch"), (json.dumps({"type": "batch", "notifications": one}), "bad_batch"),
        (json.dumps({"type": "batch", "notifications": [one], "event": trigger("user")["event"]}), "unknown_field"),
        (json.dumps(trigger("broadcast") | {"notifications": [one]}), "unknown_field"),
        (good.encode()[:-1] + b',"options":"\xff"}', "bad_json"), (good + " " * (BYTES_MAX + 1 - len(good)), "too_large"),
    ]
    async with WebSocket(gateway, user) as client:
        for text, reason in cases:
            published = await publish(server, gateway, text)
            assert (published.rejected, published.batches, published.triggers) == ({reason: 1}, (0, 0), 0), text[:200]
        for on in (f"notification:user:{user}", "notification:channel:news"):
            assert (await publish(server, gateway, good, on)).rejected == {"wrong_target": 1}
        await client.assert_nothing_waits()
        published = await publish(server, gateway, good + " " * (BYTES_MAX - len(good)))
        assert (published.rejected, published.triggers) == ({}, 1)
        assert await event_types(client, 1) == ["e"]
    assert gateway.running and (await gateway.health())["status"] == "healthy"


async def test_batches_of_both_ways_are_counted_together(server, gateway, user):
    before = (await gateway.get_ok("/stats"))["messages"]
    answer = await gateway.post("/api/v1/notifications/batch", {"notifications": [item("user", user), item("user", 7)]})
    assert answer.status_code == 200
    assert (await gateway.post("/api/v1/notifications/batch", {"notifications": []})).status_code == 400
    await publish(server, gateway, batch([item("user", user)] * 3))
    after = (await gateway.get_ok("/stats"))["messages"]
    assert after["batches"] - before["batches"] == 2
    assert after["batch_notifications"] - before["batch_notifications"] == 5
