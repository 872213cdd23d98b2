"""With the disk backend, what was answered `queued` is delivered, whatever happens to the process in between.

Clients: PyPI websockets, httpx-sse, raw WebSockets. *killed* is SIGKILL, *stopped* is SIGTERM; then a gateway is
started on the same directory. `chaos.py` has the publishers and users of the chaos tests:

    ARA_CHAOS_NOTIFICATIONS=50000 ARA_CHAOS_SEED=7 … -m pytest -s -k chaos test_durability.py
"""

import asyncio
import contextlib
import os
import random
import time

import pytest

from chaos import Chaos
from clients import EventStream, WebSocket
from durable import MIB, everything_before_is_on_disk, receive_waiting
from gateway import assert_error, make_token, wait_until
from raw import post_pipelined
from test_idempotency import assert_repeated, post, send_body

SEND = "/api/v1/notifications/send"
ACK = {"ACK_ENABLED": "true", "ACK_TIMEOUT_SECONDS": 60}

ends = pytest.mark.parametrize("end", ["killed", "stopped"])


def ids_of(messages) -> list[str]:
    return [message["id"] for message in messages]


async def queue_up(gateway, users: list[str], count: int, **fields) -> dict[str, list[str]]:
    """Sends each user `count` notifications in turn, their numbers as payload; their ids for each user."""
    bodies = [{"target_user_id": name, "event_type": "test.event", "payload": n} | fields
              for n in range(count) for name in users]
    answers = await post_pipelined(gateway, SEND, bodies)
    assert all(answer["queued"] for answer in answers)
    return {name: ids_of({"id": a["notification_id"]} for a in answers[k::len(users)]) for k, name in enumerate(users)}


async def queue_stats(gateway) -> dict:
    return (await gateway.get_ok("/stats"))["queue"]


# --- what waits

@ends
@pytest.mark.parametrize("before, after", [(2, 2), (1, 4), (4, 1), (3, 2)])
async def test_what_waits_is_there_after_a_restart_with_any_number_of_shards(new_store, end, before, after):
    store = new_store()
    users = [f"user-{n}" for n in range(30)]
    ids = await queue_up(await store.start(SHARDS_COUNT=before), users, 10)
    gateway = await store.restart(end, SHARDS_COUNT=after)
    stats = await queue_stats(gateway)
    assert (stats["backend"], stats["size"], stats["users"]) == ("disk", 300, 30)
    for name in users:
        received = await receive_waiting(gateway, name)
        assert [(m["id"], m["payload"], m["replayed"]) for m in received] == \
            [(i, n, True) for n, i in enumerate(ids[name])]
    assert (await queue_stats(gateway))["size"] == 0


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
async def test_a_kill_loses_nothing_with_any_fsync(new_store, user, fsync):
    """The system keeps what a process has written; only the machine's end can lose more with a lesser policy."""
    store = new_store(QUEUE_FSYNC=fsync)
    ids = await queue_up(await store.start(), [user], 50)
    gateway = await store.restart("killed")
    assert ids_of(await receive_waiting(gateway, user)) == ids[user]


@ends
async def test_what_waits_is_the_same_to_the_last_field(new_store, user, end):
    store = new_store()
    gateway = await store.start()
    for fields in ({}, {"priority": "Critical", "ttl": 1000, "source": "shop", "correlation_id": "c-1"},
                   {"audience": {"type": "Roles", "value": ["admin"]}}, {"payload": None, "event_type": "ü.😀"}):
        assert (await gateway.send(user, **fields))["queued"] is True
    before = await gateway.queue(user)
    assert len(before) == 4
    gateway = await store.restart(end)
    assert await gateway.queue(user) == before
    async with WebSocket(gateway, user, claims={"roles": ["admin"]}) as client:
        received = [await client.notification() for _ in before]
        assert sorted(received, key=lambda message: message["id"]) == \
            [entry["notification"] | {"replayed": True} for entry in before]
        await client.assert_nothing_waits()


