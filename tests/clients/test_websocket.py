"""A WebSocket client can do everything the wire contract says, and survives its own mistakes.

Client: PyPI websockets. Set-up: the shared gateway; every test has users and channels of its own.
"""

import json
import uuid

import pytest

from clients import WebSocket
from gateway import make_token, wait_until


async def by_query(gateway, user):
    return WebSocket(gateway, url=gateway.ws_url(make_token(user)))


async def by_header(gateway, user):
    return WebSocket(gateway, url=gateway.ws_url(),
                     additional_headers={"Authorization": f"Bearer {make_token(user)}"})


async def by_protocol(gateway, user):
    return WebSocket(gateway, url=gateway.ws_url(), subprotocols=["ara.v1", f"bearer.{make_token(user)}"])


@pytest.mark.parametrize("way", [by_query, by_header, by_protocol])
async def test_a_token_is_taken_from_each_place_and_connected_comes_first(gateway, user, way):
    async with await way(gateway, user) as client:
        assert client.connected["user_id"] == user
        assert client.connected["connection_id"]
        assert client.socket.subprotocol == ("ara.v1" if way is by_protocol else None)
        answer = await gateway.send(user, payload={"n": 1})
        assert answer["delivered_to"] == 1
        assert (await client.notification())["id"] == answer["notification_id"]


async def test_connection_ids_are_unique(gateway, user):
    async with WebSocket(gateway, user) as one, WebSocket(gateway, user) as two:
        assert one.connected["connection_id"] != two.connected["connection_id"]


async def test_a_notification_has_every_field_of_the_contract(gateway, user):
    async with WebSocket(gateway, user) as client:
        answer = await gateway.send(user, event_type="order.paid", payload={"order": 7}, priority="High", ttl=60,
                                    correlation_id="corr-1", source="shop")
        message = await client.notification()
    assert message["id"] == answer["notification_id"] == str(uuid.UUID(message["id"]))
    assert message["event_type"] == "order.paid"
    assert message["payload"] == {"order": 7}
    assert message["metadata"] == {"source": "shop", "priority": "High", "ttl": 60, "correlation_id": "corr-1"}
    assert message["occurred_at"].startswith("20") and "T" in message["occurred_at"]
    assert "channel" not in message and "replayed" not in message


async def test_metadata_has_defaults_and_leaves_out_what_was_not_given(gateway, user):
    async with WebSocket(gateway, user) as client:
        await gateway.send(user)
        assert (await client.notification())["metadata"] == {"source": "http-api", "priority": "Normal"}


@pytest.mark.parametrize("lower", [False, True], ids=["as-written", "lower-case"])
@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
async def test_every_message_type_is_understood(gateway, user, channel, lower, binary):
    def message(kind, payload=None):
        body = {"type": kind.lower() if lower else kind} | ({} if payload is None else {"payload": payload})
        text = json.dumps(body)
        return text.encode() if binary else text

    async with WebSocket(gateway, user) as client:
        await client.send(message("Subscribe", {"channels": [channel, f"{channel}.b"]}))
        assert sorted((await client.expect("subscribed"))["payload"]) == [channel, f"{channel}.b"]
        await client.send(message("Unsubscribe", {"channels": [channel]}))
        assert (await client.expect("unsubscribed"))["payload"] == [channel]
        await client.send(message("Ping"))
        await client.expect("pong")
        await client.send(message("Ack", {"notification_id": str(uuid.uuid4())}))
        await client.error("ACK_UNKNOWN")
        subscriptions = await gateway.get_ok(f"/api/v1/users/{user}/subscriptions")
        assert subscriptions["subscriptions"] == [f"{channel}.b"]


async def test_a_trigger_sent_after_subscribed_reaches_the_subscriber_and_one_after_unsubscribed_does_not(
        gateway, user, channel):
    async with WebSocket(gateway, user) as client:
        for _ in range(20):
            await client.subscribe(channel)
            answer = await gateway.trigger("channel", channel=channel)
            assert answer["delivered_to"] == 1
            message = await client.notification()
            assert message["id"] == answer["notification_id"] and message["channel"] == channel
            await client.unsubscribe(channel)
            assert (await gateway.trigger("channel", channel=channel))["delivered_to"] == 0
            await client.assert_nothing_waits()


INVALID_MESSAGES = {
    "not-json": "hello",
    "cut-off": '{"type":"Ping"',
    "array": "[]",
    "string": '"Ping"',
    "no-type": '{"payload":{}}',
    "unknown-type": '{"type":"Publish"}',
    "type-is-a-number": '{"type":1}',
    "subscribe-without-payload": '{"type":"Subscribe"}',
    "subscribe-without-channels": '{"type":"Subscribe","payload":{}}',
    "channels-is-a-string": '{"type":"Subscribe","payload":{"channels":"news"}}',
    "channel-is-a-number": '{"type":"Subscribe","payload":{"channels":[1]}}',
    "ack-without-payload": '{"type":"Ack"}',
    "ack-without-id": '{"type":"Ack","payload":{}}',
    "empty": "",
    "deep": "[" * 5000,
}


