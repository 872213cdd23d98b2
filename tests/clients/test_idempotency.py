"""A trigger repeated with its Idempotency-Key is answered like the first time and sends nothing.

Clients: PyPI websockets; the callers are httpx, and a raw socket that leaves before its answer.
"""

import asyncio
import json

import pytest

from clients import WebSocket
from conftest import gateway_module_fixture
from gateway import assert_error, wait_until
from raw import RawConnection

gateway = gateway_module_fixture(QUEUE_ENABLED="true")

PREFIX = "/api/v1/notifications/"
SEND = f"{PREFIX}send"


def send_body(user: str, **fields) -> dict:
    return {"target_user_id": user, "event_type": "e", "payload": {}} | fields


async def post(gateway, path: str, body, key: str, tenant: str | None = None):
    return await gateway.post(path, body, tenant, **{"Idempotency-Key": key})


def assert_repeated(first, again):
    assert first.status_code == again.status_code == 200, again.text
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]


@pytest.mark.parametrize("kind", ["send", "send-to-users", "broadcast", "channel", "channels"])
async def test_the_same_key_and_body_are_answered_the_same_and_send_nothing(gateway, user, channel, kind):
    target = {"send": {"target_user_id": user}, "send-to-users": {"target_user_ids": [user, f"{user}-away"]},
              "broadcast": {}, "channel": {"channel": channel}, "channels": {"channels": [channel, "other"]}}[kind]
    body = {"event_type": "e", "payload": {"n": 1}} | target
    async with WebSocket(gateway, user) as client:
        await client.subscribe(channel)
        triggers = (await gateway.get_ok("/stats"))["messages"]["triggers"]
        first = await post(gateway, PREFIX + kind, body, f"key-{user}")
        assert (await client.notification())["id"] == first.json()["notification_id"]
        for _ in range(3):
            assert_repeated(first, await post(gateway, PREFIX + kind, body, f"key-{user}"))
        await client.assert_nothing_waits()
        assert (await gateway.get_ok("/stats"))["messages"]["triggers"] == triggers + 1

        # Another key, and none at all, send again.
        other = await post(gateway, PREFIX + kind, body, f"key-{user}-2")
        assert (await client.notification())["id"] == other.json()["notification_id"]
        none = await gateway.post(PREFIX + kind, body)
        assert (await client.notification())["id"] == none.json()["notification_id"]
        assert len({r.json()["notification_id"] for r in (first, other, none)}) == 3


async def test_what_was_queued_is_queued_once(gateway, user):
    first = await post(gateway, SEND, send_body(user), f"key-{user}")
    assert first.json()["queued"] is True
    async with WebSocket(gateway, user) as client:
        await client.notification()
        # The user is here now, but this is still the first answer.
        assert_repeated(first, await post(gateway, SEND, send_body(user), f"key-{user}"))
        await client.assert_nothing_waits()


async def test_another_body_or_path_with_the_same_key_is_a_conflict(gateway, user):
    key = f"key-{user}"
    body = {"event_type": "e", "payload": {}, "channel": "c"}
    async with WebSocket(gateway, user) as client:
        first = await post(gateway, SEND, send_body(user), key)
        await client.notification()
        for path, other in ((SEND, send_body(user, payload=1)), (SEND, send_body(f"{user}-2")),
                            (f"{PREFIX}channel", body), (SEND, json.dumps(send_body(user)) + " ")):
            assert_error(await post(gateway, path, other, key), 409, "IDEMPOTENCY_CONFLICT")
        await client.assert_nothing_waits()
        assert await gateway.queue(f"{user}-2") == []
        assert_repeated(first, await post(gateway, SEND, send_body(user), key))


async def test_a_refused_request_does_not_use_up_its_key(gateway, user):
    key = f"key-{user}"
    assert_error(await post(gateway, SEND, send_body(user, priority="urgent"), key), 400, "VALIDATION_ERROR")
    first = await post(gateway, SEND, send_body(user), key)
    assert_repeated(first, await post(gateway, SEND, send_body(user), key))
    assert len(await gateway.queue(user)) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "ü"])
async def test_a_malformed_key_is_refused_and_nothing_is_sent(gateway, user, key):
    response = await gateway.post(SEND, send_body(user), **{"Idempotency-Key": key.encode("latin-1")})
    assert_error(response, 400)
    assert await gateway.queue(user) == []


@pytest.mark.parametrize("key", ["x" * 128, "!~\"{}", "0"])
async def test_every_key_the_contract_allows_works(gateway, user, key):
    body = send_body(user)
    assert_repeated(await post(gateway, SEND, body, key), await post(gateway, SEND, body, key))


async def test_the_same_request_many_times_at_once_sends_once(gateway, user):
    async with WebSocket(gateway, user) as client:
        responses = await asyncio.gather(*(post(gateway, SEND, send_body(user), f"key-{user}") for _ in range(30)))
        sent = (await client.notification())["id"]
        await client.assert_nothing_waits()
        for response in responses:
            if response.status_code == 200:
                assert response.json()["notification_id"] == sent
            else:  # the first one is still under way
                assert_error(response, 409, "IDEMPOTENCY_CONFLICT")
                assert response.headers["retry-after"] == "1"
        answered = [response for response in responses if response.status_code == 200]
        assert sum("idempotent-replayed" not in response.headers for response in answered) == 1


async def test_a_caller_that_left_before_its_answer_may_ask_again(gateway, user):
    body = json.dumps(send_body(user)).encode()
    async with WebSocket(gateway, user) as client:
        for n in range(10):
            key = f"key-{user}-{n}"
            async with RawConnection(gateway) as connection:
                await connection.send(connection.request("POST", SEND, body, Idempotency_Key=key,
                                                         **gateway.headers()))
            sent = (await client.notification())["id"]

            async def answered(key=key):
                response = await post(gateway, SEND, body, key)
                return None if response.status_code == 409 else response  # 409: still under way

            response = await wait_until(answered, what="the first request's answer")
            assert response.status_code == 200 and response.json()["notification_id"] == sent
            assert response.headers["idempotent-replayed"] == "true"
            await client.assert_nothing_waits()


async def test_keys_belong_to_a_tenant(start_gateway):
    gateway = await start_gateway(TENANT_ENABLED="true")
    first = {}
    for tenant in ("red", "blue"):
        first[tenant] = await post(gateway, SEND, send_body("u"), "same", tenant)
    assert first["red"].json()["notification_id"] != first["blue"].json()["notification_id"]
    for tenant in ("red", "blue"):
        assert_repeated(first[tenant], await post(gateway, SEND, send_body("u"), "same", tenant))
    assert_error(await post(gateway, SEND, send_body("v"), "same", "red"), 409, "IDEMPOTENCY_CONFLICT")