@ends
@pytest.mark.parametrize("client_kind", [WebSocket, EventStream], ids=["websocket", "sse"])
async def test_the_bytes_of_a_payload_are_unchanged(new_store, user, client_kind, end):
    payload = '{"z":1.50,\n "a": 1e400, "big":123456789012345678901234567890, "z":"\\u00e9é😀"}'
    store = new_store()
    gateway = await store.start()
    body = f'{{"target_user_id":"{user}","event_type":"e","payload":{payload}}}'
    assert (await gateway.post(SEND, body.encode())).json()["queued"] is True
    gateway = await store.restart(end)
    async with client_kind(gateway, user) as client:
        text = await client.text() if client_kind is WebSocket else (await client.expect("notification")).data
        assert payload in text


@ends
async def test_what_was_queued_before_and_after_a_restart_comes_in_this_order_before_what_is_live(new_store, user, end):
    store = new_store()
    expected = (await queue_up(await store.start(), [user], 20))[user]
    for shards in (1, 3, 2):
        gateway = await store.restart(end, SHARDS_COUNT=shards)
        expected += (await queue_up(gateway, [user], 20))[user]
    async with WebSocket(gateway, user) as client:
        live = asyncio.create_task(gateway.send(user))
        received = [await client.notification() for _ in range(81)]
        assert ids_of(received) == [*expected, (await live)["notification_id"]]
        assert all(message["replayed"] for message in received[:80])


@ends
async def test_the_order_of_one_priority_is_kept(new_store, user, end):
    store = new_store()
    gateway = await store.start()
    priorities = ["Low", "Normal", "High", "Critical"]
    ids = {priority: [] for priority in priorities}
    for n in range(40):
        if n == 20:
            gateway = await store.restart(end, SHARDS_COUNT=3)
        priority = priorities[n * 7 % 4]
        ids[priority].append((await gateway.send(user, priority=priority))["notification_id"])
    gateway = await store.restart(end)
    received = await receive_waiting(gateway, user)
    assert len(received) == 40
    for priority in priorities:
        assert ids_of(m for m in received if m["metadata"]["priority"] == priority) == ids[priority]


@ends
async def test_of_many_users_those_who_were_away_get_it_after_a_restart(new_store, end):
    store = new_store()
    gateway = await store.start(SHARDS_COUNT=3)
    away = [f"away-{n}" for n in range(40)]
    async with WebSocket(gateway, "here") as here:
        answer = await gateway.trigger("send-to-users", target_user_ids=[*away, "here"])
        assert {name for name, result in answer["results"].items() if result["queued"]} == set(away)
        assert (await here.notification())["id"] == answer["notification_id"]
    gateway = await store.restart(end, SHARDS_COUNT=2)
    for name in away:
        assert ids_of(await receive_waiting(gateway, name)) == [answer["notification_id"]]


@ends
async def test_broadcasts_and_channels_wait_over_a_restart_for_the_users_that_an_audience_names(new_store, user, end):
    store = new_store()
    gateway = await store.start()
    audience = {"type": "Users", "value": [user]}
    expected = []
    kinds = {"broadcast": {}, "channel": {"channel": "news"}, "channels": {"channels": ["news", "sport"]}}
    for kind, target in kinds.items():
        answer = await gateway.trigger(kind, audience=audience, queue=True, **target)
        assert answer["queued"] is True
        expected.append((answer["notification_id"], target and "news" or None))
    gateway = await store.restart(end, SHARDS_COUNT=3)
    assert [(m["id"], m.get("channel")) for m in await receive_waiting(gateway, user)] == expected


@ends
async def test_tenants_are_kept_apart_after_a_restart(new_store, user, end):
    store = new_store(TENANT_ENABLED="true")
    gateway = await store.start()
    for tenant in ("red", "blue"):
        assert (await gateway.send(user, tenant, payload=tenant))["queued"] is True
    gateway = await store.restart(end)
    for tenant in ("red", "blue"):
        assert [m["payload"] for m in await receive_waiting(gateway, user, tenant=tenant)] == [tenant]
    assert await receive_waiting(gateway, user, tenant="green") == []