@pytest.mark.parametrize("text", INVALID_MESSAGES.values(), ids=INVALID_MESSAGES.keys())
async def test_an_invalid_message_is_answered_and_the_connection_stays_open(gateway, user, text):
    async with WebSocket(gateway, user) as client:
        await client.send(text)
        await client.error("INVALID_MESSAGE")
        await client.assert_nothing_waits()
        assert (await gateway.send(user))["delivered_to"] == 1
        await client.notification()


@pytest.mark.parametrize("name", ["", "has space", "slash/y", "ümlaut", "x" * 65, "a\u0000b", "*"])
async def test_an_invalid_channel_is_refused_and_the_connection_stays_open(gateway, user, name):
    async with WebSocket(gateway, user) as client:
        await client.send({"type": "Subscribe", "payload": {"channels": [name]}})
        await client.error("INVALID_CHANNEL")
        await client.assert_nothing_waits()


@pytest.mark.parametrize("name", ["a", "x" * 64, "A-Z.a_z-09", "...", "0"])
async def test_every_channel_name_the_contract_allows_works(gateway, user, name):
    async with WebSocket(gateway, user) as client:
        await client.subscribe(name)
        assert (await gateway.trigger("channel", channel=name))["delivered_to"] == 1
        assert (await client.notification())["channel"] == name


async def test_the_subscription_limit_is_exact_and_room_made_can_be_used(gateway, user, channel):
    async with WebSocket(gateway, user) as client:
        await client.subscribe(*(f"{channel}.{n}" for n in range(50)))
        await client.send({"type": "Subscribe", "payload": {"channels": [f"{channel}.50"]}})
        await client.error("SUBSCRIPTION_LIMIT")
        await client.unsubscribe(f"{channel}.0")
        await client.subscribe(f"{channel}.50")
        assert (await gateway.trigger("channel", channel=f"{channel}.50"))["delivered_to"] == 1
        await client.notification()


async def test_a_token_with_channels_may_subscribe_to_these_only(gateway, user, channel):
    claims = {"channels": [channel, f"{channel}.team.*"]}
    async with WebSocket(gateway, user, claims=claims) as client:
        await client.subscribe(channel)
        await client.subscribe(f"{channel}.team.a")
        for foreign in (f"{channel}.other", f"{channel}.teams", f"{channel}x", "news"):
            await client.send({"type": "Subscribe", "payload": {"channels": [foreign]}})
            await client.error("FORBIDDEN_CHANNEL")
        await client.assert_nothing_waits()
        subscriptions = (await gateway.get_ok(f"/api/v1/users/{user}/subscriptions"))["subscriptions"]
        assert sorted(subscriptions) == [channel, f"{channel}.team.a"]


async def test_protocol_pings_are_answered_with_their_payload(gateway, user):
    async with WebSocket(gateway, user) as client:
        for payload in (b"", b"x" * 125):
            await (await client.socket.ping(payload))


async def test_a_message_in_many_fragments_is_one_message(gateway, user, channel):
    async with WebSocket(gateway, user) as client:
        text = json.dumps({"type": "Subscribe", "payload": {"channels": [channel]}})
        await client.socket.send(iter(text), text=True)
        assert (await client.expect("subscribed"))["payload"] == [channel]
        await client.socket.send(iter([b'{"type"', b"", b':"Ping"}']))
        await client.expect("pong")


async def test_many_messages_in_one_write_are_answered_in_order(gateway, user, channel):
    async with WebSocket(gateway, user) as client:
        for n in range(100):
            await client.send({"type": "Subscribe", "payload": {"channels": [f"{channel}.{n % 10}"]}})
            await client.send({"type": "Ping"})
        for _ in range(100):
            await client.expect("subscribed")
            await client.expect("pong")


async def test_notifications_of_one_caller_keep_their_order(gateway, user):
    async with WebSocket(gateway, user) as client:
        for n in range(200):
            await gateway.send(user, payload=n)
        assert [(await client.notification())["payload"] for _ in range(200)] == list(range(200))


async def test_a_large_notification_arrives_whole(gateway, user):
    payload = {"text": "é" * 30_000}
    async with WebSocket(gateway, user) as client:
        body = json.dumps({"target_user_id": user, "event_type": "big", "payload": payload}, ensure_ascii=False)
        assert (await gateway.post("/api/v1/notifications/send", body.encode())).status_code == 200
        assert (await client.notification())["payload"] == payload


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_a_close_is_echoed_and_the_user_is_gone(gateway, user, code):
    async with WebSocket(gateway, user) as client:
        await client.socket.close(code, "bye")
        assert client.socket.protocol.close_rcvd.code == code

    async def gone():
        return (await gateway.get(f"/api/v1/users/{user}/subscriptions")).status_code == 404

    await wait_until(gone, what="the user's disconnection")
    assert (await gateway.send(user))["delivered_to"] == 0
