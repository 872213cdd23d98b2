"""Two tenants that use the same names never see each other: in no answer, stream, log line or figure.

Property: whatever two tenants do with the same user ids, channels, templates and idempotency keys, in any order, over
every endpoint and both transports, each is answered as if it were alone: its counts are those of its own clients, and no
byte of the other's is in what it gets. Why it matters: one leak between customers is one too many.

Everything a tenant writes carries its own mark, which is looked for in all that the other gets. A failure prints the
seed: `ARA_ISOLATION_SEED=<seed>` repeats it.
"""

import json
import os
import random

import pytest

from clients import EventStream, WebSocket
from gateway import make_token, wait_until

SEED = int(os.environ.get("ARA_ISOLATION_SEED", random.randrange(2**32)))
STEPS = 150
MARKS = {"red": "mark-of-red", "blue": "mark-of-blue"}
USERS, CHANNELS, KEYS, TEMPLATES = ["ann", "bob"], ["news", "sport"], ["key-1", "key-2"], ["t1", "t2"]


class Tenant:
    """What one tenant has done and may know."""

    def __init__(self, gateway, name: str):
        self.gateway, self.name, self.mark = gateway, name, MARKS[name]
        self.foreign = next(mark for tenant, mark in MARKS.items() if tenant != name)
        self.clients: list[tuple[str, object, set[str]]] = []
        self.sent = self.delivered = self.connected = 0
        self.keys: dict[str, str] = {}
        self.templates: set[str] = set()
        self.ids: list[str] = []

    def check(self, text: str, where: str):
        assert self.foreign not in text, f"{self.name} sees the other in {where}: {text[:500]} (seed {SEED})"

    async def call(self, method: str, path: str, body=None, statuses=(200,), **headers):
        response = await self.gateway.client.request(
            method, path, json=body, headers=self.gateway.headers(self.name) | headers)
        self.check(response.text + str(response.headers), path)
        assert response.status_code in statuses, f"{method} {path}: {response.text} (seed {SEED})"
        return response

    def hearers(self, channels) -> int:
        """A stream hears every channel, a WebSocket those it has subscribed to."""
        return sum(isinstance(client, EventStream) or bool(own & set(channels)) for _, client, own in self.clients)

    def of(self, users) -> int:
        return sum(user in users for user, _, _ in self.clients)

    async def trigger(self, rng, kind: str, expected: int, **target):
        body = {"event_type": "e", "payload": {"text": f"{self.mark} {rng.random()}"}} | target
        headers = {}
        key = rng.choice([None, *KEYS])
        is_new = key is not None and key not in self.keys
        if is_new:
            headers["Idempotency-Key"] = key
        response = await self.call("POST", f"/api/v1/notifications/{kind}", body, **headers)
        assert "idempotent-replayed" not in response.headers, f"seed {SEED}"
        answer = response.json()
        assert answer["delivered_to"] == expected, f"{self.name} {kind} {target}: {answer} (seed {SEED})"
        if is_new:
            self.keys[key] = answer["notification_id"]
            again = await self.call("POST", f"/api/v1/notifications/{kind}", body, **headers)
            assert again.json() == answer and again.headers["idempotent-replayed"] == "true"
        self.ids.append(answer["notification_id"])
        self.sent, self.delivered = self.sent + 1, self.delivered + expected

    async def drain(self, rng):
        """Reads all that came, up to a notification that comes last."""
        await self.trigger(rng, "broadcast", len(self.clients))
        last = self.ids[-1]
        for _, client, _ in self.clients:
            while True:
                if isinstance(client, EventStream):
                    event = await client.event()
                    text = event.data
                else:
                    text = await client.text()
                self.check(text, "a stream")
                if json.loads(text).get("id") == last:
                    break

    async def connect(self, rng):
        user = rng.choice(USERS)
        kind = rng.choice([WebSocket, EventStream])
        if self.of([user]) < 4:
            client = await kind(self.gateway, user, claims={"tenant_id": self.name}).__aenter__()
            self.clients.append((user, client, set()))
            self.connected += 1

    async def disconnect(self, rng):
        if self.clients:
            user, client, _ = self.clients.pop(rng.randrange(len(self.clients)))
            await client.__aexit__(None, None, None)

            async def has_left():
                path = f"/api/v1/users/{user}/subscriptions"
                response = await self.call("GET", path, statuses=(200, 404))
                return (response.json().get("connection_count", 0)) == self.of([user])
            await wait_until(has_left)

    async def subscribe(self, rng):
        sockets = [(client, own) for _, client, own in self.clients if isinstance(client, WebSocket)]
        if sockets:
            (client, own), channel = rng.choice(sockets), rng.choice(CHANNELS)
            verb = rng.choice(["Subscribe", "Subscribe", "Unsubscribe"])
            await client.send({"type": verb, "payload": {"channels": [channel]}})
            while True:
                text = await client.text()
                self.check(text, "a WebSocket")
                if json.loads(text)["type"] == verb.lower() + "d":
                    break
            (own.add if verb == "Subscribe" else own.discard)(channel)

    async def send(self, rng):
        user, channel = rng.choice(USERS), rng.choice(CHANNELS)
        kind, expected, target = rng.choice([
            ("send", self.of([user]), {"target_user_id": user}),
            ("send-to-users", self.of(USERS), {"target_user_ids": USERS}),
            ("broadcast", len(self.clients), {}),
            ("channel", self.hearers([channel]), {"channel": channel}),
            ("channels", self.hearers(CHANNELS), {"channels": CHANNELS}),
        ])
        await self.trigger(rng, kind, expected, **target)

    async def batch(self, rng):
        user, channel = rng.choice(USERS), rng.choice(CHANNELS)
        text = {"event_type": "e", "payload": {"text": f"{self.mark} {rng.random()}"}}
        items = [text | {"target": {"type": "user", "value": user}},
                 text | {"target": {"type": "channel", "value": channel}},
                 text | {"target": {"type": "nobody", "value": self.mark}}]
        expected = [self.of([user]), self.hearers([channel])]
        answer = (await self.call("POST", "/api/v1/notifications/batch", {"notifications": items})).json()
        *taken, refused = answer["results"]
        assert [one["delivered_to"] for one in taken] == expected, f"{self.name} {answer} (seed {SEED})"
        assert not refused["success"], f"seed {SEED}"
        self.ids += [one["notification_id"] for one in taken]
        self.sent, self.delivered = self.sent + 2, self.delivered + sum(expected)

    async def list_connections(self, _rng):
        listed = (await self.call("GET", "/api/v1/connections")).json()["connections"]
        own = {client.connected["connection_id"] for _, client, _ in self.clients}
        assert {one["connection_id"] for one in listed} == own, f"{self.name} {listed} (seed {SEED})"
        assert all(one["tenant_id"] == self.name for one in listed), f"seed {SEED}"

    async def look(self, rng):
        counts = {channel: sum(channel in own for _, _, own in self.clients) for channel in CHANNELS}
        listed = (await self.call("GET", "/api/v1/channels")).json()["channels"]
        assert {one["name"]: one["subscriber_count"] for one in listed} == {k: v for k, v in counts.items() if v}
        channel, user = rng.choice(CHANNELS), rng.choice(USERS)
        one = await self.call("GET", f"/api/v1/channels/{channel}", statuses=(200, 404))
        assert one.json().get("subscriber_count", 0) == counts[channel], f"seed {SEED}"
        seen = await self.call("GET", f"/api/v1/users/{user}/subscriptions", statuses=(200, 404))
        assert seen.json().get("connection_count", 0) == self.of([user]), f"seed {SEED}"
        for source in ("queue", "dead-letters"):
            shown = (await self.call("GET", f"/api/v1/users/{user}/{source}")).json()
            assert {one["notification"]["id"] for one in shown["notifications"]} <= set(self.ids), f"seed {SEED}"
        if rng.random() < 0.2:
            await self.call("DELETE", f"/api/v1/users/{user}/queue")

    async def figures(self, _rng):
        shown = (await self.call("GET", f"/api/v1/tenants/{self.name}", statuses=(200, 404))).json()
        stats = shown.get("stats")
        if stats is None:
            assert self.sent == self.connected == 0
            return
        assert (stats["total_connections"], stats["messages_sent"]) == (self.connected, self.sent), f"{shown} (seed {SEED})"
        assert stats["messages_delivered"] == self.delivered, f"{self.name} {shown} (seed {SEED})"
        assert shown["connection_stats"]["total_connections"] == len(self.clients), f"seed {SEED}"

    async def use_templates(self, rng):
        name = rng.choice(TEMPLATES)
        path = f"/api/v1/templates/{name}"
        template = {"id": name, "name": self.mark, "event_type": "e", "payload_template": {"text": self.mark, "x": "{{x}}"}}
        if name not in self.templates:
            await self.call("GET", path, statuses=(404,))
            await self.call("POST", "/api/v1/templates", template, statuses=(201,))
            self.templates.add(name)
        else:
            await self.call("POST", "/api/v1/templates", template, statuses=(409,))
            assert self.mark in (await self.call("GET", path)).text
            rendered = await self.call("POST", path + "/render", {"variables": {"x": 1}})
            assert self.mark in rendered.text
            listed = (await self.call("GET", "/api/v1/templates")).json()
            assert {one["id"] for one in listed["templates"]} == self.templates, f"seed {SEED}"
            if rng.random() < 0.5:
                await self.call("DELETE", path, statuses=(204,))
                self.templates.discard(name)

    async def acknowledge_foreign(self, rng, other: "Tenant"):
        """Whoever guesses another's notification learns nothing, and takes nothing away."""
        if other.ids:
            user = rng.choice(USERS)
            token = make_token(user, tenant_id=self.name)
            response = await self.gateway.client.post(
                "/api/v1/acks", json={"notification_ids": [rng.choice(other.ids)]},
                headers={"Authorization": f"Bearer {token}"})
            self.check(response.text, "/api/v1/acks")
            if response.is_success:
                assert response.json()["acked"] == [], f"{response.text} (seed {SEED})"