async def test_a_graceful_stop_amid_triggers_and_clients_loses_nothing_and_ends_with_0(new_store):
    store = new_store()
    gateway = await store.start()
    promised = []

    async def publish(n: int):
        with contextlib.suppress(Exception):  # the stop refuses and cuts
            while True:
                response = await gateway.post(SEND, send_body(f"away-{n}"))
                if response.status_code != 200:
                    return
                assert response.json()["queued"] is True
                promised.append((f"away-{n}", response.json()["notification_id"]))

    async with WebSocket(gateway, "here") as client:
        publishers = [asyncio.create_task(publish(n)) for n in range(8)]
        await wait_until(lambda: len(promised) > 200, 20, "200 queued")
        begin = time.monotonic()
        gateway.signal()
        await client.expect("shutdown")
        assert await gateway.exit_code() == 0
        assert time.monotonic() - begin < 5, "nothing to wait for, so no grace is needed"
        await asyncio.gather(*publishers)
    gateway = await store.restart("stopped")
    for n in range(8):
        received = ids_of(await receive_waiting(gateway, f"away-{n}"))
        expected = [i for name, i in promised if name == f"away-{n}"]
        assert received[:len(expected)] == expected and len(received) <= len(expected) + 1


# --- what does not wait any more

async def test_what_was_delivered_does_not_come_again_after_a_graceful_stop(new_store, user):
    store = new_store()
    ids = await queue_up(await store.start(), [user], 20)
    gateway = await store.restart("killed")
    assert ids_of(await receive_waiting(gateway, user)) == ids[user]
    gateway = await store.restart("stopped")
    assert await gateway.queue(user) == []
    assert await receive_waiting(gateway, user) == []


@pytest.mark.parametrize("way", ["message", "post", "last-event-id"])
async def test_what_was_acknowledged_does_not_come_again_after_a_graceful_stop(new_store, user, way):
    store = new_store(**ACK)
    ids = (await queue_up(await store.start(), [user], 6))[user]
    gateway = await store.restart("killed")
    async with WebSocket(gateway, user) as client:
        for expected in ids:
            assert (await client.notification())["id"] == expected
        if way == "message":
            for acknowledged in ids[:4]:
                await client.ack(acknowledged)
        elif way == "post":
            answer = await gateway.client.post("/api/v1/acks", json={"notification_ids": ids[:4]},
                                               headers={"Authorization": f"Bearer {make_token(user)}"})
            assert answer.json()["acked"] == ids[:4]
    if way == "last-event-id":
        await gateway.wait_until_away(user)
        async with EventStream(gateway, user, headers={"Last-Event-ID": ids[3]}) as stream:
            assert (await stream.notification())["id"] == ids[4]
    gateway = await store.restart("stopped")
    assert ids_of(entry["notification"] for entry in await gateway.queue(user)) == ids[4:]
    assert ids_of(await receive_waiting(gateway, user, acknowledge=True)) == ids[4:]
    gateway = await store.restart("stopped")
    assert await receive_waiting(gateway, user, acknowledge=True) == []


async def test_what_was_cleared_does_not_come_again_after_a_graceful_stop(new_store, user):
    store = new_store()
    gateway = await store.start()
    await queue_up(gateway, [user], 5)
    assert (await gateway.delete_ok(f"/api/v1/users/{user}/queue"))["cleared"] == 5
    after = await queue_up(gateway, [user], 2)
    gateway = await store.restart("stopped")
    assert ids_of(await receive_waiting(gateway, user)) == after[user]


async def test_what_was_pushed_out_does_not_come_again_after_a_graceful_stop(new_store, user):
    store = new_store(QUEUE_MAX_SIZE_PER_USER=5)
    ids = await queue_up(await store.start(), [user], 12)
    gateway = await store.restart("stopped")
    assert ids_of(await receive_waiting(gateway, user)) == ids[user][-5:]


@ends
async def test_the_bound_for_one_user_counts_what_was_there_before(new_store, user, end):
    store = new_store(QUEUE_MAX_SIZE_PER_USER=5)
    before = (await queue_up(await store.start(), [user], 4))[user]
    gateway = await store.restart(end)
    after = (await queue_up(gateway, [user], 3))[user]
    assert ids_of(await receive_waiting(gateway, user)) == [*before[2:], *after]


