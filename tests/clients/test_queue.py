"""A notification to a user who is away waits, and is delivered first, in order and once, when the user is back.

Clients: PyPI websockets, httpx-sse, and a raw socket that stops reading. Acknowledgement is off here
(`test_acks.py` has it on): a notification leaves the queue when its bytes were written.
"""

import asyncio
import json
import struct
import time

import pytest

from clients import EventStream, WebSocket
from conftest import gateway_module_fixture
from gateway import assert_error, make_token, wait_until
from raw import CLOSE, TEXT, RawWebSocket, post_pipelined

gateway = gateway_module_fixture(QUEUE_ENABLED="true")

SEND = "/api/v1/notifications/send"


def bodies(user: str, count: int, **fields):
    return [{"target_user_id": user, "event_type": "test.event", "payload": n} | fields for n in range(count)]


@pytest.mark.parametrize("client_kind", [WebSocket, EventStream], ids=["websocket", "sse"])
async def test_who_was_away_gets_everything_in_order_before_live_notifications(gateway, user, client_kind):
    answers = [await gateway.send(user, payload=n) for n in range(20)]
    assert {(a["delivered_to"], a["failed"], a["queued"]) for a in answers} == {(0, 0, True)}
    ids = [answer["notification_id"] for answer in answers]
    waiting = await gateway.queue(user)
    assert [entry["notification"]["id"] for entry in waiting] == ids
    assert {(entry["attempts"], entry["in_flight"]) for entry in waiting} == {(0, False)}

    async with client_kind(gateway, user) as client:
        live = asyncio.create_task(gateway.send(user, payload="live"))
        for n, entry in enumerate(waiting):
            message = await client.notification()
            assert message == entry["notification"] | {"replayed": True}
            assert (message["id"], message["payload"]) == (ids[n], n)
        message = await client.notification()
        assert (message["id"], message["payload"]) == ((await live)["notification_id"], "live")
        answer = await gateway.send(user)  # the replay is over: delivered at once, and not marked
        assert (answer["delivered_to"], answer["queued"]) == (1, False)
        message = await client.notification()
        assert message["id"] == answer["notification_id"] and "replayed" not in message and "attempt" not in message
    assert await gateway.queue(user) == []


async def test_what_was_delivered_does_not_come_again(gateway, user):
    await gateway.send(user)
    async with WebSocket(gateway, user) as client:
        await client.notification()
        await client.assert_nothing_waits()
    await gateway.wait_until_away(user)
    async with WebSocket(gateway, user) as client:
        await client.assert_nothing_waits()


@pytest.mark.parametrize("client_kind", [WebSocket, EventStream], ids=["websocket", "sse"])
async def test_the_payload_of_a_replayed_notification_is_unchanged(gateway, user, client_kind):
    payload = '{"z":1.50,\n "a": 1e400, "big":123456789012345678901234567890,\r\n "z":"\\u00e9é😀"}'
    body = f'{{"target_user_id":"{user}","event_type":"e","payload":{payload}}}'
    assert (await gateway.post(SEND, body.encode())).json()["queued"] is True
    async with client_kind(gateway, user) as client:
        if client_kind is WebSocket:
            text = await client.text()
        else:  # the lines of the data are joined by line feeds
            text, payload = (await client.expect("notification")).data, payload.replace("\r\n", "\n")
        assert payload in text
        assert '"replayed":true' in text


async def test_ttl_zero_is_now_or_never(gateway, user):
    answer = await gateway.send(user, ttl=0)
    assert (answer["delivered_to"], answer["queued"]) == (0, False)
    async with WebSocket(gateway, user) as client:
        await client.assert_nothing_waits()
        assert (await gateway.send(user, ttl=0))["delivered_to"] == 1
        assert (await client.notification())["metadata"]["ttl"] == 0


async def test_what_waited_longer_than_its_ttl_is_not_delivered(gateway, user):
    short = await gateway.send(user, ttl=1)
    long = await gateway.send(user, ttl=600)
    assert short["queued"] and long["queued"]

    async def expired():
        return [entry["notification"]["id"] for entry in await gateway.queue(user)] == [long["notification_id"]]

    await wait_until(expired, what="the first one's expiry")
    async with WebSocket(gateway, user) as client:
        assert (await client.notification())["id"] == long["notification_id"]
        await client.assert_nothing_waits()


async def test_the_configured_ttl_bounds_every_ttl(start_gateway, user):
    gateway = await start_gateway(QUEUE_ENABLED="true", QUEUE_MESSAGE_TTL_SECONDS=0.5)
    await gateway.send(user)
    await gateway.send(user, ttl=600)

    async def expired():
        return (await gateway.get_ok("/stats"))["queue"]["expired"] == 2

    await wait_until(expired, what="both expired")
    async with WebSocket(gateway, user) as client:
        await client.assert_nothing_waits()


