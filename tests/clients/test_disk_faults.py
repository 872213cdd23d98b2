"""A directory that cannot be used, files that are damaged, a disk that is full or fails: what it costs.

A full disk is a small file system in memory, which takes root to mount, or the gateway's own bound,
QUEUE_MAX_DISK_BYTES. A failing disk is a library preloaded into the gateway (faulty_disk.c). Acknowledgement is off unless a test says so.
"""

import asyncio
import contextlib
import errno
import re
import subprocess

import pytest

from clients import EventStream, WebSocket
from durable import MIB, FaultyDisk, Store, everything_before_is_on_disk, receive_waiting, mount, mounted, without_privileges
from gateway import Gateway, assert_error, wait_until
from test_durability import SEND, ids_of, queue_up
from test_idempotency import send_body

UNAVAILABLE = "QUEUE_UNAVAILABLE"


# --- a directory that cannot be used

def assert_explained(result: subprocess.CompletedProcess, *words: str):
    """It ended by itself, with an exit code, and one message for a person."""
    output = result.stdout + result.stderr
    assert result.returncode in (1, 2), f"exit code {result.returncode}:\n{output}"
    for word in words:
        assert word in output, f"{word!r} is not in:\n{output}"
    for leak in ("panicked", "backtrace", ".rs:", "ready"):
        assert leak not in output, output
    assert len([line for line in output.splitlines() if words[0] in line]) == 1, output


async def refused(store: Store, **settings) -> subprocess.CompletedProcess:
    return await asyncio.to_thread(store.refused, **settings)


async def test_a_file_in_place_of_the_directory_is_refused(new_store):
    store = new_store()
    store.path.parent.mkdir(parents=True, exist_ok=True)
    store.path.write_text("mine")
    assert_explained(await refused(store), str(store.path))
    assert store.path.read_text() == "mine"


async def test_a_file_in_place_of_a_parent_is_refused(new_store, new_folder):
    parent = new_folder("parent")
    parent.write_text("mine")
    assert_explained(await refused(new_store(path=parent / "queue")), str(parent / "queue"))


async def test_a_place_where_nothing_can_be_made_is_refused(new_store):
    assert_explained(await refused(new_store(), QUEUE_PATH="/proc/queue"), "/proc/queue")


@pytest.mark.parametrize("used_before", [False, True], ids=["empty", "used-before"])
async def test_a_read_only_file_system_is_refused(new_store, new_folder, user, used_before):
    with mounted(new_folder("disk"), 16 * MIB) as disk:
        store = new_store(path=disk / "queue")
        if used_before:
            ids = await queue_up(await store.start(), [user], 3)
            await store.stop()
        mount("-o", "remount,ro", str(disk))
        result = await refused(store)
        assert_explained(result, str(store.path))
        assert "ead-only" in result.stdout + result.stderr
        mount("-o", "remount,rw", str(disk))
        gateway = await store.start()
        if used_before:
            assert ids_of(await receive_waiting(gateway, user)) == ids[user]
        await store.stop()


@pytest.mark.parametrize("mode", [0o000, 0o555])
async def test_a_directory_without_permission_is_refused(new_store, mode):
    store = new_store()
    store.path.mkdir(parents=True)
    store.path.chmod(mode)
    try:
        result = await refused(store, before=without_privileges())
        assert_explained(result, str(store.path))
        assert "ermission denied" in result.stdout + result.stderr
    finally:
        store.path.chmod(0o755)


@pytest.mark.parametrize("spelling", ["the same", "a link", "with dots"])
async def test_a_second_gateway_on_the_same_directory_is_refused_and_the_first_goes_on(
        new_store, new_folder, user, spelling):
    store = new_store()
    gateway = await store.start()
    (first,) = (await queue_up(gateway, [user], 1))[user]
    path = store.path
    if spelling == "a link":
        path = new_folder("link")
        path.symlink_to(store.path)
    elif spelling == "with dots":
        path = f"{store.path}/../{store.path.name}"
    result = await refused(store, QUEUE_PATH=path, SHARDS_COUNT=1)
    output = result.stdout + result.stderr
    assert_explained(result, store.path.name if spelling == "with dots" else str(path))
    assert re.search(r"(another|other) \w*\s*(process|gateway)", output) and "use" in output, output
    (second,) = (await queue_up(gateway, [user], 1))[user]
    gateway = await store.restart("killed")
    assert ids_of(await receive_waiting(gateway, user)) == [first, second]