@ends
@pytest.mark.parametrize("bound", ["ttl", "configured"])
async def test_what_expired_while_no_gateway_ran_does_not_come(new_store, user, bound, end):
    store = new_store(**{"QUEUE_MESSAGE_TTL_SECONDS": 1} if bound == "configured" else {})
    gateway = await store.start()
    assert (await gateway.send(user, **{"ttl": 1} if bound == "ttl" else {}))["queued"] is True
    expiry = time.time() + 1
    await store.end(end)
    await wait_until(lambda: time.time() > expiry + 0.1)
    gateway = await store.start()
    assert await gateway.queue(user) == []
    assert await receive_waiting(gateway, user) == []


@ends
async def test_a_restart_does_not_prolong_the_time_to_live(new_store, user, end):
    store = new_store()
    gateway = await store.start()
    sent = time.time()
    assert (await gateway.send(user, ttl=4))["queued"] is True
    await store.end(end)
    await wait_until(lambda: time.time() > sent + 2.5)
    gateway = await store.start()
    if time.time() < sent + 3.5:
        assert len(await gateway.queue(user)) == 1

    async def gone():
        return await gateway.queue(user) == []

    await wait_until(gone, sent + 5.5 - time.time(), "the expiry at its own time")


# --- acknowledgement

@ends
async def test_what_was_delivered_live_and_not_acknowledged_comes_again(new_store, user, end):
    store = new_store(**ACK)
    gateway = await store.start()
    async with WebSocket(gateway, user) as client:
        ids = []
        for n in range(5):
            answer = await gateway.send(user, payload=n)
            assert (answer["delivered_to"], answer["queued"]) == (1, False)
            ids.append(answer["notification_id"])
            assert (await client.notification())["id"] == ids[-1]
        await client.ack(ids[2])
        await everything_before_is_on_disk(gateway)
        await store.end(end)
    gateway = await store.start(SHARDS_COUNT=3)
    async with WebSocket(gateway, user) as client:
        received = [await client.notification() for _ in range(4)]
        assert [(m["id"], m["payload"], m["replayed"]) for m in received] == \
            [(ids[n], n, True) for n in (0, 1, 3, 4)]
        await client.assert_nothing_waits()


@ends
async def test_attempts_go_on_counting(new_store, user, end):
    store = new_store(**ACK)
    gateway = await store.start()
    (expected,) = (await queue_up(gateway, [user], 1))[user]
    for attempt in range(1, 5):
        async with WebSocket(gateway, user) as client:
            message = await client.notification()
            assert (message["id"], message.get("attempt", 1)) == (expected, attempt)
        await gateway.wait_until_away(user)
        await everything_before_is_on_disk(gateway)
        gateway = await store.restart(end, SHARDS_COUNT=1 + attempt % 3)
        (entry,) = await gateway.queue(user)
        assert (entry["attempts"], entry["in_flight"]) == (attempt, False)


@ends
async def test_dead_letters_are_there_after_a_restart_until_they_are_cleared(new_store, user, end):
    store = new_store(ACK_ENABLED="true", ACK_TIMEOUT_SECONDS=0.2, ACK_MAX_ATTEMPTS=2)
    gateway = await store.start()
    async with WebSocket(gateway, user) as client:
        ids = [(await gateway.send(user, payload=n))["notification_id"] for n in range(3)]
        for _ in range(6):
            await client.notification()

        async def all_dead():
            dead = await gateway.dead_letters(user)
            return dead if len(dead) == 3 else None

        dead = await wait_until(all_dead, what="three dead letters")
        assert ids_of(entry["notification"] for entry in dead) == ids
        await everything_before_is_on_disk(gateway)
    gateway = await store.restart(end, SHARDS_COUNT=3)
    assert await gateway.dead_letters(user) == dead
    assert await gateway.queue(user) == []
    assert (await gateway.delete_ok(f"/api/v1/users/{user}/dead-letters"))["cleared"] == 3
    gateway = await store.restart("stopped")
    assert await gateway.dead_letters(user) == []
    assert await receive_waiting(gateway, user, acknowledge=True) == []