@pytest.mark.parametrize("queue", [False, True], ids=["live", "queued"])
async def test_two_tenants_of_the_same_names_never_see_each_other(start_gateway, queue):
    print(f"seed {SEED}")
    rng = random.Random(f"{SEED} {queue}")
    features = {"QUEUE_ENABLED": "true", "ACK_ENABLED": "true"} if queue else {}
    gateway = await start_gateway(TENANT_ENABLED="true", SHARDS_COUNT="4", SHARDS_PIN_TO_CORES="false",
                                  RUST_LOG="debug", **features)
    tenants = [Tenant(gateway, name) for name in MARKS]
    actions = ["connect", "connect", "disconnect", "subscribe", "subscribe", "send", "send", "send", "batch", "look", "figures",
               "use_templates", "acknowledge_foreign", "list_connections"]
    for _ in range(STEPS):
        first, second = rng.sample(tenants, 2)
        action = rng.choice(actions)
        if action == "acknowledge_foreign":
            await first.acknowledge_foreign(rng, second)
        elif action == "disconnect" and queue:
            await first.drain(rng)  # so that nothing unwritten is delivered a second time
            await first.disconnect(rng)
        elif action == "connect" and queue:
            await gateway_has_nothing_for(first)
            await first.connect(rng)
        else:
            await getattr(first, action)(rng)
    for tenant in tenants:
        await tenant.drain(rng)
        await tenant.figures(rng)
        for _, client, _ in tenant.clients:
            await client.__aexit__(None, None, None)
    log = gateway.log()
    assert not any(mark in log for mark in MARKS.values()), "a payload is in the log"


async def gateway_has_nothing_for(tenant: Tenant):
    """What waits would be delivered beside the counts of triggers; that it is the tenant's own was looked at."""
    for user in USERS:
        await tenant.look(random.Random(0))
        await tenant.call("DELETE", f"/api/v1/users/{user}/queue")
