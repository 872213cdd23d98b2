"""A queue directory written by an earlier version, and everything that can be told from outside about what is in it.

`furnish` fills the directory of a running gateway, `witness` says what a gateway makes of such a directory. Run as a
program, with the earlier version's binary, this makes a fixture: the directory after a stop and after a kill, and what
the earlier version itself says about each an hour later. See `tests/fixtures/README.md`.
"""

import asyncio
import contextlib
import io
import itertools
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from clients import EventStream, WebSocket
from durable import Store
from gateway import HERE, REPOSITORY, Gateway, gateway_binary, make_token

FIXTURES = REPOSITORY / "tests" / "fixtures"
ENDS = ("stopped", "killed")
# When it is read again: nothing has been forgotten by then but what was to live half an hour.
HOUR_S = 3600

SETTINGS = {
    "TENANT_ENABLED": "true",
    "ACK_ENABLED": "true",
    "ACK_TIMEOUT_SECONDS": 600,
    "ACK_MAX_ATTEMPTS": 3,
    "QUEUE_MESSAGE_TTL_SECONDS": 30 * 24 * HOUR_S,
    "QUEUE_MAX_DISK_BYTES": 4 * 1024 * 1024,
    "SHARDS_COUNT": 2,
}

PREFIX = "/api/v1/notifications/"
SEND = f"{PREFIX}send"
PRIORITIES = ("Low", "Normal", "High", "Critical")
PAYLOAD = '{"z":1.50,\n "a": 1e400, "big":123456789012345678901234567890, "z":"\\u00e9é😀"}'

# Who is asked about, and by what kind of client each takes what waits; None: only the API is asked.
READERS = {
    ("acme", "ann"): "websocket",
    ("globex", "ann"): "websocket",
    ("acme", "carl"): "admin",
    ("acme", "cora"): None,
    ("acme", "dave"): "websocket",
    ("acme", "eve"): "sse",
    ("acme", "flo"): "websocket",
    ("acme", "gus"): "websocket",
    ("globex", "hal"): "websocket",
    ("acme", "ida"): "websocket",
    ("acme", "joe"): "websocket",
    ("globex", "kim"): "sse",
    ("globex", "lou"): "websocket",
    ("acme", "mia"): "websocket",
    ("acme", "ned"): "websocket",
}

# Triggers with a key: tenant, path, key, body.
REPEATED = [
    ("acme", SEND, "key-mia", '{"target_user_id":"mia","event_type":"order.paid","payload":' + PAYLOAD + "}"),
    ("acme", f"{PREFIX}send-to-users", "key-many",
     '{"target_user_ids":["mia","ned"],"event_type":"e","payload":[1,2],"priority":"High"}'),
    ("globex", f"{PREFIX}broadcast", "key-mia", '{"event_type":"e","payload":null}'),
]


# --- filling it

