"""What a tenant may have, over all shards, and what is said of it.

Property: of many sockets at once exactly as many are taken as the limit says; what a tenant has is given back when it
leaves, and nothing outlives the process; the figures are true. Why it matters: a limit that is nearly kept is sold
twice, and one that leaks locks a customer out.
"""

import asyncio

import httpx
import pytest
import websockets

from clients import EventStream, WebSocket, open_all
from conftest import gateway_module_fixture
from gateway import Gateway, assert_error, make_token, wait_until
from keys import FROM_FILE, entry, reload

KEY, BOUND = "of-all-0123456789", "of-red-0123456789"
KEYS = entry("all", KEY, "read", "send", "admin") + entry("red", BOUND, "read", tenant="red")
CONFIG = KEYS + """
[tenant]
enabled = true
[tenant.default_limits]
max_connections = 20
max_connections_per_user = 3
[tenant.tenant_overrides.small]
max_connections = 2
max_subscriptions_per_connection = 1
"""

gateway = gateway_module_fixture(**FROM_FILE, SHARDS_COUNT="4", SHARDS_PIN_TO_CORES="false",
                                 files={"config.toml": CONFIG})


def of(tenant: str) -> dict:
    return {"tenant_id": tenant}



async def figures(gateway: Gateway, tenant: str, http) -> dict:
    answer = await http.get(f"{gateway.url}/api/v1/tenants/{tenant}", headers={"X-API-Key": KEY})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
async def http():
    async with httpx.AsyncClient(timeout=10) as client:
        yield client


async def try_many(gateway: Gateway, tenant: str, count: int):
    """Opens so many connections of different users at once; returns those that were taken, and the refusals."""
    return await open_all([WebSocket(gateway, f"user-{number}", claims=of(tenant)) for number in range(count)])


async def test_of_many_at_once_exactly_so_many_are_taken(gateway, http):
    taken, refused = await try_many(gateway, "crowd", 50)
    assert (len(taken), len(refused)) == (20, 30)
    for response in refused:
        assert response.status_code == 429
        assert b"CONNECTION_LIMIT_EXCEEDED" in response.body and b"this tenant" in response.body
    async with WebSocket(gateway, "u", claims=of("other")):
        pass  # another tenant has room
    shown = await figures(gateway, "crowd", http)
    assert shown["connection_stats"] == {"total_connections": 20, "unique_users": 20}
    assert shown["stats"] == {"active_connections": 20, "total_connections": 20, "messages_sent": 0,
                              "messages_delivered": 0}
    await taken[0].__aexit__(None, None, None)

    async def has_room():
        return (await figures(gateway, "crowd", http))["stats"]["active_connections"] == 19
    await wait_until(has_room)
    again, refused = await try_many(gateway, "crowd", 5)
    assert (len(again), len(refused)) == (1, 4)
    for socket in taken[1:] + again:
        await socket.__aexit__(None, None, None)


async def test_limits_of_its_own_and_of_each_user_and_connection(gateway, http):
    taken, refused = await try_many(gateway, "small", 4)
    assert (len(taken), len(refused)) == (2, 2)
    await taken[0].send({"type": "Subscribe", "payload": {"channels": ["a", "b"]}})
    assert (await taken[0].expect("subscribed"))["payload"] == ["a"]
    error = await taken[0].error("SUBSCRIPTION_LIMIT")
    assert "1 subscriptions" in error["message"]
    for socket in taken:
        await socket.__aexit__(None, None, None)

    async def has_left():
        return (await figures(gateway, "small", http))["stats"]["active_connections"] == 0
    await wait_until(has_left)
    url = gateway.sse_url(make_token("u", **of("small")), channels="a,b")
    assert "at most 1 channels" in assert_error(await http.get(url), 400, "VALIDATION_ERROR")["message"]
    same = [await WebSocket(gateway, "same", claims=of("red")).__aenter__() for _ in range(3)]
    with pytest.raises(websockets.InvalidStatus) as refusal:
        await WebSocket(gateway, "same", claims=of("red")).__aenter__()
    assert b"this user" in refusal.value.response.body
    shown = await figures(gateway, "red", http)
    assert shown["connection_stats"] == {"total_connections": 3, "unique_users": 1}
    assert shown["limits"]["max_connections_per_user"] == 3
    for socket in same:
        await socket.__aexit__(None, None, None)


