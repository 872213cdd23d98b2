"""What the gateway says about itself agrees with who is connected, at once."""

import re
from urllib.parse import quote

import pytest

from clients import WebSocket
from gateway import API_KEY, assert_error


async def test_channels_are_listed_with_their_subscribers(gateway, user, channel):
    async with WebSocket(gateway, user) as one, WebSocket(gateway, user) as two:
        await one.subscribe(channel, f"{channel}.b")
        await two.subscribe(channel)
        answer = await gateway.get_ok("/api/v1/channels")
        counts = {entry["name"]: entry["subscriber_count"] for entry in answer["channels"]}
        assert counts[channel] == 2 and counts[f"{channel}.b"] == 1
        assert answer["total_channels"] == len(answer["channels"]) == len(counts)
        assert await gateway.get_ok(f"/api/v1/channels/{channel}") == {"name": channel, "subscriber_count": 2}
        await two.unsubscribe(channel)
        assert (await gateway.get_ok(f"/api/v1/channels/{channel}"))["subscriber_count"] == 1
        await one.unsubscribe(channel)
        assert_error(await gateway.get(f"/api/v1/channels/{channel}"), 404, "CHANNEL_NOT_FOUND")


async def test_a_channel_is_gone_with_its_last_subscriber(gateway, user, channel):
    async with WebSocket(gateway, user) as client:
        await client.subscribe(channel)
        assert (await gateway.get(f"/api/v1/channels/{channel}")).status_code == 200
    await gateway.wait_for_connections(0)
    assert_error(await gateway.get(f"/api/v1/channels/{channel}"), 404, "CHANNEL_NOT_FOUND")
    assert (await gateway.get_ok("/api/v1/channels")) == {"channels": [], "total_channels": 0}


async def test_the_subscriptions_of_a_user_are_those_of_all_its_connections(gateway, user, channel):
    path = f"/api/v1/users/{user}/subscriptions"
    assert_error(await gateway.get(path), 404, "USER_NOT_CONNECTED")
    async with WebSocket(gateway, user) as one, WebSocket(gateway, user) as two:
        assert await gateway.get_ok(path) == {"user_id": user, "connection_count": 2, "subscriptions": []}
        await one.subscribe(channel, f"{channel}.b")
        await two.subscribe(channel, f"{channel}.c")
        answer = await gateway.get_ok(path)
        assert answer["connection_count"] == 2
        assert sorted(answer["subscriptions"]) == [channel, f"{channel}.b", f"{channel}.c"]


@pytest.mark.parametrize("name", ["zoë@example.com", "a/b", "用户", "100%"])
async def test_a_user_id_in_a_path_is_percent_encoded(gateway, name):
    async with WebSocket(gateway, name):
        answer = await gateway.get_ok(f"/api/v1/users/{quote(name, safe='')}/subscriptions")
        assert answer["user_id"] == name and answer["connection_count"] == 1


@pytest.mark.parametrize("path", ["/stats", "/api/v1/stats"])
async def test_stats_have_every_section(gateway, user, path):
    async with WebSocket(gateway, user):
        stats = await gateway.get_ok(path)
    sections = {"connections", "users", "channels", "messages", "redis", "shards"}
    assert sections <= set(stats)
    assert {"status", "connected", "circuit_breaker_state", "circuit_breaker_failures", "reconnection_attempts",
            "total_reconnections"} <= set(stats["redis"])
    assert len(stats["shards"]) == 2
    assert sum(shard["connections"] for shard in stats["shards"]) == 1
    assert sum(shard["users"] for shard in stats["shards"]) == 1
    assert stats["redis"]["status"] == "disabled" and stats["redis"]["connected"] is False


@pytest.fixture(autouse=True)
async def nobody_is_left(gateway):
    yield
    await gateway.wait_for_connections(0)


async def test_health_is_public_and_says_what_runs(gateway):
    health = await gateway.health()
    assert health["status"] == "healthy"
    assert re.match(r"\d+\.\d+\.\d+", health["version"])
    assert health["uptime_seconds"] >= 0
    assert health["redis"]["status"] == "disabled" and health["redis"]["connected"] is False
    for path in ("/health/live", "/health/ready"):
        assert (await gateway.client.get(path)).status_code == 200, path