async def test_a_full_queue_drops_the_least_urgent_and_of_these_the_oldest(start_gateway, user):
    gateway = await start_gateway(QUEUE_ENABLED="true", QUEUE_MAX_SIZE_PER_USER=5)

    async def send(name: str, priority: str) -> bool:
        return (await gateway.send(user, payload=name, priority=priority))["queued"]

    async def names() -> list[str]:
        return [entry["notification"]["payload"] for entry in await gateway.queue(user)]

    for name, priority in (("low-1", "Low"), ("critical-1", "Critical"), ("normal-1", "Normal"), ("low-2", "Low"),
                           ("high-1", "High")):
        assert await send(name, priority)
    assert await send("normal-2", "Normal")
    assert await names() == ["critical-1", "normal-1", "low-2", "high-1", "normal-2"]
    assert await send("critical-2", "Critical")
    assert await send("critical-3", "Critical")
    assert await names() == ["critical-1", "high-1", "normal-2", "critical-2", "critical-3"]
    assert not await send("low-3", "Low"), "the new one was the least urgent, and is not queued"
    assert await send("critical-4", "Critical")
    assert await send("critical-5", "Critical")
    assert await names() == [f"critical-{n}" for n in range(1, 6)]
    assert not await send("high-2", "High")
    assert await send("critical-6", "Critical")
    assert (await gateway.get_ok("/stats"))["queue"]["dropped"] == 8
    async with WebSocket(gateway, user) as client:
        assert [(await client.notification())["payload"] for _ in range(5)] == [f"critical-{n}" for n in range(2, 7)]
        await client.assert_nothing_waits()


async def test_ten_thousand_wait_for_one_user_and_another_is_served_promptly(start_gateway):
    """One shard, so that the other user has the same thread. Live ones sent meanwhile come last."""
    gateway = await start_gateway(QUEUE_ENABLED="true", QUEUE_MAX_SIZE_PER_USER=0, SHARDS_COUNT=1)
    answers = await post_pipelined(gateway, SEND, bodies("away", 10_000))
    assert all(answer["queued"] for answer in answers)
    ids = [answer["notification_id"] for answer in answers]
    assert (await gateway.get_ok("/stats"))["queue"]["size"] == 10_000
    async with WebSocket(gateway, "other") as other, WebSocket(gateway, "away") as back:
        received, latencies, live_ids = [], [], []

        async def read(count: int):
            while len(received) < count:
                received.append(await back.next())
                await asyncio.sleep(0)  # what has arrived is read without waiting: let the other client run

        reading = asyncio.create_task(read(10_000))
        while not live_ids or not reading.done():
            begin = time.monotonic()
            answer = await gateway.send("other")
            assert (await other.notification())["id"] == answer["notification_id"]
            latencies.append(time.monotonic() - begin)
            live_ids.append((await gateway.send("away", payload="live"))["notification_id"])
        await reading
        await read(10_000 + len(live_ids))
        assert [message["id"] for message in received] == ids + live_ids
        assert all(message.get("replayed") for message in received[:10_000])
        assert len(latencies) >= 20 and max(latencies) < 1.0, f"the other user waited {max(latencies):.3f} s"
        await back.assert_nothing_waits()


async def test_a_slow_consumer_closed_with_4429_finds_what_was_not_written(start_gateway, user):
    gateway = await start_gateway(QUEUE_ENABLED="true")
    fill = "x" * 50_000
    sent = []
    async with RawWebSocket(gateway, user, receive_buffer=4096) as slow:
        async def failed():
            answer = await gateway.send(user, payload={"n": len(sent), "fill": fill})
            sent.append(answer["notification_id"])
            if answer["failed"]:
                assert (answer["delivered_to"], answer["queued"]) == (0, True)
            return answer["failed"]

        await wait_until(failed, what="the outbox full")
        await gateway.wait_until_away(user)
        assert (await gateway.send(user, payload={"n": len(sent)}))["queued"] is True
        seen, code = [], None
        while code is None:
            opcode, body = await slow.frame()
            if opcode == CLOSE:
                code = struct.unpack(">H", body[:2])[0]
            elif opcode == TEXT:
                seen.append(json.loads(body)["payload"]["n"])
        assert code == 4429
    async with WebSocket(gateway, user) as client:
        again = []
        while not again or again[-1] != len(sent):
            message = await client.notification()
            assert message["replayed"] is True
            again.append(message["payload"]["n"])
        await client.assert_nothing_waits()
    # Nothing is missing, and nothing comes twice but the one that was being written when it was closed.
    assert seen == list(range(len(seen))), seen
    assert again == list(range(again[0], len(sent) + 1)) and len(seen) - again[0] in (0, 1), (seen, again)


