"""Two tenants that use the same user ids and channel names never see each other."""

import contextlib

import pytest

from clients import EventStream, WebSocket
from conftest import gateway_module_fixture
from gateway import assert_error, make_token

gateway = gateway_module_fixture(TENANT_ENABLED="true")

TENANTS = ("red", "blue", "default")


@pytest.fixture
async def clients(gateway):
    """The same user on the same channel in three tenants; `default` by a token that names none."""
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for tenant in TENANTS:
            claims = {} if tenant == "default" else {"tenant_id": tenant}
            clients[tenant] = await stack.enter_async_context(WebSocket(gateway, "same", claims=claims))
            await clients[tenant].subscribe("news")
        yield clients


@pytest.mark.parametrize("kind, target", [
    ("send", {"target_user_id": "same"}), ("send-to-users", {"target_user_ids": ["same"]}), ("broadcast", {}),
    ("channel", {"channel": "news"}), ("channels", {"channels": ["news"]}),
    ("broadcast", {"audience": {"type": "Users", "value": ["same"]}}),
    ("broadcast", {"audience": {"type": "Channels", "value": ["news"]}}),
], ids=["send", "send-to-users", "broadcast", "channel", "channels", "audience-users", "audience-channels"])
async def test_a_trigger_stays_in_its_tenant(gateway, clients, kind, target):
    for tenant in TENANTS:
        answer = await gateway.trigger(kind, tenant, payload=tenant, **target)
        assert answer["delivered_to"] == 1
        message = await clients[tenant].notification()
        assert (message["id"], message["payload"]) == (answer["notification_id"], tenant)
        for client in clients.values():
            await client.assert_nothing_waits()


async def test_streams_stay_in_their_tenant(gateway, channel):
    async with EventStream(gateway, "s", claims={"tenant_id": "red"}) as red, \
            EventStream(gateway, "s", claims={"tenant_id": "blue"}) as blue:
        for tenant, stream in (("red", red), ("blue", blue), ("red", red)):
            for kind, target in (("send", {"target_user_id": "s"}), ("channel", {"channel": channel}),
                                 ("broadcast", {})):
                answer = await gateway.trigger(kind, tenant, payload=tenant, **target)
                assert answer["delivered_to"] == 1
                assert (await stream.notification())["id"] == answer["notification_id"]


async def test_queries_see_their_tenant_only(gateway, clients):
    await clients["red"].subscribe("red-only")
    assert await gateway.get_ok("/api/v1/channels/news", "red") == {"name": "news", "subscriber_count": 1}
    assert_error(await gateway.get("/api/v1/channels/red-only", "blue"), 404, "CHANNEL_NOT_FOUND")
    names = {tenant: {entry["name"] for entry in (await gateway.get_ok("/api/v1/channels", tenant))["channels"]}
             for tenant in ("red", "blue", "empty")}
    assert names == {"red": {"news", "red-only"}, "blue": {"news"}, "empty": set()}
    path = "/api/v1/users/same/subscriptions"
    answer = await gateway.get_ok(path, "blue")
    assert (answer["connection_count"], answer["subscriptions"]) == (1, ["news"])
    assert sorted((await gateway.get_ok(path, "red"))["subscriptions"]) == ["news", "red-only"]
    assert_error(await gateway.get(path, "empty"), 404, "USER_NOT_CONNECTED")


@pytest.mark.parametrize("tenant", [None, "", "a b", "a/b", "x" * 65, "ü".encode().decode("latin-1"), "a,b"])
async def test_a_missing_or_malformed_tenant_is_400(gateway, tenant):
    headers = {"X-API-Key": gateway.headers()["X-API-Key"]}
    if tenant is not None:
        headers["X-Tenant-ID"] = tenant.encode("latin-1")
    body = {"target_user_id": "same", "event_type": "e", "payload": {}}
    assert_error(await gateway.client.post("/api/v1/notifications/send", json=body, headers=headers), 400)
    assert_error(await gateway.client.get("/api/v1/channels", headers=headers), 400)


@pytest.mark.parametrize("tenant", ["a", "x" * 64, "A-Z.a_z-09"])
async def test_every_tenant_name_the_contract_allows_works(gateway, tenant):
    async with WebSocket(gateway, "u", claims={"tenant_id": tenant}) as client:
        assert (await gateway.send("u", tenant))["delivered_to"] == 1
        await client.notification()
