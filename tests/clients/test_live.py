"""Operation of a running gateway: who is connected, sending a user away, a paced drain.

Property: an operator sees each connection there is, and what is done to one is told to its client and loses nothing.
Why it matters: these are used when something is wrong already, and must not make it worse.
"""

import contextlib
import json
from datetime import datetime, timezone

import pytest

from clients import EventStream, WebSocket
from gateway import assert_error
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