async def test_what_two_stalled_connections_were_both_sent_waits_once_when_both_are_gone(start_gateway, user):
    gateway = await start_gateway(QUEUE_ENABLED="true", SERVER_SEND_BUFFER_BYTES=4096)
    ids = [(await gateway.send(user, payload={"fill": "x" * 60_000}))["notification_id"] for _ in range(4)]

    async def unwritten() -> int:
        return sum(shard["outbox_bytes"] for shard in (await gateway.get_ok("/stats"))["shards"])

    async with RawWebSocket(gateway, user, receive_buffer=4096) as first:
        await wait_until(unwritten, what="the first notification on its way")
        before = await unwritten()
        async with RawWebSocket(gateway, user, receive_buffer=4096) as second:
            # The replay continues on a connection with less than 32 KiB unread: each of them has one now.
            async def both_are_behind():
                return await unwritten() > before + 32_768
            await wait_until(both_are_behind, what="the second notification on its way")
            await second.exactly(45_000)

            async def has_nearly_read():
                return before < await unwritten() < before + 32_768
            await wait_until(has_nearly_read, what="the second connection ready for more")
            assert (await first.message())["id"] == ids[0]

            async def both_have_the_third():
                return await unwritten() > 100_000
            await wait_until(both_have_the_third, what="the third notification on its way to both")

        async def one_is_left():
            return (await gateway.get_ok("/stats"))["connections"]["total"] == 1
        await wait_until(one_is_left, what="the second connection gone")
    await gateway.wait_until_away(user)
    assert [entry["notification"]["id"] for entry in await gateway.queue(user)] == ids[1:]
    async with WebSocket(gateway, user) as client:
        assert [(await client.notification())["id"] for _ in ids[1:]] == ids[1:]
        await client.assert_nothing_waits()


async def test_send_to_users_says_for_each_user_whether_it_was_queued(start_gateway):
    """Twenty away users are on both shards; each gets its own."""
    gateway = await start_gateway(QUEUE_ENABLED="true")
    away = [f"away-{n}" for n in range(20)]
    async with WebSocket(gateway, "here") as here, EventStream(gateway, "there") as there:
        answer = await gateway.trigger("send-to-users", target_user_ids=[*away, "here", "there"])
        assert (answer["delivered_to"], answer["failed"], answer["queued"]) == (2, 0, True)
        assert answer["results"] == {
            name: {"delivered": 1, "connections": 1, "queued": False} for name in ("here", "there")
        } | {name: {"delivered": 0, "connections": 0, "queued": True} for name in away}
        for client in (here, there):
            message = await client.notification()
            assert message["id"] == answer["notification_id"] and "replayed" not in message
        stats = await gateway.get_ok("/stats")
        sizes = [shard["queue_size"] for shard in stats["shards"]]
        assert sum(sizes) == 20 and all(sizes), sizes
        assert stats["queue"]["users"] == 20
        for name in away:
            async with WebSocket(gateway, name) as client:
                message = await client.notification()
                assert (message["id"], message["replayed"]) == (answer["notification_id"], True)
        answer = await gateway.trigger("send-to-users", target_user_ids=["here"], ttl=0)
        assert answer["queued"] is False


@pytest.mark.parametrize("kind, target", [
    ("broadcast", {}), ("channel", {"channel": "news"}), ("channels", {"channels": ["news", "sport"]}),
], ids=["broadcast", "channel", "channels"])
async def test_broadcasts_and_channels_do_not_wait_for_the_absent(gateway, user, kind, target):
    assert (await gateway.trigger(kind, **target))["queued"] is False
    async with WebSocket(gateway, user) as client:
        await client.assert_nothing_waits()


@pytest.mark.parametrize("kind, target, channel", [
    ("broadcast", {}, None),
    ("channel", {"channel": "news"}, "news"),
    ("channels", {"channels": ["news", "sport"]}, "news"),
], ids=["broadcast", "channel", "channels"])
async def test_on_request_they_wait_for_absent_users_an_audience_names(gateway, user, kind, target, channel):
    here, elsewhere, other = f"{user}-here", f"{user}-elsewhere", f"{user}-other"
    audience = {"type": "Users", "value": [user, here, elsewhere]}
    async with WebSocket(gateway, here) as reader, WebSocket(gateway, elsewhere) as present_user:
        await reader.subscribe("news")
        answer = await gateway.trigger(kind, audience=audience, queue=True, **target)
        delivered = 2 if kind == "broadcast" else 1
        assert (answer["delivered_to"], answer["queued"]) == (delivered, True)
        assert (await reader.notification())["id"] == answer["notification_id"]
        await reader.assert_nothing_waits()
        if kind != "broadcast":
            await present_user.assert_nothing_waits()  # present, and not on the channel: it does not wait
        assert await gateway.queue(here) == await gateway.queue(elsewhere) == await gateway.queue(other) == []
    async with WebSocket(gateway, user) as client:
        message = await client.notification()
        assert (message["id"], message["replayed"]) == (answer["notification_id"], True)
        assert message.get("channel") == channel