@ends
async def test_a_dead_letter_ends_when_it_was_to_end_also_after_a_restart(new_store, user, end):
    store = new_store(ACK_ENABLED="true", ACK_TIMEOUT_SECONDS=0.2, ACK_MAX_ATTEMPTS=1, SHARDS_COUNT=1)
    gateway = await store.start(QUEUE_DEAD_LETTER_TTL_SECONDS=3)
    async with WebSocket(gateway, user) as client:
        await gateway.send(user)
        await client.notification()
        await wait_until(lambda: gateway.dead_letters(user), what="the dead letter")
        await everything_before_is_on_disk(gateway)
    # A new time to live is only for later dead letters; with another number of shards they are written again.
    gateway = await store.restart(end, SHARDS_COUNT=2, QUEUE_DEAD_LETTER_TTL_SECONDS=0)

    async def is_forgotten():
        return (await gateway.get_ok("/stats"))["ack"]["dead_letters_expired"] == 1
    await wait_until(is_forgotten, what="its end")
    assert await gateway.dead_letters(user) == []
    await everything_before_is_on_disk(gateway)
    gateway = await store.restart(end)
    assert await gateway.dead_letters(user) == []


# --- idempotency

@ends
@pytest.mark.parametrize("kind", ["send", "send-to-users", "broadcast", "channel", "channels"])
async def test_the_same_key_after_a_restart_is_answered_the_same_and_sends_nothing(new_store, user, kind, end):
    store = new_store()
    gateway = await store.start()
    target = {"send": {"target_user_id": user}, "send-to-users": {"target_user_ids": [user, f"{user}-away"]},
              "broadcast": {}, "channel": {"channel": "news"}, "channels": {"channels": ["news", "other"]}}[kind]
    path, body = f"/api/v1/notifications/{kind}", {"event_type": "e", "payload": {"n": 1}} | target
    async with WebSocket(gateway, user) as client:
        await client.subscribe("news")
        first = await post(gateway, path, body, "key")
        assert (await client.notification())["id"] == first.json()["notification_id"]
        await store.end(end)
    gateway = await store.start(SHARDS_COUNT=3)
    assert set(ids_of(await receive_waiting(gateway, user))) <= {first.json()["notification_id"]}
    async with WebSocket(gateway, user) as client:
        await client.subscribe("news")
        for _ in range(2):
            assert_repeated(first, await post(gateway, path, body, "key"))
        assert_error(await post(gateway, path, body | {"payload": 2}, "key"), 409, "IDEMPOTENCY_CONFLICT")
        await client.assert_nothing_waits()
        await post(gateway, path, body, "another-key")
        await client.notification()
    if kind == "send-to-users":
        assert ids_of(await receive_waiting(gateway, f"{user}-away"))[0] == first.json()["notification_id"]


@ends
async def test_many_keys_are_remembered_and_what_they_queued_is_queued_once(new_store, user, end):
    store = new_store(TENANT_ENABLED="true")
    gateway = await store.start()
    first = {}
    for n in range(50):
        for tenant in ("red", "blue"):
            first[n, tenant] = await post(gateway, SEND, send_body(user, payload=n), f"key-{n}", tenant)
            assert first[n, tenant].json()["queued"] is True
    for shards in (1, 4):
        gateway = await store.restart(end, SHARDS_COUNT=shards)
        for (n, tenant), answer in first.items():
            assert_repeated(answer, await post(gateway, SEND, send_body(user, payload=n), f"key-{n}", tenant))
    for tenant in ("red", "blue"):
        received = await receive_waiting(gateway, user, tenant=tenant)
        assert ids_of(received) == [first[n, tenant].json()["notification_id"] for n in range(50)]