async def test_too_small_a_bound_for_so_many_shards_is_refused(new_store):
    result = await refused(new_store(QUEUE_MAX_DISK_BYTES=4 * MIB), SHARDS_COUNT=8)
    output = result.stdout + result.stderr
    assert result.returncode in (1, 2), output
    assert "max_disk_bytes" in output.lower() and "shards" in output.lower() and "panicked" not in output, output


# --- damaged files

def warnings(gateway: Gateway) -> list[str]:
    """What the log says at WARN or ERROR, without its time and level."""
    return [line.split(" WARN ")[-1].split("ERROR ")[-1] for line in gateway.log().splitlines()
            if " WARN " in line or "ERROR " in line]


def assert_warned_with_a_count(gateway: Gateway):
    assert any(re.search(r"\d", line) for line in warnings(gateway)), gateway.log()


TORN = {
    "cut by 1": lambda data: data[:-1],
    "cut by 5": lambda data: data[:-5],
    "cut by 40": lambda data: data[:-40],
    "cut by 100": lambda data: data[:-100],
    "garbage behind": lambda data: data + b"\x13\x37garbage" * 5,
    "a length behind": lambda data: data + b"\xff\xff\xff\x7f",
    "a beginning behind": lambda data: data + data[-200:-100],
    "zeros behind": lambda data: data + bytes(4096),
}


@pytest.mark.parametrize("how", TORN)
async def test_a_torn_end_costs_no_more_than_its_last_record(new_store, user, how):
    """As after a power cut: the process is gone, and the newest file is not as it was left."""
    store = new_store(SHARDS_COUNT=1)
    ids = (await queue_up(await store.start(), [user], 50))[user]
    await store.kill()
    newest = store.journals()[-1]
    newest.write_bytes(TORN[how](newest.read_bytes()))
    gateway = await store.start()
    waiting = ids_of(entry["notification"] for entry in await gateway.queue(user))
    assert waiting == ids[:len(waiting)] and len(waiting) >= (49 if how.startswith("cut") else 50)
    if len(waiting) < 50 or how.startswith("garbage"):
        assert_warned_with_a_count(gateway)
    # What is written after the torn place is found again.
    more = (await queue_up(gateway, [user], 10))[user]
    gateway = await store.restart("killed", SHARDS_COUNT=2)
    assert ids_of(await receive_waiting(gateway, user)) == [*waiting, *more]


MARKER = re.compile(rb"<(\d{5})>")


def marked(n: int) -> str:
    return f"<{n:05}>" + f"{n * 7919:x}" * 800


def markers(data: bytes) -> list[tuple[int, int]]:
    """Where the payloads begin, and their numbers."""
    return [(found.start(), int(found[1])) for found in MARKER.finditer(bytes(data))]