@pytest.mark.parametrize("kind, body", [
    ("send", {"target_user_id": "ann"}),
    ("broadcast", {}),
    ("channel", {"channel": "news", "audience": {"type": "Roles", "value": ["admin"]}}),
], ids=["a user", "no audience", "roles"])
async def test_only_an_audience_of_users_can_be_queued_for(gateway, kind, body):
    body = {"event_type": "test.event", "payload": {}, "queue": True} | body
    response = await gateway.post(f"/api/v1/notifications/{kind}", body)
    error = assert_error(response, 400, "VALIDATION_ERROR")
    assert error["details"]["field"] == "queue"


async def test_a_queue_can_be_looked_at_and_emptied(gateway, user):
    path = f"/api/v1/users/{user}/queue"
    assert await gateway.queue(user) == []
    assert await gateway.delete_ok(path) == {"user_id": user, "cleared": 0}
    for n in range(3):
        await gateway.send(user, payload=n)
    assert [entry["notification"]["payload"] for entry in await gateway.queue(user)] == [0, 1, 2]
    assert await gateway.delete_ok(path) == {"user_id": user, "cleared": 3}
    assert await gateway.queue(user) == []
    async with WebSocket(gateway, user) as client:
        await client.assert_nothing_waits()
    assert_error(await gateway.client.delete(path), 401, "UNAUTHORIZED")
    assert_error(await gateway.post(path, {}), 405, "METHOD_NOT_ALLOWED")
    assert_error(await gateway.get(f"/api/v1/users/{'x' * 129}/queue"), 400, "VALIDATION_ERROR")


async def test_queues_of_tenants_are_kept_apart(start_gateway):
    gateway = await start_gateway(QUEUE_ENABLED="true", TENANT_ENABLED="true")
    for tenant in ("red", "blue"):
        assert (await gateway.send("same", tenant, payload=tenant))["queued"] is True
    assert [entry["notification"]["payload"] for entry in await gateway.queue("same", "red")] == ["red"]
    assert await gateway.queue("same", "green") == []
    async with WebSocket(gateway, "same", claims={"tenant_id": "blue"}) as blue:
        assert (await blue.notification())["payload"] == "blue"
        await blue.assert_nothing_waits()
    assert (await gateway.delete_ok("/api/v1/users/same/queue", "blue"))["cleared"] == 0
    async with WebSocket(gateway, "same", claims={"tenant_id": "red"}) as red:
        assert (await red.notification())["payload"] == "red"


async def test_the_figures_add_up(start_gateway):
    gateway = await start_gateway(QUEUE_ENABLED="true", QUEUE_MAX_SIZE_PER_USER=4)

    async def queue():
        stats = await gateway.get_ok("/stats")
        assert sum(shard["queue_size"] for shard in stats["shards"]) == stats["queue"]["size"]
        return stats["queue"]

    nothing = {"enabled": True, "backend": "memory", "size": 0, "users": 0, "enqueued": 0, "replayed": 0,
               "expired": 0, "dropped": 0, "refused": 0, "over_limit": 0}
    assert await queue() == nothing
    for name, count in (("a", 3), ("b", 5), ("c", 1)):
        for _ in range(count):
            await gateway.send(name)
    expected = nothing | {"size": 8, "users": 3, "enqueued": 9, "dropped": 1}
    assert await queue() == expected
    async with WebSocket(gateway, "a") as client:
        for _ in range(3):
            await client.notification()
    expected |= {"size": 5, "users": 2, "replayed": 3}
    assert await queue() == expected
    await gateway.delete_ok("/api/v1/users/b/queue")
    expected |= {"size": 1, "users": 1, "dropped": 5}
    assert await queue() == expected


async def test_without_the_queue_nothing_waits(start_gateway, user):
    gateway = await start_gateway()
    assert (await gateway.send(user))["queued"] is False
    assert await gateway.queue(user) == []
    assert (await gateway.get_ok("/stats"))["queue"]["enabled"] is False
    async with WebSocket(gateway, token=make_token(user)) as client:
        await client.assert_nothing_waits()