async def test_a_key_answered_at_the_moment_of_the_kill_is_remembered(new_store, user):
    """The kill follows the answer at once."""
    store = new_store()
    for n in range(10):
        gateway = await store.start(SHARDS_COUNT=1 + n % 3)
        first = await post(gateway, SEND, send_body(user, payload=n), f"key-{n}")
        gateway = await store.restart("killed")
        assert_repeated(first, await post(gateway, SEND, send_body(user, payload=n), f"key-{n}"))
        await store.kill()
    gateway = await store.start()
    assert [m["payload"] for m in await receive_waiting(gateway, user)] == list(range(10))


# --- the directory

async def test_the_directory_is_made_with_its_parents(new_store, new_folder, user):
    store = new_store(path=new_folder() / "var" / "lib" / "queue")
    ids = await queue_up(await store.start(), [user], 1)
    assert store.journals()
    gateway = await store.restart("killed")
    assert ids_of(await receive_waiting(gateway, user)) == ids[user]


async def test_many_restarts_keep_everything_and_do_not_fill_the_directory(new_store, user):
    """8 MiB are allowed. What a restart leaves of the shards before it must not pile up."""
    store = new_store(QUEUE_MAX_DISK_BYTES=8 * MIB)
    expected, payload = [], "x" * 2000
    for n in range(20):
        gateway = await store.restart(("killed", "stopped")[n % 2], SHARDS_COUNT=1 + n % 4)
        expected += (await queue_up(gateway, [user], 15, payload=payload))[user]
    assert store.bytes_used() <= 8 * MIB
    gateway = await store.restart("killed")
    assert ids_of(await receive_waiting(gateway, user)) == expected


async def test_the_memory_backend_touches_no_disk(start_gateway, new_folder, user):
    path = new_folder("queue")
    gateway = await start_gateway(QUEUE_ENABLED="true", QUEUE_BACKEND="memory", QUEUE_PATH=path)
    assert (await gateway.send(user))["queued"] is True
    assert (await post(gateway, SEND, send_body(user), "key")).status_code == 200
    await gateway.stop()
    assert not path.exists() and list(gateway.folder.iterdir()) == []


# --- chaos

CHAOS_LETTERS = int(os.environ.get("ARA_CHAOS_NOTIFICATIONS", 10_000))
CHAOS_SEED = os.environ.get("ARA_CHAOS_SEED") or str(random.randrange(10**9))
CHAOS_KILLS = 8


async def run_chaos(store, messages: int, acks: bool, keys: bool = False):
    print(f"\nARA_CHAOS_SEED={CHAOS_SEED} ARA_CHAOS_NOTIFICATIONS={CHAOS_LETTERS}")
    chaos = Chaos(store, messages=messages, seed=CHAOS_SEED, acks=acks, keys=keys, kills=CHAOS_KILLS)
    try:
        await chaos.run()
    finally:
        print(chaos.compare())
    assert not chaos.faults, f"{len(chaos.faults)} faults, such as:\n" + "\n".join(chaos.faults[:20])
    assert not set(chaos.refusals) - {"OVERLOADED"}, chaos.refusals
    gateway = await store.restart("stopped")
    stats = await gateway.get_ok("/stats")
    assert (stats["queue"]["size"], stats["ack"]["dead_letters"]) == (0, 0)
    for log in store.logs:
        assert "panicked" not in log.read_text(errors="replace"), log


ACK_SOON = {"ACK_ENABLED": "true", "ACK_TIMEOUT_SECONDS": 2, "ACK_MAX_ATTEMPTS": 255}


async def test_chaos_kills_lose_nothing_that_was_queued_and_not_acknowledged(new_store):
    """Users acknowledge what they read, but some cut the connection while reading, and some stop reading."""
    await run_chaos(new_store(**ACK_SOON), CHAOS_LETTERS, acks=True)


async def test_chaos_kills_lose_nothing_that_was_queued_and_not_written(new_store):
    """Acknowledgement is off. Users read to the end of each connection: what was written has been received."""
    await run_chaos(new_store(), CHAOS_LETTERS, acks=False)


async def test_chaos_kills_forget_no_answer_to_a_key(new_store):
    """Each trigger has a key. It is tried until it is answered, and now and then repeated: one id, one answer."""
    await run_chaos(new_store(**ACK_SOON), CHAOS_LETTERS // 3, acks=True, keys=True)
