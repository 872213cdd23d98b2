"""Operation of a running gateway: who is connected, sending a user away, a paced drain.

Property: an operator sees each connection there is, and what is done to one is told to its client and loses nothing.
Why it matters: these are used when something is wrong already, and must not make it worse.
"""

import asyncio
import contextlib
import json
import random
from datetime import datetime, timezone

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from clients import EventStream, WebSocket
from gateway import assert_error, wait_until
from keys import FROM_FILE, audit, entry

TEN_MINUTES_MS = 600_000


async def listed(gateway, tenant=None, headers=None, **query) -> list[dict]:
    """All pages of the list."""
    found, cursor = [], None
    while True:
        asked = {name: value for name, value in (query | {"cursor": cursor}).items() if value is not None}
        answer = await gateway.client.get("/api/v1/connections", params=asked,
                                          headers=headers or gateway.headers(tenant))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["connections"]
        assert len(page["connections"]) <= int(query.get("limit", 100))
        cursor = page.get("next_cursor")
        if cursor is None:
            return found


async def disconnect(gateway, user, **query):
    return await gateway.client.delete(f"/api/v1/users/{user}/connections", params=query, headers=gateway.headers())


@contextlib.asynccontextmanager
async def clients(*each):
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client) for client in each]


async def test_a_connection_is_listed_with_what_is_known_of_it(gateway, user, channel):
    async with clients(WebSocket(gateway, user), EventStream(gateway, user)) as (socket, stream):
        await socket.subscribe(channel)
        before = {entry["connection_id"]: entry for entry in await listed(gateway, user_id=user)}
        await gateway.send(user, payload={"text": "x" * 1000})
        await socket.notification()
        await stream.notification()
        after = {entry["connection_id"]: entry for entry in await listed(gateway, user_id=user)}
        assert set(after) == {socket.connected["connection_id"], stream.connected["connection_id"]}
        one, other = after[socket.connected["connection_id"]], after[stream.connected["connection_id"]]
        assert one["transport"] == "websocket" and one["subscription_count"] == 1 and not one["receives_all_channels"]
        assert other["transport"] == "sse" and other["subscription_count"] == 0 and other["receives_all_channels"]
        for entry_ in (one, other):
            assert entry_["user_id"] == user and entry_["tenant_id"] == "default"
            assert entry_["outbox_bytes"] == 0 and entry_["shard"] in (0, 1)
            assert 1000 < entry_["sent_bytes"] - before[entry_["connection_id"]]["sent_bytes"] < 2000
            age = datetime.now(timezone.utc) - datetime.fromisoformat(entry_["connected_at"])
            assert abs(age.total_seconds() - entry_["age_seconds"]) < 10
        host, port = socket.socket.local_address
        assert one["address"] == f"{host}:{port}"
        assert [e["transport"] for e in await listed(gateway, user_id=user, transport="sse")] == ["sse"]
        assert {e["connection_id"] for e in await listed(gateway, channel=channel)} == set(after)
        named = await listed(gateway, channel=channel, transport="websocket")
        assert [e["connection_id"] for e in named] == [socket.connected["connection_id"]]
    await gateway.wait_until_away(user)
    assert await listed(gateway, user_id=user) == []


async def test_pages_show_each_connection_once_though_others_come_and_go(start_gateway):
    gateway = await start_gateway(SHARDS_COUNT=3)
    async with clients(*(WebSocket(gateway, f"stays-{n}") for n in range(40))) as stay:
        wanted = {client.connected["connection_id"] for client in stay}
        guests, found, cursor = [], [], None
        for turn in range(200):
            guests.append(await WebSocket(gateway, f"guest-{turn}").__aenter__())
            if len(guests) > 5:
                await guests.pop(0).socket.close()
            query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
            page = (await gateway.client.get("/api/v1/connections", params=query, headers=gateway.headers())).json()
            found += [e["connection_id"] for e in page["connections"] if e["user_id"].startswith("stays")]
            cursor = page.get("next_cursor")
            if cursor is None:
                break
        for guest in guests:
            await guest.socket.close()
        assert cursor is None
        assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize(("query", "field"), [
    ({"limit": "0"}, "limit"), ({"limit": "1001"}, "limit"), ({"limit": "x"}, "limit"), ({"cursor": "x"}, "cursor"),
    ({"cursor": "0--1"}, "cursor"), ({"transport": "carrier-pigeon"}, "transport"), ({"channel": "a b"}, "channel"),
    ({"user_id": ""}, "user_id"), ({"user": "u"}, "user"),
])
async def test_a_filter_that_is_none_is_named(gateway, query, field):
    answer = await gateway.client.get("/api/v1/connections", params=query, headers=gateway.headers())
    assert assert_error(answer, 400, "VALIDATION_ERROR")["details"]["field"] == field


