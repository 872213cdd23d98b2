"""Batches: each notification is taken or refused by itself, and reaches whom it would have reached alone.

Set-up: real clients over WebSocket and SSE, four shards, two tenants; on disk kill -9. Why it matters: a caller that sends a hundred at
once must know of each what became of it, and one that is wrong must not take the others down.
"""

import json
import uuid

from clients import EventStream, WebSocket
from conftest import gateway_module_fixture
from gateway import assert_error

BATCH = "/api/v1/notifications/batch"

gateway = gateway_module_fixture(TENANT_ENABLED="true", QUEUE_ENABLED="true", SHARDS_COUNT="4")


def item(kind: str, value=None, event_type: str = "e", **fields) -> dict:
    target = {"type": kind} | ({} if value is None else {"value": value})
    return {"target": target, "event_type": event_type, "payload": {"n": 1}} | fields


async def batch(gateway, items: list, tenant: str | None = None, **options) -> dict:
    response = await gateway.post(BATCH, {"notifications": items, "options": options}, tenant)
    assert response.status_code == 200, response.text
    return response.json()


def codes(answer: dict) -> list:
    return [result.get("error", {}).get("code") for result in answer["results"]]


async def test_every_kind_of_target_is_reached_over_both_transports(gateway, user, channel):
    async with WebSocket(gateway, user) as socket, EventStream(gateway, f"{user}-sse", channels=channel) as stream:
        await socket.subscribe(channel)
        answer = await batch(gateway, [
            item("user", user, "one"), item("users", [user, f"{user}-sse"], "two"), item("channel", channel, "three"),
            item("channels", [channel, "other"], "four"), item("broadcast", None, "five"), item("user", f"{user}-away", "six"),
        ])
        ids = [result["notification_id"] for result in answer["results"]]
        assert [result["delivered_to"] for result in answer["results"][:4]] == [1, 2, 2, 2]
        assert answer["results"][5]["queued"] and len(set(ids)) == 6
        assert answer["batch_id"].startswith("batch-") and uuid.UUID(answer["batch_id"][6:])
        assert answer["summary"]["succeeded"] == 6 and answer["summary"]["failed"] == 0
        seen = [(await socket.notification())["event_type"] for _ in range(5)]
        assert sorted(seen) == ["five", "four", "one", "three", "two"]
        seen = [(await stream.notification())["event_type"] for _ in range(4)]
        assert sorted(seen) == ["five", "four", "three", "two"]


async def test_one_user_gets_its_notifications_in_their_order(gateway, user):
    async with WebSocket(gateway, user) as socket:
        answer = await batch(gateway, [item("user", user, f"e{n}") for n in range(100)])
        assert answer["summary"]["total_delivered"] == 100
        assert [(await socket.notification())["event_type"] for _ in range(100)] == [f"e{n}" for n in range(100)]


async def test_a_refused_one_says_why_and_the_others_are_sent(gateway, user):
    wrong = [item("user", 7), item("user", user, colour=1), item("user", user, priority="Loud"), 7, item("user", user, payload="x" * 66_000),
             {"target": {"type": "user", "value": user}, "template_id": "none"}]
    answer = await batch(gateway, [item("user", user), *wrong, item("user", user)])
    assert codes(answer) == [None, *["VALIDATION_ERROR"] * 4, "PAYLOAD_TOO_LARGE", "TEMPLATE_NOT_FOUND", None]
    fields = [result.get("error", {}).get("details", {}).get("field") for result in answer["results"][1:4]]
    assert fields == ["target.value", "colour", "priority"]
    assert [result["index"] for result in answer["results"]] == list(range(8))
    assert answer["summary"] == {"total": 8, "succeeded": 2, "failed": 6, "total_delivered": 0}
    alone = await gateway.post("/api/v1/notifications/send", {"target_user_id": user, "event_type": "e", "payload": 1, "priority": "Loud"})
    error = answer["results"][3]["error"]
    assert error == alone.json()["error"]


async def test_stop_on_error_leaves_the_rest_alone_and_nobody_connected_is_no_error(gateway, user):
    async with WebSocket(gateway, user) as socket:
        items = [item("channel", "nobody"), item("user", user, "before"), item("user", 7), item("user", user, "after")]
        answer = await batch(gateway, items, stop_on_error=True)
        assert codes(answer) == [None, None, "VALIDATION_ERROR", "NOT_ATTEMPTED"]
        assert (await batch(gateway, [item("user", user, "end")]))["results"][0]["success"]
        assert [(await socket.notification())["event_type"] for _ in range(2)] == ["before", "end"]


async def test_deduplicate_skips_the_same_target_and_event_type(gateway, user):
    other = f"{user}-2"
    items = [item("users", [user, other]), item("users", [other, user]), item("users", [user, other], "else"), item("user", user),
             item("users", [user])]
    answer = await batch(gateway, items, deduplicate=True)
    assert [result.get("skipped", False) for result in answer["results"]] == [False, True, False, False, True]
    assert answer["results"][1] == {"index": 1, "success": True, "skipped": True, "delivered_to": 0}