async def furnish(gateway: Gateway, stack: contextlib.AsyncExitStack):
    """Leaves a little of everything that a queue can hold. What `stack` holds is connected until the end."""
    for tenant in ("acme", "globex"):
        for n, priority in enumerate(PRIORITIES * 2):
            await gateway.send("ann", tenant, payload=n, priority=priority, correlation_id=f"c-{n}", source="shop")
    body = f'{{"target_user_id":"ann","event_type":"ü.😀","payload":{PAYLOAD}}}'
    assert (await gateway.post(SEND, body.encode(), "acme")).json()["queued"] is True

    await gateway.send("carl", "acme", audience={"type": "Roles", "value": ["admin", "owner"]})
    await gateway.send("carl", "acme", payload="for all")
    await gateway.send("cora", "acme", audience={"type": "Channels", "value": ["news", "sport"]})
    await gateway.trigger("broadcast", "acme", queue=True, audience={"type": "Users", "value": ["dave", "eve", "zoe"]})
    for n in range(3):
        await gateway.send("kim", "globex", payload=n)
    await gateway.send("joe", "acme", payload="half an hour", ttl=HOUR_S // 2)
    await gateway.send("joe", "acme", payload="two hours", ttl=2 * HOUR_S)

    await leave_attempts(gateway)
    await leave_dead_letters(gateway)
    await leave_nothing(gateway)
    for tenant, path, key, body in REPEATED:
        answer = await gateway.post(path, body.encode(), tenant, **{"Idempotency-Key": key})
        assert answer.status_code == 200, answer.text
    # In flight at the end: one that was sent before, and one that was not.
    flo = await stack.enter_async_context(reader(gateway, "acme", "flo"))
    for attempt in (2, 2):
        assert (await flo.notification())["attempt"] == attempt
    await gateway.send("flo", "acme", payload="live", priority="High")
    await flo.notification()

    # Journals are written in order: when these wait on every shard, all that came before is on the disk.
    users = [f"barrier-{n}" for n in range(12)]
    answer = await gateway.trigger("send-to-users", "acme", target_user_ids=users)
    assert all(result["queued"] for result in answer["results"].values()), answer


async def leave_attempts(gateway: Gateway):
    """Messages that were sent, not acknowledged, and wait again."""
    for tenant, user, count in (("acme", "flo", 3), ("globex", "hal", 2)):
        async with reader(gateway, tenant, user) as client:
            for n in range(count):
                await gateway.send(user, tenant, payload=n)
            received = [await client.notification() for _ in range(count)]
            await client.ack(received[1]["id"])
        await gateway.wait_until_away(user, tenant)
    async with reader(gateway, "globex", "hal") as client:
        await client.notification()
    await gateway.wait_until_away("hal", "globex")
    await gateway.send("hal", "globex", payload="not sent yet")


async def leave_dead_letters(gateway: Gateway):
    """What was sent as often as it may be."""
    for tenant, user in (("acme", "gus"), ("globex", "lou")):
        await gateway.send(user, tenant, payload=PAYLOAD, correlation_id="dead")
        for _ in range(SETTINGS["ACK_MAX_ATTEMPTS"]):
            async with reader(gateway, tenant, user) as client:
                await client.notification()
            await gateway.wait_until_away(user, tenant)
        (dead,) = await gateway.dead_letters(user, tenant)
        assert dead["attempts"] == SETTINGS["ACK_MAX_ATTEMPTS"]
    await gateway.send("gus", "acme", payload="alive")
    await gateway.delete_ok("/api/v1/users/lou/dead-letters", "globex")


async def leave_nothing(gateway: Gateway):
    """What was acknowledged, and what was thrown away."""
    async with reader(gateway, "acme", "ida") as client:
        for _ in range(3):
            await gateway.send("ida", "acme")
            await client.ack((await client.notification())["id"])
    await gateway.wait_until_away("ida", "acme")
    await gateway.send("ida", "acme")
    assert (await gateway.delete_ok("/api/v1/users/ida/queue", "acme"))["cleared"] == 1


def reader(gateway: Gateway, tenant: str, user: str, kind: str = "websocket"):
    # Good whatever the wall clock of the gateway says.
    claims = {"tenant_id": tenant, "iat": None, "exp": 1 << 33} | ({"roles": ["admin"]} if kind == "admin" else {})
    client = EventStream if kind == "sse" else WebSocket
    return client(gateway, token=make_token(user, **claims))


# --- reading it

async def witness(gateway: Gateway) -> dict:
    """Everything that can be told from outside about what a gateway has found. What waits is sent by this."""
    stats = await gateway.get_ok("/stats")
    found = {
        "sizes": {key: stats["queue"][key] for key in ("backend", "size", "users")},
        "waiting": {}, "dead": {}, "received": {}, "repeated": [],
    }
    for tenant, user in READERS:
        found["waiting"][f"{tenant}/{user}"] = await gateway.queue(user, tenant)
        found["dead"][f"{tenant}/{user}"] = await gateway.dead_letters(user, tenant)
    for tenant, path, key, body in REPEATED:
        answer = await gateway.post(path, body.encode(), tenant, **{"Idempotency-Key": key})
        found["repeated"].append([answer.status_code, answer.headers.get("idempotent-replayed"), answer.text])
        other = await gateway.post(path, body.encode() + b" ", tenant, **{"Idempotency-Key": key})
        assert other.status_code == 409, other.text
    for (tenant, user), kind in READERS.items():
        if kind is not None:
            found["received"][f"{tenant}/{user}"] = await take_all(gateway, tenant, user, kind)
    return found


async def take_all(gateway: Gateway, tenant: str, user: str, kind: str) -> list:
    """What a client gets that connects, as it is sent: the WebSocket's text, or the event's fields."""
    async with reader(gateway, tenant, user, kind) as client:
        marker = (await gateway.send(user, tenant))["notification_id"]
        received = []
        while True:
            if kind == "sse":
                event = await client.event()
                sent = [event.event, event.id, event.data]
                text = event.data
            else:
                sent = text = await client.text()
            if json.loads(text)["id"] == marker:
                return received
            received.append(sent)


def compile_wall_clock(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "wall_clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "wall_clock.c", "-ldl"], check=True)
    return library


def at(unix_s: int, library: Path) -> dict:
    """Settings of a gateway that believes it is this time."""
    return {"LD_PRELOAD": library, "WALL_CLOCK_OFFSET_S": unix_s - int(time.time())}


def unpack(archive: Path, end: str, into: Path):
    """Takes one directory out of a fixture, with the modes it had."""
    with tarfile.open(archive) as files:
        members = [member for member in files.getmembers() if member.name.split("/")[0] == end]
        for member in members:
            member.name = member.name.removeprefix(end).lstrip("/") or "."
        files.extractall(into, members, filter="data")


# --- making a fixture

async def make(name: str):
    folder = FIXTURES / f"queue-{name}"
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as root:
        def new_folder(kind: str = "gateway") -> Path:
            return Path(root) / f"{kind}-{next(numbers)}"

        library = compile_wall_clock(Path(root))
        made_at = int(time.time())
        stores = {}
        for end in ENDS:
            stores[end] = Store(new_folder, **SETTINGS)
            async with contextlib.AsyncExitStack() as stack:
                await furnish(await stores[end].start(), stack)
                await stores[end].end(end)
        folder.mkdir(parents=True, exist_ok=True)
        pack(folder / "directories.tar.gz", {end: store.path for end, store in stores.items()})
        expected = {"made_unix_s": made_at}
        for end in ENDS:
            path = new_folder("queue")
            unpack(folder / "directories.tar.gz", end, path)
            store = Store(new_folder, path, **SETTINGS)
            expected[end] = await witness(await store.start(**at(made_at + HOUR_S, library)))
            await store.stop()
    text = json.dumps(expected, ensure_ascii=False, indent=1)
    (folder / "expected.json").write_text(f"{text}\n")


def pack(archive: Path, directories: dict[str, Path]):
    """The same bytes for the same files, and nothing about who packed them."""
    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as files:
        for name, path in directories.items():
            files.add(path, name, filter=anonymous)
    compressed = subprocess.run(["gzip", "-9n"], input=plain.getvalue(), stdout=subprocess.PIPE, check=True).stdout
    archive.write_bytes(compressed)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: ARA_GATEWAY_BIN=BINARY tests/clients/.venv/bin/python tests/clients/old_queue.py NAME\n\n"
                 "Writes tests/fixtures/queue-NAME, as the version of BINARY makes it.")
    print(f"with {gateway_binary()}")
    asyncio.run(make(sys.argv[1]))
