"""Publishers and users of a gateway that is killed again and again, and a record of all that they send and receive.

A *message* is one notification to one user. The gateway's answer to the trigger gives it an outcome:

- queued: it is safe, and must be received, whatever happens to the process;
- live: a connection took it. The gateway may be killed before the bytes are written, so that it may be lost;
- unknown: the request broke. It may be received or not;
- refused: it must not be received.

Users record what they receive. At the end it is compared with the outcomes.
"""

import asyncio
import collections
import contextlib
import itertools
import json
import random
import socket
import sys
import time
from dataclasses import dataclass, field

import httpx
import websockets
from websockets.asyncio.client import connect

from clients import NO_TLS, EventStream
from durable import Store
from gateway import Gateway, make_token, wait_until
from raw import CLOSE, TEXT, RawConnection, RawWebSocket

# httpcore looks for this module, which is not installed, several times a request, all over the disk.
sys.modules.setdefault("sniffio", None)

PRIORITIES = ["Low", "Normal", "Normal", "Normal", "High", "Critical"]
SHARDS = [1, 2, 3, 4]
RUNS_S = (0.3, 2.0)  # how long one gateway runs, from readiness to SIGKILL
DRAIN_S = 60
# How long a message that was taken live has until it is on disk: far longer than it needs.
LIVE_SAFE_S = 1.5
GONE = (OSError, EOFError, httpx.HTTPError, websockets.WebSocketException)


@dataclass
class Trigger:
    publisher: int
    number: int
    priority: str
    users: list[str]
    payload: dict
    id: str | None = None
    outcomes: dict[str, str] = field(default_factory=dict)
    answered: float = 0.0

    @property
    def body(self) -> dict:
        return {"event_type": "chaos", "payload": self.payload, "priority": self.priority} | (
            {"target_user_id": self.users[0]} if len(self.users) == 1 else {"target_user_ids": self.users})

    @property
    def path(self) -> str:
        return f"/api/v1/notifications/{'send' if len(self.users) == 1 else 'send-to-users'}"