def damage_payload(data: bytearray) -> set[int]:
    """Changes one byte in the middle of one payload."""
    at, number = markers(data)[len(markers(data)) // 2]
    data[at + 100] ^= 0x55
    return {number}


def damage_page(data: bytearray) -> set[int]:
    """Writes 4 KiB of zeros: only the records that they overwrite are lost."""
    found = markers(data)
    start = found[len(found) // 2][0] // 4096 * 4096
    met = {number for at, number in found if at - 512 < start + 4096 and at + len(marked(number)) + 64 > start}
    data[start:start + 4096] = bytes(4096)
    return met


def damage_head(data: bytearray) -> set[int]:
    """Damages the header of the file, after which everything in it may be lost."""
    met = {number for _, number in markers(data)}
    for n in range(16):
        data[n] ^= 0x55
    return met


def damage_half(data: bytearray) -> set[int]:
    """Removes the second half of the file."""
    met = {number for at, number in markers(data) if at + len(marked(number)) + 64 > len(data) // 2}
    del data[len(data) // 2:]
    return met


@pytest.mark.parametrize("end", ["killed", "stopped"])
@pytest.mark.parametrize("damage", [damage_payload, damage_page, damage_head, damage_half])
async def test_a_damaged_file_costs_what_was_damaged_and_no_more(new_store, user, damage, end):
    store = new_store(SHARDS_COUNT=1, QUEUE_MAX_DISK_BYTES=4 * MIB)
    gateway = await store.start()
    users = [f"{user}-{n}" for n in range(4)]
    ids = [(await gateway.send(users[n % 4], payload=marked(n)))["notification_id"] for n in range(300)]
    await store.end(end)
    with_markers = [path for path in store.journals() if MARKER.search(path.read_bytes())]
    assert len(with_markers) >= 3, "a payload's bytes are in the files as they are, and the files are small"
    data = bytearray(with_markers[len(with_markers) // 2].read_bytes())
    may_miss = damage(data)
    assert may_miss
    with_markers[len(with_markers) // 2].write_bytes(data)

    gateway = await store.start()
    assert_warned_with_a_count(gateway)
    for k, name in enumerate(users):
        received = {message["id"]: message["payload"] for message in await receive_waiting(gateway, name)}
        assert [i for i in ids if i in received] == list(received), "in order"
        for n in range(k, 300, 4):
            if ids[n] in received:
                assert received[ids[n]] == marked(n), "delivered with damage"
            else:
                assert n in may_miss, f"{n} is lost, but {sorted(may_miss)} were damaged"
    assert (await gateway.send(user))["queued"] is True


# --- a full disk

async def fill(gateway: Gateway, users: list[str], bytes_each: int = 8000, **fields) -> dict[str, list[str]]:
    """Sends to each in turn until a whole round is refused. Returns the ids of what was queued."""
    queued = {name: [] for name in users}
    for _ in range(5000):
        all_refused = True
        for name in users:
            body = {"target_user_id": name, "event_type": "e", "payload": "x" * bytes_each} | fields
            response = await gateway.post(SEND, body)
            if response.status_code == 200:
                answer = response.json()
                assert answer["queued"] is True, answer
                queued[name].append(answer["notification_id"])
                all_refused = False
            else:
                error = assert_error(response, 503, UNAVAILABLE)
                assert re.search(r"disk is full|max_disk_bytes|disk is behind", error["message"]), error
        if all_refused:
            return queued
    raise AssertionError("it is never full")


async def take(gateway: Gateway, user: str, ids: list[str], acknowledge: bool = False):
    """Receives what waits: these ids must be there, in this order."""
    async with WebSocket(gateway, user) as client:
        taken = []
        while ids and (not taken or taken[-1] != ids[-1]):
            taken.append((await client.notification())["id"])
        assert [i for i in taken if i in set(ids)] == ids
        for i in taken if acknowledge else ():
            await client.send({"type": "Ack", "payload": {"notification_id": i}})
        await client.send({"type": "Ping"})
        while (await client.next())["type"] != "pong":
            pass


async def disk_status(gateway: Gateway) -> str:
    return (await gateway.get_ok("/stats"))["queue"]["disk"]["status"]


async def wait_until_queueing_works(gateway: Gateway, user: str, bytes_each: int = 8000) -> list[str]:
    async def works():
        response = await gateway.post(SEND, {"target_user_id": user, "event_type": "e", "payload": "y" * bytes_each})
        if response.status_code == 200:
            assert response.json()["queued"] is True
            return [response.json()["notification_id"]]
        assert_error(response, 503, UNAVAILABLE)

    ids = await wait_until(works, 10, "queueing works again")

    async def healthy():
        return (await gateway.health())["status"] == "healthy" and await disk_status(gateway) == "ok"

    await wait_until(healthy, 10, "healthy")
    return ids


FULL = ["file-system", "bound"]
USERS = [f"away-{n}" for n in range(20)]


@pytest.fixture(params=FULL)
def small_store(request, new_store, new_folder):
    """A store that is soon full, by a small file system below a larger bound, or by the bound."""
    with contextlib.ExitStack() as stack:
        if request.param == "file-system":
            disk = stack.enter_context(mounted(new_folder("disk"), 6 * MIB))
            store = new_store(path=disk / "queue", QUEUE_MAX_DISK_BYTES=64 * MIB)
        else:
            store = new_store(QUEUE_MAX_DISK_BYTES=4 * MIB)
        yield store
        if store.gateway is not None:
            store.gateway.kill()
            store.gateway = None
        for log in store.logs:
            assert "panicked" not in log.read_text(errors="replace"), log


@pytest.mark.parametrize("acks", [False, True], ids=["ack-off", "ack-on"])
async def test_a_full_disk_refuses_what_would_wait_and_serves_who_is_here(small_store, acks):
    gateway = await small_store.start(ACK_ENABLED=str(acks).lower())
    async with WebSocket(gateway, "here") as here, EventStream(gateway, "stream") as stream:
        before = await gateway.get_ok("/stats")
        assert (before["queue"]["refused"], before["queue"]["disk"]["status"]) == (0, "ok")
        assert (await gateway.health())["status"] == "healthy"
        queued = await fill(gateway, USERS)
        for _ in range(3):
            answer = await gateway.send("here", payload="x" * 8000)
            assert (answer["delivered_to"], answer["queued"]) == (1, False)
            assert (await here.notification())["id"] == answer["notification_id"]
            if acks:
                await here.ack(answer["notification_id"])

        answer = await gateway.trigger("send-to-users", target_user_ids=["here", "stream", *USERS], payload="x" * 8000)
        assert (answer["delivered_to"], answer["failed"], answer["queued"], answer["not_queued"]) == (2, 0, False, 20)
        assert answer["results"] == {
            name: {"delivered": 1, "connections": 1, "queued": False} for name in ("here", "stream")
        } | {name: {"delivered": 0, "connections": 0, "queued": False} for name in USERS}
        for client in (here, stream):
            assert (await client.notification())["id"] == answer["notification_id"]
        if acks:
            await here.ack(answer["notification_id"])
        broadcast = await gateway.trigger("broadcast")
        assert broadcast["delivered_to"] == 2
        for client in (here, stream):
            assert (await client.notification())["id"] == broadcast["notification_id"]

        stats = (await gateway.get_ok("/stats"))["queue"]
        expected = "limit" if small_store.settings["QUEUE_MAX_DISK_BYTES"] == 4 * MIB else "full"
        assert stats["refused"] > 0 and stats["disk"]["status"] == expected
        health = await gateway.health()
        assert (health["status"], health["queue"]["status"]) == ("degraded", f"disk_{expected}")
        assert (await gateway.client.get("/health/ready")).status_code == 200
    for name in USERS:
        await take(gateway, name, queued[name], acks)
    await wait_until_queueing_works(gateway, "later")


@pytest.mark.parametrize("takers", [20, 10])
async def test_space_is_reclaimed_when_users_have_received_their_messages(small_store, takers):
    """Their messages lie on the disk between those of other users, who come after a restart."""
    gateway = await small_store.start()
    queued = await fill(gateway, USERS)
    for name in USERS[:takers]:
        await take(gateway, name, queued.pop(name))
    later = await wait_until_queueing_works(gateway, "later", 500)
    gateway = await small_store.restart("killed")
    for name, ids in {**queued, "later": later}.items():
        await take(gateway, name, ids)


@pytest.mark.parametrize("acks", [False, True], ids=["ack-off", "ack-on"])
async def test_space_is_reclaimed_when_a_queue_is_cleared(small_store, acks):
    gateway = await small_store.start(ACK_ENABLED=str(acks).lower())
    (small,) = (await queue_up(gateway, ["small"], 1))["small"]
    queued = await fill(gateway, ["hog-1", "hog-2"])
    for name, ids in queued.items():
        assert (await gateway.delete_ok(f"/api/v1/users/{name}/queue"))["cleared"] >= len(ids)
    later = await wait_until_queueing_works(gateway, "later")
    await take(gateway, "small", [small], acks)
    await take(gateway, "later", later, acks)


async def test_space_is_reclaimed_when_messages_expire(small_store):
    gateway = await small_store.start()
    await fill(gateway, USERS, 30_000, ttl=4)
    await wait_until_queueing_works(gateway, "later", 30_000)


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_a_gateway_stops_and_starts_on_a_full_disk_and_delivers_everything(small_store, end):
    gateway = await small_store.start()
    queued = await fill(gateway, USERS)
    gateway = await small_store.restart(end)
    for name in USERS:
        await take(gateway, name, queued[name])
    await wait_until_queueing_works(gateway, "later")


async def test_another_number_of_shards_on_a_full_disk_works_or_is_refused_with_the_way_out(small_store):
    """Moving messages between shards needs room."""
    gateway = await small_store.start(SHARDS_COUNT=2)
    queued = await fill(gateway, USERS)
    await small_store.kill()
    try:
        gateway = await small_store.start(SHARDS_COUNT=3)
    except AssertionError:
        log = small_store.logs[-1].read_text()
        assert str(small_store.path) in log and re.search("shards.count = 2|SHARDS_COUNT=2", log), log
        gateway = await small_store.start(SHARDS_COUNT=2)
    for name in USERS:
        await take(gateway, name, queued[name])
    await wait_until_queueing_works(gateway, "later")


async def test_what_a_full_disk_refused_is_not_delivered(small_store):
    gateway = await small_store.start()
    queued = await fill(gateway, USERS)
    for n in range(2):
        for name in USERS:
            waiting = ids_of(entry["notification"] for entry in await gateway.queue(name))
            assert set(waiting) <= set(queued[name]), "it was answered that nobody got it"
        gateway = await small_store.restart("killed")


async def test_full_again_and_again_loses_nothing(small_store):
    gateway = await small_store.start()
    for n in range(4):
        queued = await fill(gateway, USERS, 3000)
        if n % 2:
            gateway = await small_store.restart("killed")
        for name in USERS:
            await take(gateway, name, queued[name])
        (later,) = await wait_until_queueing_works(gateway, "later")
        await take(gateway, "later", [later])


async def test_many_times_the_bound_pass_through_while_a_few_messages_stay(new_store):
    """A message that stays among many must not keep the disk space of those that were received."""
    store = new_store(QUEUE_MAX_DISK_BYTES=4 * MIB)
    gateway = await store.start()
    stays, written = [], 0
    while written < 20 * MIB:
        stays += (await queue_up(gateway, ["stays"], 1))["stays"]
        passing = await queue_up(gateway, USERS[:8], 8, payload="x" * 8000)
        for name, ids in passing.items():
            await take(gateway, name, ids)
        written += 64 * 8000
    assert await disk_status(gateway) == "ok"
    assert store.bytes_used() <= 4 * MIB
    gateway = await store.restart("killed")
    await take(gateway, "stays", stays)


# --- a failing disk

@pytest.fixture(scope="session")
def faulty_library(new_folder):
    return FaultyDisk.compile(new_folder("faulty"))


FAULTS = [("write", errno.EIO), ("write", errno.ENOSPC), ("sync", errno.EIO)]


with_faults = pytest.mark.parametrize(
    "what, error", FAULTS, ids=[f"{what}-{errno.errorcode[error]}" for what, error in FAULTS])


@with_faults
async def test_a_failing_disk_refuses_forgets_nothing_and_works_again(new_store, faulty_library, user, what, error):
    store = new_store()
    disk = FaultyDisk(store, faulty_library)
    gateway = await store.start()
    ids = (await queue_up(gateway, [user], 5))[user]
    async with WebSocket(gateway, "here") as here:
        with disk.does(what, error):
            for _ in range(3):
                message = assert_error(await gateway.post(SEND, send_body(user)), 503, UNAVAILABLE)["message"]
                assert "disk" in message, message
            answer = await gateway.trigger("send-to-users", target_user_ids=["here", user])
            assert (answer["delivered_to"], answer["queued"], answer["not_queued"]) == (1, False, 1)
            assert (await here.notification())["id"] == answer["notification_id"]
            answer = await gateway.send("here")
            assert (await here.notification())["id"] == answer["notification_id"]
            assert await disk_status(gateway) == ("full" if error == errno.ENOSPC else "failing")
            health = await gateway.health()
            assert (health["status"], health["queue"]["status"]) == \
                ("degraded", "disk_full" if error == errno.ENOSPC else "disk_failing")
        await here.assert_nothing_waits()
    ids += await wait_until_queueing_works(gateway, user)
    await wait_until(lambda: any("queue.path" in line for line in warnings(gateway)), what="a warning")
    gateway = await store.restart("killed")
    await take(gateway, user, ids)
    assert "panicked" not in store.logs[0].read_text()


@with_faults
async def test_what_a_failing_disk_refused_is_counted_and_not_delivered(new_store, faulty_library, user, what, error):
    """Eight at once, at the moment of the fault, and more after it."""
    store = new_store()
    disk = FaultyDisk(store, faulty_library)
    gateway = await store.start()
    ids = (await queue_up(gateway, [user], 5))[user]
    with disk.does(what, error):
        for _ in range(3):
            for response in await asyncio.gather(*(gateway.post(SEND, send_body(user)) for _ in range(8))):
                assert_error(response, 503, UNAVAILABLE)
        stats = (await gateway.get_ok("/stats"))["queue"]
    ids += await wait_until_queueing_works(gateway, user)
    assert ids_of(entry["notification"] for entry in await gateway.queue(user)) == ids, "nobody got it, it was answered"
    gateway = await store.restart("killed")
    assert ids_of(await receive_waiting(gateway, user)) == ids
    assert (stats["enqueued"], stats["refused"], stats["size"]) == (5, 24, 5)


async def test_with_fsync_always_queued_is_answered_after_the_sync(new_store, faulty_library, user):
    store = new_store(QUEUE_FSYNC="always")
    disk = FaultyDisk(store, faulty_library)
    gateway = await store.start()
    with disk.does("sync", "hold"):
        sending = asyncio.create_task(gateway.send(user))
        await wait_until(disk.held.exists, what="a sync under way")
        # An answer that did not wait would be here before this one.
        assert (await gateway.client.get("/health/live")).status_code == 200
        assert not sending.done()
    assert (await sending)["queued"] is True
    await store.kill()


async def test_a_disk_that_hangs_shows_in_health(new_store, faulty_library, user):
    """It returns no error, and yet nothing that is queued becomes durable."""
    store = new_store(QUEUE_FSYNC="always")
    disk = FaultyDisk(store, faulty_library)
    gateway = await store.start()

    async def is_said(status: str, queue: str) -> bool:
        health = await gateway.health()
        return (health["status"], health["queue"]["status"]) == (status, queue)

    with disk.does("sync", "hold"):
        sending = asyncio.create_task(gateway.send(user))
        await wait_until(lambda: is_said("degraded", "disk_behind"), 10, "a degraded health")
        assert await disk_status(gateway) == "behind"
    assert (await sending)["queued"] is True
    await wait_until(lambda: is_said("healthy", "healthy"), what="a healthy one again")


async def test_with_fsync_never_queued_does_not_wait_for_the_disk(new_store, faulty_library, user):
    store = new_store(QUEUE_FSYNC="never")
    disk = FaultyDisk(store, faulty_library)
    gateway = await store.start()
    with disk.does("sync", "hold"):
        for _ in range(20):
            assert (await gateway.send(user))["queued"] is True
    assert len(await gateway.queue(user)) == 20


async def test_the_disk_fills_while_messages_are_unacknowledged_and_they_come_again(new_store):
    """What was sent and not acknowledged is kept on the disk too, and leaves it when it is acknowledged."""
    store = new_store(QUEUE_MAX_DISK_BYTES=4 * MIB, ACK_ENABLED="true", ACK_TIMEOUT_SECONDS=60)
    gateway = await store.start()
    queued = await fill(gateway, USERS)
    async with contextlib.AsyncExitStack() as stack:
        for name in USERS:
            client = await stack.enter_async_context(WebSocket(gateway, name))
            for expected in queued[name]:
                assert (await client.notification())["id"] == expected
    for name in USERS:
        await gateway.wait_until_away(name)
    gateway = await store.restart("killed")
    for name in USERS:
        await take(gateway, name, queued[name], acknowledge=True)
    await wait_until_queueing_works(gateway, "later")
    await everything_before_is_on_disk(gateway)
