"""Each trigger reaches exactly the connections its target names, once, and counts them exactly.

Clients: PyPI websockets and httpx-sse. Absence is proved without waiting: a client that was sent nothing
receives the answer to its own ping next.
"""

import asyncio
import contextlib
import json
import uuid
from datetime import datetime

import pytest

from clients import EventStream, WebSocket

# Numbers no float can hold, odd spacing, an order of keys that sorting would change.
RAW_PAYLOAD = '{"b":12345678901234567890.10,"a":1e400, "z":[1.0,  2]}'


@contextlib.asynccontextmanager
async def sockets(gateway, *users, **options):
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(WebSocket(gateway, user, **options)) for user in users]


async def assert_received_once(clients, identifier):
    for client in clients:
        assert (await client.notification())["id"] == identifier
        await client.assert_nothing_waits()


async def test_the_answer_of_a_trigger_has_the_contracts_shape(gateway, user):
    answer = await gateway.send(user)
    assert {"success", "notification_id", "delivered_to", "failed", "queued", "timestamp"} <= set(answer)
    assert answer["delivered_to"] == 0 and answer["failed"] == 0 and answer["queued"] is False
    uuid.UUID(answer["notification_id"])
    assert datetime.fromisoformat(answer["timestamp"]).tzinfo is not None


async def test_send_reaches_every_connection_of_its_user_and_nobody_else(gateway, user):
    async with sockets(gateway, user, user, user, f"{user}-other") as clients:
        answer = await gateway.send(user)
        assert (answer["delivered_to"], answer["failed"]) == (3, 0)
        await assert_received_once(clients[:3], answer["notification_id"])
        await clients[3].assert_nothing_waits()


async def test_users_on_every_shard_are_reached(start_gateway):
    gateway = await start_gateway()
    users = [f"u{n}" for n in range(16)]
    async with sockets(gateway, *users) as clients:
        per_shard = [shard["connections"] for shard in (await gateway.get_ok("/stats"))["shards"]]
        assert len(per_shard) == 2 and all(per_shard) and sum(per_shard) == 16, per_shard
        for user, client in zip(users, clients, strict=True):
            assert (await gateway.send(user, payload=user))["delivered_to"] == 1
            assert (await client.notification())["payload"] == user
        for client in clients:
            await client.subscribe("all")
        for kind, body in (("broadcast", {}), ("channel", {"channel": "all"}), ("channels", {"channels": ["all"]}),
                           ("send-to-users", {"target_user_ids": users})):
            answer = await gateway.trigger(kind, **body)
            assert answer["delivered_to"] == 16, (kind, answer)
            await assert_received_once(clients, answer["notification_id"])


@pytest.mark.parametrize("name", ["zoë@example.com", "用户", "a/b?c=d&e#f", "x" * 128, '"quoted"\\'])
async def test_any_visible_user_id_works(gateway, name):
    async with WebSocket(gateway, name) as client:
        assert client.connected["user_id"] == name
        assert (await gateway.send(name))["delivered_to"] == 1
        await client.notification()


async def test_send_to_users_answers_for_each_user(gateway, user):
    one, two, absent = f"{user}-1", f"{user}-2", f"{user}-absent"
    async with sockets(gateway, one, two, two, f"{user}-3") as clients:
        answer = await gateway.trigger("send-to-users", target_user_ids=[one, two, absent])
        assert (answer["delivered_to"], answer["failed"]) == (3, 0)
        results = answer["results"]
        assert set(results) == {one, two, absent}
        assert [results[name]["connections"] for name in (one, two, absent)] == [1, 2, 0]
        assert [bool(results[name]["delivered"]) for name in (one, two, absent)] == [True, True, False]
        assert [bool(results[name]["queued"]) for name in (one, two, absent)] == [False, False, False]
        await assert_received_once(clients[:3], answer["notification_id"])
        await clients[3].assert_nothing_waits()


@pytest.mark.parametrize("audience, expected", [
    (None, {"admin", "editor", "guest", "reader"}),
    ({"type": "All"}, {"admin", "editor", "guest", "reader"}),
    ({"type": "Roles", "value": ["admin"]}, {"admin"}),
    ({"type": "Roles", "value": ["admin", "editor"]}, {"admin", "editor"}),
    ({"type": "Roles", "value": ["nobody"]}, set()),
    ({"type": "Users", "value": ["guest", "reader", "absent"]}, {"guest", "reader"}),
    ({"type": "Channels", "value": ["news", "sport"]}, {"guest", "reader"}),
    ({"type": "Channels", "value": ["empty"]}, set()),
], ids=["none", "all", "one-role", "two-roles", "role-of-nobody", "users", "channels", "channel-of-nobody"])
async def test_a_broadcast_reaches_its_audience_only(gateway, audience, expected):
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for name, roles in (("admin", ["admin", "editor"]), ("editor", ["editor"]), ("guest", []), ("reader", None)):
            clients[name] = await stack.enter_async_context(WebSocket(gateway, name, claims={"roles": roles}))
        await clients["guest"].subscribe("news")
        await clients["reader"].subscribe("news", "sport")
        answer = await gateway.trigger("broadcast", **({} if audience is None else {"audience": audience}))
        assert (answer["delivered_to"], answer["failed"]) == (len(expected), 0)
        for name, client in clients.items():
            if name in expected:
                message = await client.notification()
                assert message["id"] == answer["notification_id"]
            await client.assert_nothing_waits()


