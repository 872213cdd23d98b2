"""A queue directory that an earlier version has left is read whole: nothing is lost, doubled, or sent in other words.

Clients: PyPI websockets, httpx-sse. The directories are fixtures (`tests/fixtures/README.md`): one of a gateway that was
stopped and one of a gateway that was killed, each with what the version that wrote them says about them an hour
later. The gateway under test is given a copy, and a wall clock that stands at that hour.
"""

import json

import pytest

from gateway import assert_error
from old_queue import ENDS, FIXTURES, HOUR_S, REPEATED, SETTINGS, at, compile_wall_clock, reader, unpack, witness

FOLDERS = sorted(FIXTURES.glob("queue-*"))
DAY_S = 24 * HOUR_S

versions = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name.removeprefix("queue-"))
ends = pytest.mark.parametrize("end", ENDS)


@pytest.fixture(scope="module")
def wall_clock(new_folder):
    return compile_wall_clock(new_folder("wall-clock"))


@pytest.fixture
def old_store(new_store, new_folder, wall_clock):
    """Makes a store of what a version has left, so many seconds later."""
    def open_copy(folder, end: str, later_s: int, **settings):
        expected = json.loads((folder / "expected.json").read_text())
        path = new_folder("queue")
        unpack(folder / "directories.tar.gz", end, path)
        clock = at(expected["made_unix_s"] + later_s, wall_clock)
        return new_store(path=path, **SETTINGS | clock | settings), expected[end]

    return open_copy


def test_there_is_something_to_read():
    assert FOLDERS


@ends
@versions
@pytest.mark.parametrize("shards", [2, 1, 3])
async def test_what_an_earlier_version_has_left_is_sent_to_the_last_byte(old_store, folder, end, shards):
    store, expected = old_store(folder, end, HOUR_S, SHARDS_COUNT=shards)
    found = await witness(await store.start())
    # One by one: a difference is shown where it is.
    for part in ("sizes", "repeated"):
        assert found[part] == expected[part]
    for part in ("waiting", "dead", "received"):
        assert found[part].keys() == expected[part].keys()
        for user, what in expected[part].items():
            assert found[part][user] == what, f"{part}: {user}"
    # The fixture is no empty promise.
    attempts = [entry["attempts"] for waiting in found["waiting"].values() for entry in waiting]
    assert set(attempts) >= {0, 1, 2} and sum(map(len, found["dead"].values())) >= 1
    assert sum(map(len, found["received"].values())) >= 20
    assert [replayed for _, replayed, _ in found["repeated"]] == ["true"] * len(REPEATED)
    # Everything was read: nothing in it was damaged, or strange to this version.
    assert "damaged" not in store.gateway.log() and "cannot be read" not in store.gateway.log()


@ends
@versions
async def test_what_comes_now_lines_up_behind_what_an_earlier_version_has_left(old_store, folder, end):
    store, expected = old_store(folder, end, HOUR_S)
    gateway = await store.start()
    new = (await gateway.send("kim", "globex", payload="new"))["notification_id"]
    # And is written down beside it.
    gateway = await store.restart("killed", SHARDS_COUNT=3)
    old = [entry["notification"]["id"] for entry in expected["waiting"]["globex/kim"]]
    assert len(old) == 3
    assert [entry["notification"]["id"] for entry in await gateway.queue("kim", "globex")] == [*old, new]
    async with reader(gateway, "globex", "kim") as client:
        assert [(await client.notification())["id"] for _ in range(4)] == [*old, new]
        for taken in (*old, new):
            await client.ack(taken)
        await client.assert_nothing_waits()
    gateway = await store.restart("killed")
    assert await gateway.queue("kim", "globex") == []


@ends
@versions
async def test_what_an_earlier_version_has_left_ends_at_its_time(old_store, folder, end):
    """Each thing has its own: an answer a day, a dead letter a week, a notification what its trigger gave it."""
    store, expected = old_store(folder, end, 25 * HOUR_S)
    gateway = await store.start()
    assert len(expected["waiting"]["acme/joe"]) == 1 and await gateway.queue("joe", "acme") == []
    assert await gateway.queue("ann", "acme") == expected["waiting"]["acme/ann"]
    assert await gateway.dead_letters("gus", "acme") == expected["dead"]["acme/gus"] != []
    for tenant, path, key, body in REPEATED:
        # Its key is free again.
        answer = await gateway.post(path, body.encode() + b" ", tenant, **{"Idempotency-Key": key})
        assert answer.status_code == 200 and "idempotent-replayed" not in answer.headers

    store, _ = old_store(folder, end, 8 * DAY_S)
    gateway = await store.start()
    assert await gateway.dead_letters("gus", "acme") == []
    assert await gateway.queue("ann", "acme") == expected["waiting"]["acme/ann"]
    await store.stop()

    store, _ = old_store(folder, end, 31 * DAY_S)
    gateway = await store.start()
    assert (await gateway.get_ok("/stats"))["queue"]["size"] == 0


@versions
async def test_a_key_of_an_earlier_version_is_refused_with_another_body(old_store, folder):
    store, _ = old_store(folder, "stopped", HOUR_S)
    gateway = await store.start()
    tenant, path, key, body = REPEATED[0]
    answer = await gateway.post(path, body.encode() + b" ", tenant, **{"Idempotency-Key": key})
    assert_error(answer, 409, "IDEMPOTENCY_CONFLICT")