async def test_addresses_are_for_admins_and_other_tenants_for_unbound_keys(start_gateway):
    secrets = {"read": "reads-all-0123456789", "red": "reads-red-0123456789", "admin": "admin-all-0123456789"}
    config = "[tenant]\nenabled = true\n" + entry("read", secrets["read"], "read") \
        + entry("red", secrets["red"], "read", "admin", tenant="red") + entry("admin", secrets["admin"], "read", "admin")
    gateway = await start_gateway(**FROM_FILE, files={"config.toml": config})
    of = lambda tenant: WebSocket(gateway, "anna", claims={"tenant_id": tenant})  # noqa: E731
    key = lambda name, **more: {"X-API-Key": secrets[name]} | more  # noqa: E731
    async with clients(of("red"), of("blue")):
        tenants = lambda entries: sorted(e["tenant_id"] for e in entries)  # noqa: E731
        everybody = await listed(gateway, headers=key("read"))
        assert tenants(everybody) == ["blue", "red"] and not any("address" in e for e in everybody)
        assert all("address" in e for e in await listed(gateway, headers=key("admin")))
        assert tenants(await listed(gateway, headers=key("read", **{"X-Tenant-ID": "blue"}))) == ["blue"]
        assert tenants(await listed(gateway, headers=key("red"))) == ["red"]
        assert tenants(await listed(gateway, headers=key("red"), user_id="anna")) == ["red"]
        foreign = await gateway.client.get("/api/v1/connections", headers=key("red", **{"X-Tenant-ID": "blue"}))
        assert_error(foreign, 403, "FORBIDDEN")
        nameless = await gateway.client.get("/api/v1/connections?user_id=anna", headers=key("read"))
        assert assert_error(nameless, 400, "VALIDATION_ERROR")["details"]["field"] == "X-Tenant-ID"
        foreign = await gateway.client.delete("/api/v1/users/anna/connections", headers=key("red"))
        assert foreign.json() == {"user_id": "anna", "disconnected": 1}
        assert tenants(await listed(gateway, headers=key("read"))) == ["blue"]


async def test_a_user_is_sent_away_with_the_reason_and_loses_nothing(start_gateway):
    gateway = await start_gateway(SHARDS_COUNT=4, QUEUE_ENABLED="true", ACK_ENABLED="true", RUST_LOG_FORMAT="json")
    users = [f"user-{n}" for n in range(8)]
    for user in users:
        async with clients(WebSocket(gateway, user), EventStream(gateway, user), WebSocket(gateway, f"{user}-b")) as (
            socket, stream, bystander,
        ):
            sent = (await gateway.send(user))["notification_id"]
            await socket.notification()
            await stream.notification()
            answer = await disconnect(gateway, user, reason="moved to another plan é")
            assert answer.json() == {"user_id": user, "disconnected": 2}
            assert await socket.close_code() == 4403
            assert socket.socket.close_reason == "moved to another plan é"
            told = await stream.expect("error")
            message = json.loads(told.data)
            assert message == {"type": "error", "code": "DISCONNECTED", "message": "moved to another plan é"}
            assert told.retry == TEN_MINUTES_MS
            with pytest.raises(AssertionError, match="the stream ended"):
                await stream.event()
            await bystander.assert_nothing_waits()
            assert [e["notification"]["id"] for e in await gateway.queue(user)] == [sent]
        async with WebSocket(gateway, user) as again:
            assert (await again.notification())["id"] == sent
            await again.ack(sent)
    lines = audit(gateway, "user_disconnected", user=users[0])
    assert len(lines) == 1 and lines[0]["count"] == 2 and lines[0]["tenant"] == "default", lines
    assert lines[0]["key"] == "default" and lines[0]["reason"] == "moved to another plan é", lines