class Chaos:
    def __init__(self, store: Store, *, messages: int, seed: str, acks: bool, keys: bool, kills: int, users: int = 200,
                 publishers: int = 8):
        self.store, self.seed, self.acks, self.keys, self.kills_wanted = store, seed, acks, keys, kills
        self.random = self.random_of("chaos")
        # Never started: it only holds the address, which is the same for all gateways.
        self.address = Gateway(store.new_folder("address"), **store.settings)
        self.messages_wanted = messages
        self.users = [self._user(n) for n in range(users)]
        self.publishers = publishers
        self.triggers: dict[tuple[int, int], Trigger] = {}
        self.messages_sent = self.messages_received = self.kills = 0
        self.keys_asked_again = self.keys_tried_again = 0
        self.refusals: collections.Counter = collections.Counter()
        self.faults: list[str] = []
        self.up = asyncio.Event()
        self.over = asyncio.Event()
        self.draining = False
        self.started = self.ran_s = 0.0
        self.killed_at: list[float] = []
        self.live_disorder = 0

    def random_of(self, name: str) -> random.Random:
        return random.Random(f"{self.seed}/{name}")

    def _user(self, n: int) -> "User":
        kind = (Streamer if n % 5 == 4 else Acknowledger) if self.acks else (Follower if n % 5 == 4 else Reader)
        return kind(self, f"user-{n}", orderly=n % 2 == 0 or not self.acks)

    # --- running and killing

    async def run(self):
        await self.store.start(SHARDS_COUNT=self.random.choice(SHARDS))
        self._is_up()
        async with asyncio.TaskGroup() as using:
            for user in self.users:
                using.create_task(user.live())
            async with asyncio.TaskGroup() as work:
                publishing = [work.create_task(self._publish(n)) for n in range(self.publishers)]
                work.create_task(self._kill_until(lambda: all(task.done() for task in publishing)))
            await self._kill_and_start()
            self.draining = True
            await self._drained()
            self.over.set()

    def _is_up(self):
        self.started = time.monotonic()
        self.up.set()

    def _ran_s(self) -> float:
        return self.ran_s + (time.monotonic() - self.started if self.up.is_set() else 0)

    async def _kill_until(self, done):
        while not done() or self.kills < self.kills_wanted:
            await self._kill_and_start(self.random.uniform(*RUNS_S))

    async def _kill_and_start(self, run_s: float = 0):
        # Another process kills it, so that the moment does not depend on what this one is doing.
        killer = await asyncio.create_subprocess_exec(
            "sh", "-c", f"sleep {run_s:.3f}; exec kill -9 {self.store.gateway.process.pid}")
        try:
            await killer.wait()
        finally:
            if killer.returncode is None:
                killer.kill()
        await self.store.kill()
        self.ran_s = self._ran_s()
        self.up.clear()
        self.killed_at.append(time.monotonic())
        self.kills += 1
        await self.store.start(SHARDS_COUNT=self.random.choice(SHARDS))
        self._is_up()

    async def _drained(self):
        async def nothing_left():
            stats = await self.store.gateway.get_ok("/stats")
            return stats["queue"]["size"] == 0 and stats["ack"]["pending_count"] == 0

        await wait_until(nothing_left, DRAIN_S + self.messages_sent / 500, "nothing waits in any queue", every_s=0.2)

    # --- publishing

    async def _publish(self, publisher: int):
        """Sends one request after the other, or bursts of them on one connection, over all the gateway's runs."""
        rng = self.random_of(f"publisher-{publisher}")
        share = self.messages_wanted / self.publishers
        pipelines = publisher % 2 == 1 and not self.keys
        numbers, sent, answered = itertools.count(), 0, []
        async with httpx.AsyncClient(base_url=self.address.url, timeout=30, trust_env=False, verify=NO_TLS) as client:
            while sent < share:
                await wait_until(lambda: sent <= share * self._ran_s() / (self.kills_wanted * sum(RUNS_S) / 2), 60)
                triggers = [self._trigger(rng, publisher, next(numbers))
                            for _ in range(rng.choice([2, 10, 30]) if pipelines else 1)]
                sent += sum(len(trigger.users) for trigger in triggers)
                if pipelines:
                    answers = await self._burst(triggers)
                else:
                    answers = [await self._request(client, triggers[0])]
                    if self.keys and answers[0] is not None:
                        answered.append((triggers[0], answers[0]))
                for trigger, answer in itertools.zip_longest(triggers, answers):
                    self._note(trigger, answer)
                if answered and rng.random() < 0.2:
                    await self._ask_again(client, *rng.choice(answered))

    def _trigger(self, rng: random.Random, publisher: int, number: int) -> Trigger:
        count = 1 if rng.random() < 0.6 else rng.randint(20, 50)
        fill = rng.choice([0, 20, 100, 100, 400, 4000])
        trigger = Trigger(publisher, number, rng.choice(PRIORITIES), rng.sample([p.name for p in self.users], count),
                          {"p": publisher, "n": number, "fill": f"{publisher}.{number}." * (fill // 4)})
        self.triggers[publisher, number] = trigger
        self.messages_sent += count
        return trigger

    async def _request(self, client: httpx.AsyncClient, trigger: Trigger) -> httpx.Response | None:
        """The answer; None where it is not known whether the gateway took the request.

        With a key it is asked until it answers: what was taken before has the same id.
        """
        key = {"Idempotency-Key": f"key-{trigger.publisher}-{trigger.number}"} if self.keys else {}
        while True:
            await self.up.wait()
            try:
                response = await client.post(trigger.path, json=trigger.body, headers=self.address.headers() | key)
                if response.status_code != 409 or "retry-after" not in response.headers:
                    return response
            except httpx.ConnectError:  # nothing was sent
                pass
            except httpx.TransportError:
                if not key:
                    return None
                self.keys_tried_again += 1
            await asyncio.sleep(0.01)

    async def _burst(self, triggers: list[Trigger]) -> list[httpx.Response]:
        """All requests in one write; as many answers as there were before the connection ended."""
        answers = []
        while True:
            await self.up.wait()
            with contextlib.suppress(OSError, EOFError):
                async with RawConnection(self.address) as connection:
                    with contextlib.suppress(OSError, EOFError):
                        await connection.send(b"".join(
                            connection.request("POST", trigger.path, json.dumps(trigger.body).encode(),
                                               **self.address.headers()) for trigger in triggers))
                        for _ in triggers:
                            status, headers, body = await connection.response(patience_s=30)
                            answers.append(httpx.Response(status, headers=headers, content=body))
                    return answers
            await asyncio.sleep(0.01)  # not connected: nothing was sent

    def _note(self, trigger: Trigger, response: httpx.Response | None):
        """Records the outcome of this answer for each user."""
        trigger.answered = time.monotonic()
        if response is None or response.status_code == 500:
            trigger.outcomes = dict.fromkeys(trigger.users, "unknown")
            return
        answer = response.json()
        if response.status_code != 200:
            self.refusals[answer["error"]["code"]] += 1
            trigger.outcomes = dict.fromkeys(trigger.users, "refused")
            return
        trigger.id = answer["notification_id"]
        results = answer.get("results") or {trigger.users[0]: {"delivered": answer["delivered_to"],
                                                               "queued": answer["queued"]}}
        for user in trigger.users:
            result = results[user]
            trigger.outcomes[user] = "queued" if result["queued"] else "live"
            if not result["queued"] and not result["delivered"]:
                self.fault(f"{user}: neither delivered nor queued: {answer}")

    async def _ask_again(self, client: httpx.AsyncClient, trigger: Trigger, first: httpx.Response):
        again = await self._request(client, trigger)
        if again is not None:
            self.keys_asked_again += 1
            if again.headers.get("idempotent-replayed") != "true" or again.content != first.content:
                self.fault(f"the key of {trigger.publisher, trigger.number} was answered {first.text}, "
                           f"and now {again.status_code} {again.text}")

    # --- comparing

    def fault(self, text: str):
        self.faults.append(text)

    def compare(self) -> str:
        """Compares what was promised with what was received; returns the figures."""
        outcomes: collections.Counter = collections.Counter()
        received = {user.name: user for user in self.users}
        lost, lost_live = [], collections.Counter()
        for key, trigger in self.triggers.items():
            for user, outcome in trigger.outcomes.items():
                outcomes[outcome] += 1
                seen = key in received[user].ids
                if seen and trigger.id not in (None, received[user].ids[key]):
                    self.fault(f"{user} received {key} as {received[user].ids[key]}, but it is {trigger.id}")
                if outcome == "queued" and not seen:
                    lost.append((user, key, trigger.id))
                elif outcome == "refused" and seen:
                    self.fault(f"{user} received {key}, which was refused")
                elif outcome == "unknown":
                    outcomes["unknown, received"] += seen
                elif outcome == "live" and not seen:
                    lost_live["soon" if self._was_killed_soon_after(trigger.answered) else "late"] += 1
        if lost:
            self.fault(f"{len(lost)} messages were answered queued and are lost, such as {lost[:5]}")
        if self.acks and lost_live["late"]:
            self.fault(f"{lost_live['late']} messages were taken live, long before a kill, and are lost")
        for user in self.users:
            user.check_order()
        distinct = sum(len(user.ids) for user in self.users)
        return (f"seed {self.seed}: {self.messages_sent} messages in {len(self.triggers)} triggers: {dict(outcomes)}, "
                f"refused triggers {dict(self.refusals)}; {self.kills} kills; {distinct} messages received, "
                f"{self.messages_received - distinct} receipts more; live ones lost {dict(lost_live)}; "
                f"keys {self.keys_tried_again} tried again, {self.keys_asked_again} asked again; "
                f"out of order with live ones {self.live_disorder}; faults {len(self.faults)}")

    def _was_killed_soon_after(self, moment: float) -> bool:
        return any(-1 < killed_at - moment < LIVE_SAFE_S for killed_at in self.killed_at)


class User:
    """A user with one connection at a time, who comes and goes.

    An orderly one comes back only when the gateway has seen it leave. Then a connection's replay begins with all
    that waits, and the order of first receipts is the order of acceptance. A hasty one may be back while its old
    connection still holds messages, which come after others when they come again.
    """

    def __init__(self, chaos: Chaos, name: str, orderly: bool):
        self.chaos, self.name, self.orderly = chaos, name, orderly
        self.random = chaos.random_of(name)
        self.ids: dict[tuple[int, int], str] = {}  # in the order of first receipt
        self.firsts: list[tuple[int, int, bool]] = []  # publisher, number, replayed
        self.token = make_token(name)

    async def live(self):
        await asyncio.sleep(self.random.uniform(0, 1))
        while not self.chaos.over.is_set():
            await self.chaos.up.wait()
            started = self.chaos.started
            try:
                await self.visit()
            except TimeoutError:
                if not self.chaos.acks:  # what was written to an abandoned connection counts as taken
                    self.chaos.fault(f"{self.name} waited too long to be connected")
            except GONE:
                pass
            except AssertionError as error:
                if "the stream ended" not in str(error):
                    self.chaos.fault(f"{self.name}: {error}")
            if self.orderly:
                await self._away(started)
            if not self.chaos.draining:
                await asyncio.sleep(self.random.choice([0, 0.1, 1, 4]) * self.random.random())

    async def visit(self):
        raise NotImplementedError

    async def _away(self, started: float):
        """Until the gateway knows that this user has left, or it is another gateway."""
        with contextlib.suppress(httpx.TransportError):
            while self.chaos.up.is_set() and self.chaos.started == started:
                if (await self.chaos.address.get(f"/api/v1/users/{self.name}/subscriptions")).status_code == 404:
                    return
                await asyncio.sleep(0.02)

    def received(self, message: dict):
        """Records a notification."""
        chaos, payload = self.chaos, message["payload"]
        key = payload["p"], payload["n"]
        trigger = chaos.triggers.get(key)
        chaos.messages_received += 1
        if trigger is None or self.name not in trigger.users:
            return chaos.fault(f"{self.name} received {key}, which was not sent to it")
        if payload != trigger.payload:
            chaos.fault(f"{self.name} received {key} with another payload: {str(payload)[:200]}")
        replayed = message.get("replayed") is True
        if key not in self.ids:
            self.ids[key] = message["id"]
            self.firsts.append((*key, replayed))
        elif self.ids[key] != message["id"]:
            chaos.fault(f"{self.name} received {key} as {message['id']}, and before as {self.ids[key]}")
        # A second sending at the timeout is no replay; nor is what a trigger that is tried again may have sent before.
        once = message.get("attempt", 1) == 1 and not chaos.keys
        if trigger.outcomes.get(self.name) == "queued" and not replayed and once:
            chaos.fault(f"{self.name} received {key}, which was queued, as if it were live")

    def check_order(self):
        """Messages of one publisher and one priority were first received in the order of their acceptance."""
        if not self.orderly:
            return
        for only_replayed in (True, False):
            last: dict[tuple[int, str], int] = {}
            for publisher, number, replayed in self.firsts:
                if only_replayed and not replayed:
                    continue
                lane = publisher, self.chaos.triggers[publisher, number].priority
                if number < last.get(lane, -1):
                    if only_replayed:
                        self.chaos.fault(f"{self.name} received {(publisher, number)} after {(publisher, last[lane])}")
                    else:
                        self.chaos.live_disorder += 1
                last[lane] = number


class Acknowledger(User):
    """PyPI websockets. Acknowledges what it reads, or cuts the connection while reading, or stops reading."""

    async def visit(self):
        rng, draining = self.random, self.chaos.draining
        behaviour = "reads" if draining else rng.choices(["reads", "aborts", "stalls"], [6, 3, 1])[0]
        socket = await connect(self.chaos.address.ws_url(self.token), compression=None, ping_interval=None,
                               proxy=None, open_timeout=30, close_timeout=2,
                               max_queue=4 if behaviour == "stalls" else 16)
        try:
            if behaviour == "stalls":
                await asyncio.sleep(rng.uniform(0.1, 2.5))
                behaviour = rng.choice(["reads", "aborts"])
            if behaviour == "reads":
                await self._read(socket, None if draining else rng.uniform(0.2, 3))
                await socket.close()
            else:
                for _ in range(rng.randint(1, 40)):
                    async with asyncio.timeout(rng.uniform(0.1, 1)):
                        self._take(json.loads(await socket.recv()))
        finally:
            socket.transport.abort()

    async def _read(self, socket, duration_s: float | None):
        leaving = asyncio.create_task(self.chaos.over.wait())
        reading = asyncio.create_task(self._read_on(socket))
        try:
            await asyncio.wait([leaving, reading], timeout=duration_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, *GONE):
                await reading

    async def _read_on(self, socket):
        async for text in socket:
            message = json.loads(text)
            self._take(message)
            if message["type"] == "notification":
                await socket.send(json.dumps({"type": "Ack", "payload": {"notification_id": message["id"]}}))

    def _take(self, message: dict):
        if message["type"] == "notification":
            self.received(message)
        elif message["type"] == "error" and message["code"] != "ACK_UNKNOWN":
            self.chaos.fault(f"{self.name} received {message}")


class Streamer(User):
    """PyPI httpx-sse. Acknowledges by POST, several at once."""

    async def visit(self):
        duration_s = None if self.chaos.draining else self.random.uniform(0.2, 3)
        acknowledges = self.chaos.draining or self.random.random() < 0.7
        async with EventStream(self.chaos.address, self.name, token=self.token) as stream:
            work = [asyncio.create_task(self.chaos.over.wait()), asyncio.create_task(self._read(stream, acknowledges))]
            try:
                await asyncio.wait(work, timeout=duration_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)

    async def _read(self, stream: EventStream, acknowledges: bool):
        unread: asyncio.Queue = asyncio.Queue()

        async def acknowledge():
            while True:
                ids = {await unread.get()}
                while not unread.empty() and len(ids) < 1000:
                    ids.add(unread.get_nowait())
                await self.chaos.address.client.post("/api/v1/acks", json={"notification_ids": list(ids)},
                                                     headers={"Authorization": f"Bearer {self.token}"})

        acknowledging = asyncio.create_task(acknowledge())
        try:
            while True:
                event = await stream.event(patience_s=3600)
                if event.event == "notification":
                    message = json.loads(event.data)
                    self.received(message)
                    if acknowledges:
                        unread.put_nowait(message["id"])
                await asyncio.sleep(0)
        finally:
            acknowledging.cancel()
            await asyncio.gather(acknowledging, return_exceptions=True)


class Careful(User):
    """Reads every byte that was written to it: it leaves by ending its own side, and reads on to the end.

    It sends nothing after its handshake: bytes that a killed gateway has not read would make the kernel throw away
    what was written.
    """

    @contextlib.asynccontextmanager
    async def leaving_by(self, end: socket.socket):
        async def leave():
            if self.chaos.draining:
                await self.chaos.over.wait()
            else:
                await asyncio.sleep(self.random.uniform(0.2, 3))
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_WR)

        leaving = asyncio.create_task(leave())
        try:
            yield
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)


class Reader(Careful):
    """A raw WebSocket."""

    async def visit(self):
        async with RawWebSocket(self.chaos.address, self.name) as client, self.leaving_by(client.socket):
            while True:
                opcode, data = await client.frame(patience_s=3600)
                if opcode == TEXT:
                    message = json.loads(data)
                    if message["type"] == "notification":
                        self.received(message)
                elif opcode == CLOSE:
                    return
                await asyncio.sleep(0)


class Follower(Careful):
    """PyPI httpx-sse."""

    async def visit(self):
        async with EventStream(self.chaos.address, self.name, token=self.token) as stream:
            end = stream.response.extensions["network_stream"].get_extra_info("socket")
            async with self.leaving_by(end):
                while True:
                    event = await stream.event(patience_s=3600)
                    if event.event == "notification":
                        self.received(json.loads(event.data))
                    await asyncio.sleep(0)