async def test_a_batch_is_of_its_tenant(gateway, user):
    async with WebSocket(gateway, user, claims={"tenant_id": "beta"}) as socket:
        assert (await batch(gateway, [item("user", user, "alpha's"), item("broadcast")], "alpha"))["summary"]["total_delivered"] == 0
        assert (await batch(gateway, [item("user", user, "beta's")], "beta"))["summary"]["total_delivered"] == 1
        assert (await socket.notification())["event_type"] == "beta's"


async def test_what_is_no_batch_is_refused_whole(gateway, user):
    one = item("user", user)
    for body, field in [({"notifications": []}, "notifications"), ({"notifications": [one] * 101}, "notifications"),
                        ({"notifications": [one], "colour": 1}, "colour"), ({}, "notifications"),
                        ({"notifications": [one], "options": {"stop": True}}, "options.stop")]:
        response = await gateway.post(BATCH, body)
        assert assert_error(response, 400, "VALIDATION_ERROR")["details"]["field"] == field
    assert (await batch(gateway, [one] * 100))["summary"]["total"] == 100
    response = await gateway.post(BATCH, '{"notifications":[{"target":}]}')
    details = assert_error(response, 400, "VALIDATION_ERROR")["details"]
    assert details["line"] == 1 and details["column"] > 1
    fitting = json.dumps({"notifications": [one]})
    response = await gateway.post(BATCH, fitting + " " * (1024 * 1024 - len(fitting)))
    assert response.status_code == 200, response.text
    response = await gateway.post(BATCH, fitting + " " * (1024 * 1024 - len(fitting) + 1))
    assert_error(response, 413, "PAYLOAD_TOO_LARGE")


async def test_one_key_for_the_whole_sends_once(gateway, user):
    async with WebSocket(gateway, user) as socket:
        key = {"Idempotency-Key": f"key-{user}"}
        body = {"notifications": [item("user", user, "once"), item("user", 7)]}
        first = await gateway.post(BATCH, body, None, **key)
        again = await gateway.post(BATCH, body, None, **key)
        assert first.text == again.text and again.headers["idempotent-replayed"] == "true"
        assert_error(await gateway.post(BATCH, {"notifications": [item("user", user)]}, None, **key), 409, "IDEMPOTENCY_CONFLICT")
        await batch(gateway, [item("user", user, "end")])
        assert [(await socket.notification())["event_type"] for _ in range(2)] == ["once", "end"]


async def test_each_may_be_by_a_template_and_what_is_wrong_with_its_variables_is_its_own(gateway, user):
    template = {"id": f"greeting-{user}", "name": "g", "event_type": "greeting", "payload_template": {"hello": "{{name}}", "n": "{{n}}"},
                "default_priority": "High"}
    assert (await gateway.post("/api/v1/templates", template)).status_code == 201

    def by(**variables) -> dict:
        return {"target": {"type": "user", "value": user}, "template_id": template["id"], "variables": variables}

    async with WebSocket(gateway, user) as socket:
        items = [by(name="Ann", n=1), by(name="Ben"), by(name={"not": "text"}, n=[2]), item("user", user, "plain", priority="High")]
        answer = await batch(gateway, items)
        assert codes(answer) == [None, "MISSING_VARIABLE", None, None]
        assert answer["results"][1]["error"]["details"]["missing"] == ["n"]
        received = [await socket.notification() for _ in range(3)]
        assert [(message["event_type"], message["payload"]) for message in received] == [
            ("greeting", {"hello": "Ann", "n": 1}), ("greeting", {"hello": {"not": "text"}, "n": [2]}), ("plain", {"n": 1})]
        assert received[0]["metadata"]["priority"] == "High"


async def test_after_kill_9_a_batch_with_a_key_is_answered_as_before_and_sent_once(new_store, user):
    store = new_store()
    gateway = await store.start()
    key = {"Idempotency-Key": f"key-{user}"}
    body = {"notifications": [item("user", user, "one"), item("user", 7), item("user", user, "two")]}
    first = await gateway.post(BATCH, body, None, **key)
    assert codes(first.json()) == [None, "VALIDATION_ERROR", None]
    gateway = await store.restart("killed")
    again = await gateway.post(BATCH, body, None, **key)
    assert again.text == first.text and again.headers["idempotent-replayed"] == "true"
    ids = [result["notification_id"] for result in first.json()["results"] if result["success"]]
    async with WebSocket(gateway, user) as socket:
        received = [await socket.notification() for _ in ids]
        assert [message["id"] for message in received] == ids and all(message["replayed"] for message in received)
        await socket.assert_nothing_waits()