async def test_sending_away_somebody_who_is_not_there_or_for_no_reason_is_refused(gateway, user):
    assert_error(await disconnect(gateway, user), 404, "USER_NOT_CONNECTED")
    async with WebSocket(gateway, user) as socket:
        for reason in ["", "x" * 124, "é" * 62, "two\nlines"]:
            error = assert_error(await disconnect(gateway, user, reason=reason), 400, "VALIDATION_ERROR")
            assert error["details"]["field"] == "reason"
        await socket.assert_nothing_waits()
        assert (await disconnect(gateway, user, reason="x" * 123)).status_code == 200
        assert await socket.close_code() == 4403 and socket.socket.close_reason == "x" * 123


async def drain(gateway, method="GET", body=None) -> dict:
    answer = await gateway.client.request(method, "/api/v1/drain", headers=gateway.headers(), json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def readiness(gateway) -> int:
    return (await gateway.client.get("/health/ready")).status_code


async def test_a_drain_sends_everybody_away_with_what_waits_kept_and_triggers_go_on(start_gateway):
    gateway = await start_gateway(SHARDS_COUNT=3, QUEUE_ENABLED="true", ACK_ENABLED="true", RUST_LOG_FORMAT="json")
    users = [f"user-{n}" for n in range(30)]
    async with clients(*(WebSocket(gateway, user) for user in users), EventStream(gateway, "reader")) as everybody:
        *sockets, stream = everybody
        sent = (await gateway.send(users[0]))["notification_id"]
        await sockets[0].notification()
        begun = await drain(gateway, "POST", {"rate_per_second": 20_000})
        assert begun["state"] == "draining" and begun["clients"] == begun["remaining"] == 31, begun
        assert begun["rate_per_second"] == 20_000 and begun["sent_away"] == 0, begun
        assert await readiness(gateway) == 503
        delays = set()
        for socket in sockets:
            told = await socket.expect("shutdown")
            assert 0 <= told["reconnect_after_seconds"] <= 2
            delays.add(told["reconnect_after_seconds"])
            assert await socket.close_code() == 1001
        assert len(delays) > 20, "each has a delay of its own"
        told = await stream.expect("message")
        assert json.loads(told.data)["type"] == "shutdown" and told.retry <= 2000

        async def drained():
            return (await drain(gateway))["state"] == "drained"

        await wait_until(drained, what="drained")
        assert (await drain(gateway))["sent_away"] == 31
        with pytest.raises(InvalidStatus) as refused:
            async with WebSocket(gateway, "newcomer"):
                pass
        assert refused.value.response.status_code == 503
        assert b"SHUTTING_DOWN" in refused.value.response.body
        assert (await gateway.send("nobody"))["queued"] is True
        ended = await drain(gateway, "DELETE")
        assert ended["state"] == "off" and ended["sent_away"] == 31 and ended["remaining"] == 0
        assert await drain(gateway, "DELETE") == await drain(gateway) == {"state": "off"}
        assert await readiness(gateway) == 200
        async with WebSocket(gateway, users[0]) as again:
            assert (await again.notification())["id"] == sent
            await again.ack(sent)
    assert [line["count"] for line in audit(gateway, "drain_started")] == [31]
    assert [line["count"] for line in audit(gateway, "drain_stopped")] == [0]


async def test_a_drain_that_is_ended_leaves_the_others_where_they_are(start_gateway):
    gateway = await start_gateway(SHARDS_COUNT=2)
    async with clients(*(WebSocket(gateway, f"user-{n}") for n in range(20))) as everybody:
        begun = await drain(gateway, "POST", {"seconds": 86_400})
        assert begun["rate_per_second"] == 0.1
        faster = await drain(gateway, "POST", {"rate_per_second": 50})
        assert faster["started_at"] == begun["started_at"] and faster["rate_per_second"] == 50

        async def begins():
            return (await drain(gateway))["sent_away"] >= 3

        await wait_until(begins, what="the first three to be sent away")
        told = (await drain(gateway, "DELETE"))["sent_away"]
        assert told < 20
        await gateway.wait_for_connections(20 - told)
        stayed = 0
        for client in everybody:
            with contextlib.suppress(ConnectionClosed, AssertionError):
                await client.assert_nothing_waits()
                stayed += 1
        assert stayed == 20 - told
        async with WebSocket(gateway, "newcomer"):
            pass


@pytest.mark.parametrize(("body", "field"), [
    ({}, "rate_per_second"), ({"rate_per_second": 1, "seconds": 1}, "rate_per_second"), ({"rate_per_second": 0}, "rate_per_second"),
    ({"rate_per_second": 20001}, "rate_per_second"), ({"seconds": 0}, "seconds"), ({"seconds": 0.5}, "seconds"), ({"rate": 1}, "rate"),
])
async def test_a_drain_without_a_rate_is_refused(gateway, body, field):
    answer = await gateway.client.post("/api/v1/drain", headers=gateway.headers(), json=body)
    assert assert_error(answer, 400, "VALIDATION_ERROR")["details"]["field"] == field
    assert await drain(gateway) == {"state": "off"} and await readiness(gateway) == 200


async def test_with_a_delay_everything_goes_on_after_sigterm_but_readiness(start_gateway):
    gateway = await start_gateway(SERVER_SHUTDOWN_DELAY_SECONDS=60)
    async with WebSocket(gateway, "before") as before:
        gateway.signal()

        async def not_ready():
            return await readiness(gateway) == 503

        await wait_until(not_ready, what="readiness to be off")
        async with WebSocket(gateway, "after") as after:
            assert (await gateway.send("after"))["delivered_to"] == 1
            await after.notification()
            await before.assert_nothing_waits()
            await asyncio.sleep(0.15)  # what comes within 100 ms is the same signal
            gateway.signal()  # skips the delay
            for client in (before, after):
                await client.expect("shutdown")
                assert await client.close_code() == 1001
    assert await gateway.exit_code() == 0


async def test_the_stop_comes_when_the_delay_is_over(start_gateway):
    gateway = await start_gateway(SERVER_SHUTDOWN_DELAY_SECONDS=0.5)
    async with WebSocket(gateway, "user") as client:
        gateway.signal()
        await client.expect("shutdown")
        assert await client.close_code() == 1001
    assert await gateway.exit_code() == 0


async def test_a_rolling_restart_with_a_delay_refuses_no_connection(start_gateway):
    """Two gateways behind whoever asks for readiness; one after the other is replaced while clients come all the time."""
    delay = {"SERVER_SHUTDOWN_DELAY_SECONDS": 1}
    running = [await start_gateway(**delay), await start_gateway(**delay)]
    ready, refused, taken, over = list(running), [], 0, False

    async def balance():
        while not over:
            for gateway in list(running):
                with contextlib.suppress(httpx.TransportError):
                    is_ready = await readiness(gateway) == 200
                    if is_ready != (gateway in ready):
                        (ready.append if is_ready else ready.remove)(gateway)
            await asyncio.sleep(0.05)

    async def connect(number):
        nonlocal taken
        while not over:
            try:
                async with WebSocket(random.choice(ready), f"user-{number}"):
                    taken += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, the client was not served
                refused.append(error)

    balancer = asyncio.create_task(balance())
    everybody = [asyncio.create_task(connect(number)) for number in range(4)]
    for _ in range(2):
        old = running[0]
        new = await start_gateway(**delay)
        running.append(new)
        await wait_until(lambda: new in ready, what="the new one to be ready")  # noqa: B023 - within this turn
        old.signal()
        assert await old.exit_code() == 0
        running.remove(old)
    over = True
    await asyncio.gather(balancer, *everybody)
    assert not refused, refused[:3]
    assert taken > 20
