"""How many notifications wait for a tenant: exactly so many as may, over all shards and processes.

Property: of many sent at once to users who are away exactly as many wait as the limit says, the others are refused by
name, whoever is connected gets theirs all the same, and room comes back with what is taken. Why it matters: one
customer's absent users must not fill the memory that all share, and what was accepted must not be lost.
"""

import asyncio

import pytest

from clients import WebSocket
from gateway import Gateway, assert_error, wait_until
from keys import FROM_FILE, entry, reload

KEY = "of-all-0123456789"
BODY = {"event_type": "e", "payload": 1}


def config(most: int, backend: str = "memory") -> str:
    return entry("all", KEY, "read", "send", "admin") + (
        f'[queue]\nenabled = true\nbackend = "{backend}"\n[tenant]\nenabled = true\n'
        f"[tenant.tenant_overrides.red]\nmax_queued = {most}\n")


async def start(folder, text: str) -> Gateway:
    (folder / "config.toml").write_text(text)
    gateway = Gateway(folder, **FROM_FILE, SHARDS_COUNT="4", SHARDS_PIN_TO_CORES="false")
    return await gateway.start()


@pytest.fixture
async def gateway(tmp_path):
    gateway = await start(tmp_path, config(10))
    yield gateway
    await gateway.stop()


def headers(tenant: str) -> dict:
    return {"X-API-Key": KEY, "X-Tenant-ID": tenant}


async def send(gateway: Gateway, user: str, tenant: str = "red"):
    body = BODY | {"target_user_id": user}
    url = gateway.url + "/api/v1/notifications/send"
    return await gateway.client.post(url, json=body, headers=headers(tenant))


async def queued(gateway: Gateway) -> int:
    answer = await gateway.client.get(f"{gateway.url}/api/v1/tenants/red", headers=headers("red"))
    assert answer.status_code == 200, answer.text
    return answer.json()["queued"]


async def send_many(gateway: Gateway, count: int, tenant: str = "red") -> int:
    """Sends to so many absent users at once; returns how many were queued. The others were refused by name."""
    answers = await asyncio.gather(*(send(gateway, f"away-{number}", tenant) for number in range(count)))
    refused = [answer for answer in answers if not answer.is_success]
    for answer in refused:
        assert "max_queued" in assert_error(answer, 429, "QUEUE_FULL")["message"]
    assert all(answer.json()["queued"] for answer in answers if answer.is_success)
    return len(answers) - len(refused)


async def test_of_many_at_once_exactly_so_many_wait(gateway):
    assert await send_many(gateway, 40) == 10
    assert await queued(gateway) == 10
    assert await send_many(gateway, 40, "blue") == 40  # another tenant has no limit
    async with WebSocket(gateway, "away-0", claims={"tenant_id": "red"}) as one:
        waited = (await send(gateway, "away-0")).is_success  # connected: nothing needs to wait
        await one.notification()
        assert waited
    waiting = await queued(gateway)
    assert await send_many(gateway, 20) == 10 - waiting
    assert await queued(gateway) == 10


async def test_of_a_batch_as_many_wait_as_may(gateway):
    items = [BODY | {"target": {"type": "user", "value": f"away-{number}"}} for number in range(9)]
    items.append(BODY | {"target": {"type": "users", "value": ["away-9", "away-10", "away-11"]}})
    items.append(BODY | {"target": {"type": "user", "value": "away-12"}})
    answer = await gateway.client.post(f"{gateway.url}/api/v1/notifications/batch", json={"notifications": items},
                                       headers=headers("red"))
    assert answer.status_code == 200, answer.text
    *single, several, last = answer.json()["results"]
    assert all(result["queued"] and "not_queued" not in result for result in single)
    assert several["success"] and several["queued"] is True and several["not_queued"] == 2, several
    assert last["success"] is False and last["error"]["code"] == "QUEUE_FULL", last
    assert await queued(gateway) == 10


async def test_deliveries_beside_it_take_no_room(gateway):
    """Each reserves room that it does not need, and none of those who are away is refused for it."""
    async with WebSocket(gateway, "here", claims={"tenant_id": "red"}) as here:
        mixed = [send(gateway, "here") for _ in range(40)] + [send(gateway, f"away-{n}") for n in range(10)]
        answers = await asyncio.gather(*mixed)
        assert [answer.status_code for answer in answers] == [200] * 50
        for _ in range(40):
            await here.notification()
        assert await queued(gateway) == 10
        assert_error(await send(gateway, "away-0"), 429, "QUEUE_FULL")
        body = BODY | {"target_user_ids": ["here", "away-0", "away-1"]}
        answer = await gateway.client.post(f"{gateway.url}/api/v1/notifications/send-to-users", json=body,
                                           headers=headers("red"))
        assert (answer.json()["delivered_to"], answer.json()["not_queued"]) == (1, 2), answer.text
        assert answer.json()["results"]["away-0"]["queued"] is False


async def test_what_is_cleared_makes_room(gateway):
    assert await send_many(gateway, 12) == 10
    await gateway.client.delete(f"{gateway.url}/api/v1/users/away-3/queue", headers=headers("red"))
    waiting = await queued(gateway)
    assert await send_many(gateway, 12) == 10 - waiting


async def test_a_reload_changes_the_limit(gateway):
    assert await send_many(gateway, 12) == 10
    await reload(gateway, config(13))
    assert await send_many(gateway, 12) == 3
    await reload(gateway, config(5))
    assert_error(await send(gateway, "u"), 429, "QUEUE_FULL")
    assert await queued(gateway) == 13  # what waits already stays
    await reload(gateway, config(0))
    assert await send_many(gateway, 30) == 30
    await reload(gateway, config(20))

    async def is_counted():
        return await queued(gateway) == 43
    await wait_until(is_counted)
    assert_error(await send(gateway, "u"), 429, "QUEUE_FULL")


async def test_what_a_killed_process_left_counts_at_once(tmp_path):
    gateway = await start(tmp_path, config(10, "disk"))
    assert await send_many(gateway, 7) == 7
    gateway.kill()
    await gateway.start()
    assert await send_many(gateway, 10) == 3
    assert await queued(gateway) == 10
    await gateway.stop()