async def test_figures_are_true_and_stay_when_the_tenant_has_left(gateway, http):
    headers = {"X-API-Key": KEY, "X-Tenant-ID": "brief"}
    body = {"event_type": "e", "payload": 1}
    async with WebSocket(gateway, "a", claims=of("brief")), EventStream(gateway, "b", claims=of("brief")):
        for kind in ("broadcast", "broadcast"):
            answer = await http.post(f"{gateway.url}/api/v1/notifications/{kind}", json=body, headers=headers)
            assert answer.json()["delivered_to"] == 2

    async def has_left():
        return (await figures(gateway, "brief", http))["stats"]["active_connections"] == 0
    await wait_until(has_left)
    shown = await figures(gateway, "brief", http)
    assert shown["stats"] == {"active_connections": 0, "total_connections": 2, "messages_sent": 2,
                              "messages_delivered": 4}
    listed = (await http.get(f"{gateway.url}/api/v1/tenants", headers={"X-API-Key": KEY})).json()
    assert {"tenant_id": "brief", "stats": shown["stats"]} in listed["tenants"]
    assert listed["enabled"] and listed["total"] == len(listed["tenants"])


async def test_a_bound_key_sees_its_own_tenant_only(gateway, http):
    async with WebSocket(gateway, "u", claims=of("red")), WebSocket(gateway, "u", claims=of("blue")):
        own = {"X-API-Key": BOUND}
        listed = (await http.get(f"{gateway.url}/api/v1/tenants", headers=own)).json()
        assert [tenant["tenant_id"] for tenant in listed["tenants"]] == ["red"] and listed["total"] == 1
        assert (await http.get(f"{gateway.url}/api/v1/tenants/red", headers=own)).status_code == 200
        for other in ("blue", "nobody"):
            assert_error(await http.get(f"{gateway.url}/api/v1/tenants/{other}", headers=own), 403, "FORBIDDEN")
    unknown = await http.get(f"{gateway.url}/api/v1/tenants/nobody", headers={"X-API-Key": KEY})
    assert_error(unknown, 404, "TENANT_NOT_FOUND")


async def test_a_kill_leaves_no_count(tmp_path):
    gateway = Gateway(tmp_path, TENANT_ENABLED="true", TENANT_DEFAULT_LIMITS_MAX_CONNECTIONS="2", SHARDS_COUNT="4",
                      SHARDS_PIN_TO_CORES="false")
    for _ in range(2):
        await gateway.start()
        taken, refused = await try_many(gateway, "red", 3)
        assert (len(taken), len(refused)) == (2, 1)
        gateway.kill()
    await gateway.start()
    await gateway.stop()


async def test_a_reload_changes_limits(gateway_of_its_own, http):
    gateway = gateway_of_its_own
    taken, _ = await try_many(gateway, "small", 3)
    assert len(taken) == 2
    said = await reload(gateway, CONFIG.replace("max_connections = 2\n", "max_connections = 3\n"))
    assert "tenant.tenant_overrides" in str(said), said
    more, refused = await try_many(gateway, "small", 3)
    assert (len(more), len(refused)) == (1, 2)
    for socket in taken + more:
        await socket.__aexit__(None, None, None)


@pytest.fixture
async def gateway_of_its_own(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)
    gateway = Gateway(tmp_path, **FROM_FILE, SHARDS_COUNT="4", SHARDS_PIN_TO_CORES="false")
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
async def newest_wins(tmp_path):
    gateway = Gateway(tmp_path, SERVER_CONNECTIONS_PER_USER_POLICY="newest_wins", SHARDS_COUNT="4",
                      WEBSOCKET_MAX_CONNECTIONS_PER_USER="2", SHARDS_PIN_TO_CORES="false")
    await gateway.start()
    yield gateway
    await gateway.stop()


async def test_the_oldest_websocket_makes_way(newest_wins):
    async with WebSocket(newest_wins, "u") as first, WebSocket(newest_wins, "u") as second:
        async with WebSocket(newest_wins, "u") as third:
            assert await first.close_code() == 4409
            assert (await newest_wins.send("u"))["delivered_to"] == 2
            await second.notification()
            await third.notification()


async def test_the_oldest_stream_is_told_to_stay_away(newest_wins):
    async with EventStream(newest_wins, "u") as first, WebSocket(newest_wins, "u"), WebSocket(newest_wins, "u"):
        last = await first.expect("error")
        assert last.retry == 600_000 and "CONNECTION_REPLACED" in last.data