@pytest.fixture(autouse=True)
async def nobody_is_left(gateway):
    """A broadcast counts everybody, so each test ends with nobody connected."""
    yield
    await gateway.wait_for_connections(0)


async def test_a_channel_reaches_its_subscribers(gateway, user, channel):
    async with sockets(gateway, user, user, f"{user}-2", f"{user}-3") as clients:
        for client in clients[:3]:
            await client.subscribe(channel)
        await clients[3].subscribe(f"{channel}.other")
        answer = await gateway.trigger("channel", channel=channel)
        assert (answer["delivered_to"], answer["failed"], answer["channel"]) == (3, 0, channel)
        for client in clients[:3]:
            message = await client.notification()
            assert message["id"] == answer["notification_id"] and message["channel"] == channel
        for client in clients:
            await client.assert_nothing_waits()


async def test_a_channel_without_subscribers_is_no_error(gateway, channel):
    answer = await gateway.trigger("channel", channel=channel)
    assert (answer["delivered_to"], answer["failed"]) == (0, 0)


async def test_channels_deliver_once_to_a_connection_on_several(gateway, user, channel):
    a, b, c = (f"{channel}.{letter}" for letter in "abc")
    async with sockets(gateway, user, f"{user}-2", f"{user}-3", f"{user}-4") as clients:
        await clients[0].subscribe(a)
        await clients[1].subscribe(b)
        await clients[2].subscribe(a, b)
        await clients[3].subscribe(f"{channel}.other")
        answer = await gateway.trigger("channels", channels=[a, b, c])
        assert (answer["total_delivered"], answer["delivered_to"], answer["failed"]) == (3, 3, 0)
        counts = {name: answer["channels"][name]["delivered_to"] for name in answer["channels"]}
        assert set(counts) == {a, b, c}
        assert counts[c] == 0 and counts[a] in (1, 2) and counts[b] in (1, 2) and counts[a] + counts[b] >= 3
        await assert_received_once(clients[:3], answer["notification_id"])
        await clients[3].assert_nothing_waits()


async def test_a_channel_named_twice_delivers_once(gateway, user, channel):
    async with sockets(gateway, user) as clients:
        await clients[0].subscribe(channel)
        answer = await gateway.trigger("channels", channels=[channel, channel])
        assert answer["total_delivered"] == 1
        await assert_received_once(clients, answer["notification_id"])


async def test_a_connection_that_left_is_not_counted(gateway, user):
    async with sockets(gateway, user) as (stays,):
        async with sockets(gateway, user):
            assert (await gateway.send(user))["delivered_to"] == 2
        await gateway.wait_for_connections(1)
        assert (await gateway.send(user))["delivered_to"] == 1
        await stays.notification()
        await stays.notification()


async def test_triggers_at_once_are_all_delivered_and_counted(gateway, user):
    async with sockets(gateway, user, user) as clients:
        answers = await asyncio.gather(*(gateway.send(user, payload=n) for n in range(100)))
        assert sum(answer["delivered_to"] for answer in answers) == 200
        for client in clients:
            assert sorted([(await client.notification())["payload"] for _ in answers]) == list(range(100))


@pytest.mark.parametrize("kind", ["send", "send-to-users", "broadcast", "channel", "channels"])
async def test_the_bytes_of_a_payload_are_unchanged_on_both_transports(gateway, user, channel, kind):
    target = {"send": {"target_user_id": user}, "send-to-users": {"target_user_ids": [user]}, "broadcast": {},
              "channel": {"channel": channel}, "channels": {"channels": [channel]}}[kind]
    body = json.dumps({"event_type": "raw"} | target)[:-1] + f', "payload": {RAW_PAYLOAD} , "priority":"Low"}}'
    async with WebSocket(gateway, user) as client, EventStream(gateway, user) as stream:
        await client.subscribe(channel)
        response = await gateway.post(f"/api/v1/notifications/{kind}", body)
        assert response.status_code == 200, response.text
        assert response.json()["delivered_to"] == 2
        assert f'"payload":{RAW_PAYLOAD}' in await client.text()
        assert f'"payload":{RAW_PAYLOAD}' in (await stream.expect("notification")).data


@pytest.mark.parametrize("payload", ["null", "true", "0", "-0.0", '""', "[]", "{}", '"\\u00e9\\/\\ud83d\\ude00"',
                                     '{"a":1,"a":2}', '{"payload":{"payload":"}"}}', "123456789012345678901234567890"])
async def test_any_json_is_a_payload(gateway, user, payload):
    async with WebSocket(gateway, user) as client:
        body = f'{{"payload":{payload},"target_user_id":"{user}","event_type":"any"}}'
        assert (await gateway.post("/api/v1/notifications/send", body)).status_code == 200
        assert f'"payload":{payload}' in await client.text()


@pytest.mark.parametrize("priority", ["Low", "Normal", "High", "Critical"])
async def test_each_priority_is_passed_on(gateway, user, priority):
    async with WebSocket(gateway, user) as client:
        await gateway.send(user, priority=priority)
        assert (await client.notification())["metadata"]["priority"] == priority


async def test_texts_with_quotes_and_line_ends_are_passed_on(gateway, user):
    event_type, correlation_id = 'he said "no"\\', "line 1 \u2028 é 😀"
    async with WebSocket(gateway, user) as client:
        await gateway.send(user, event_type=event_type, correlation_id=correlation_id)
        message = await client.notification()
        assert message["event_type"] == event_type
        assert message["metadata"]["correlation_id"] == correlation_id
