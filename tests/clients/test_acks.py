"""With acknowledgement on, a notification to a user comes again until one of the user's connections acknowledges it.

Clients: PyPI websockets, httpx-sse, npm ws (killed) and npm eventsource (cut off), each acknowledging in its own way.
"""

import json
import uuid

import pytest

from clients import EventStream, WebSocket, node
from conftest import gateway_module_fixture, need
from gateway import Gateway, assert_error, make_token, run_cli, wait_until
from raw import RawWebSocket, Relay

# The timeout is longer than any test here; those that wait for it have gateways of their own.
gateway = gateway_module_fixture(QUEUE_ENABLED="true", ACK_ENABLED="true", ACK_TIMEOUT_SECONDS=60)

EVERYTHING_ON = {"QUEUE_ENABLED": "true", "ACK_ENABLED": "true"}


async def post_acks(gateway: Gateway, user: str, *ids: str, **claims):
    return await gateway.client.post("/api/v1/acks", json={"notification_ids": list(ids)},
                                     headers={"Authorization": f"Bearer {make_token(user, **claims)}"})


async def send_all(gateway: Gateway, user: str, count: int) -> list[str]:
    return [(await gateway.send(user, payload=n))["notification_id"] for n in range(count)]


async def in_flight(gateway: Gateway, user: str) -> list[tuple[str, int]]:
    """Ids and attempts of what was sent to the user and awaits an acknowledgement."""
    return [(entry["notification"]["id"], entry["attempts"]) for entry in await gateway.queue(user)
            if entry["in_flight"]]


async def test_what_is_acknowledged_does_not_come_again_and_the_rest_does(gateway, user):
    async with WebSocket(gateway, user) as client:
        ids = await send_all(gateway, user, 3)
        for expected in ids:
            message = await client.notification()
            assert message["id"] == expected and "attempt" not in message and "replayed" not in message
        assert await in_flight(gateway, user) == [(i, 1) for i in ids]
        await client.ack(ids[1])
        await client.send({"type": "ack", "payload": {"notification_id": ids[1]}})
        await client.error("ACK_UNKNOWN")  # it has been acknowledged already
        assert await in_flight(gateway, user) == [(ids[0], 1), (ids[2], 1)]
    await gateway.wait_until_away(user)
    waiting = await gateway.queue(user)
    assert [(e["notification"]["id"], e["attempts"], e["in_flight"]) for e in waiting] == \
        [(ids[0], 1, False), (ids[2], 1, False)]
    async with WebSocket(gateway, user) as client:
        for expected in (ids[0], ids[2]):
            message = await client.notification()
            assert (message["id"], message["replayed"], message["attempt"]) == (expected, True, 2)
        await client.ack(ids[2])
        await client.ack(ids[0])
        await client.assert_nothing_waits()
    assert await gateway.queue(user) == []


async def test_a_client_killed_in_the_middle_gets_everything_again_with_the_same_ids(gateway, user):
    need("node")
    url = gateway.ws_url(make_token(user))
    async with node("ws_client.mjs", url) as doomed:
        await doomed.until(event="message", patience_s=10)  # connected
        ids = await send_all(gateway, user, 60)
        for n in range(20):
            assert json.loads((await doomed.until(event="message"))["text"])["id"] == ids[n]
    # Leaving the block is a SIGKILL.
    await gateway.wait_until_away(user)
    async with node("ws_client.mjs", url) as back:
        messages = [json.loads((await back.until(event="message", patience_s=10))["text"]) for _ in range(61)]
        assert messages[0]["type"] == "connected"
        assert [(m["id"], m["payload"], m["attempt"], m["replayed"]) for m in messages[1:]] == \
            [(i, n, 2, True) for n, i in enumerate(ids)]
        for i in ids:
            await back.command_line(send=json.dumps({"type": "Ack", "payload": {"notification_id": i}}))
        for i in ids:
            answer = json.loads((await back.until(event="message"))["text"])
            assert answer == {"type": "acked", "notification_id": i}
    assert await gateway.queue(user) == []


@pytest.mark.parametrize("client_kind", [WebSocket, EventStream], ids=["websocket", "sse"])
async def test_a_timeout_sends_again_and_the_last_attempt_ends_in_the_dead_letters(start_gateway, user, client_kind):
    gateway = await start_gateway(**EVERYTHING_ON, ACK_TIMEOUT_SECONDS=0.3, ACK_MAX_ATTEMPTS=3)
    path = f"/api/v1/users/{user}/dead-letters"
    async with client_kind(gateway, user) as client:
        answer = await gateway.send(user, payload={"n": 1.50})
        received = [await client.notification() for _ in range(3)]
        assert [message.pop("attempt", 1) for message in received] == [1, 2, 3]
        assert received[0] == received[1] == received[2], "sent again, not replayed: only the attempt differs"
        assert received[0]["id"] == answer["notification_id"]
        (dead,) = await wait_until(lambda: gateway.dead_letters(user), what="the dead letter")
        assert (dead["attempts"], dead["in_flight"], dead["notification"]) == (3, False, received[0])
        assert await gateway.queue(user) == []
        answer = await post_acks(gateway, user, received[0]["id"])
        assert answer.json() == {"acked": [], "unknown": [received[0]["id"]]}
        ack = (await gateway.get_ok("/stats"))["ack"]
        assert (ack["total_tracked"], ack["total_timeouts"], ack["dead_letters"], ack["pending_count"]) == (1, 3, 1, 0)
    await gateway.wait_until_away(user)
    async with WebSocket(gateway, user) as client:
        await client.assert_nothing_waits()
    assert await gateway.delete_ok(path) == {"user_id": user, "cleared": 1}
    assert await gateway.dead_letters(user) == []


async def test_a_dead_letter_is_forgotten_after_its_time(start_gateway, user):
    gateway = await start_gateway(**EVERYTHING_ON, ACK_TIMEOUT_SECONDS=0.2, ACK_MAX_ATTEMPTS=1,
                                  QUEUE_DEAD_LETTER_TTL_SECONDS=1.5)
    async with WebSocket(gateway, user) as client:
        first = await client_after_send(gateway, client, user)
        (dead,) = await wait_until(lambda: gateway.dead_letters(user), what="the dead letter")
        assert dead["notification"] == first

        async def is_forgotten():
            return await gateway.dead_letters(user) == []
        await wait_until(is_forgotten, what="its end")
        ack = (await gateway.get_ok("/stats"))["ack"]
        assert (ack["dead_letters"], ack["dead_letters_expired"]) == (1, 1)


async def test_an_acknowledgement_after_the_second_attempt_ends_it(start_gateway, user):
    gateway = await start_gateway(**EVERYTHING_ON, ACK_TIMEOUT_SECONDS=0.3)
    async with WebSocket(gateway, user) as client:
        first = await client_after_send(gateway, client, user)
        assert (await client.notification()) == first | {"attempt": 2}
        await client.ack(first["id"])
        # A later one is sent twice again; nothing of the first comes in between.
        second = await client_after_send(gateway, client, user)
        assert (await client.notification()) == second | {"attempt": 2}
        await client.ack(second["id"])
    assert await gateway.queue(user) == [] and await gateway.dead_letters(user) == []


async def client_after_send(gateway, client, user):
    answer = await gateway.send(user)
    message = await client.notification()
    assert message["id"] == answer["notification_id"]
    return message


async def test_the_first_acknowledgement_counts_for_all_connections_and_those_who_asked_are_told(gateway, user):
    told_url = gateway.ws_url(make_token(user), settled="true")
    async with WebSocket(gateway, user, url=told_url) as acker, WebSocket(gateway, user, url=told_url) as told, \
            WebSocket(gateway, user) as untold, EventStream(gateway, user, settled="true") as told_stream, \
            EventStream(gateway, user) as untold_stream:
        first, second = await send_all(gateway, user, 2)
        for client in (acker, told, untold, told_stream, untold_stream):
            assert [(await client.notification())["id"] for _ in range(2)] == [first, second]
        settled = {"type": "settled", "notification_id": first}
        await acker.ack(first)
        assert await told.next() == settled
        assert json.loads((await told_stream.event()).data) == settled
        await told.send({"type": "Ack", "payload": {"notification_id": first}})
        await told.error("ACK_UNKNOWN")
        assert [i for i, _ in await in_flight(gateway, user)] == [second]

        # By POST it is nobody's connection: all who asked are told.
        assert (await post_acks(gateway, user, second)).json() == {"acked": [second], "unknown": []}
        for client in (acker, told):
            assert await client.next() == settled | {"notification_id": second}
            await client.assert_nothing_waits()
        assert json.loads((await told_stream.event()).data) == settled | {"notification_id": second}
        await untold.assert_nothing_waits()
        marker = (await gateway.trigger("broadcast"))["notification_id"]
        assert (await untold_stream.notification())["id"] == marker
    await gateway.wait_until_away(user)
    assert await gateway.queue(user) == []


async def test_one_connections_end_is_no_reason_to_send_again_to_the_other(gateway, user):
    async with WebSocket(gateway, user) as stays:
        async with WebSocket(gateway, user) as leaves:
            (expected,) = await send_all(gateway, user, 1)
            for client in (stays, leaves):
                assert (await client.notification())["id"] == expected
        await gateway.wait_for_connections(1)
        await stays.assert_nothing_waits()
        await stays.ack(expected)


async def test_another_users_id_is_as_unknown_as_any_other(gateway, user):
    other = f"{user}-other"
    async with WebSocket(gateway, user) as client, WebSocket(gateway, other) as thief:
        (expected,) = await send_all(gateway, user, 1)
        await client.notification()
        errors = []
        for guess in (expected, str(uuid.uuid4()), "nonsense"):
            await thief.send({"type": "Ack", "payload": {"notification_id": guess}})
            errors.append(await thief.error("ACK_UNKNOWN"))
        assert errors[0] == errors[1] == errors[2]
        assert (await post_acks(gateway, other, expected)).json() == {"acked": [], "unknown": [expected]}
        await client.ack(expected)


async def test_broadcasts_and_channels_await_nothing(gateway, user, channel):
    async with WebSocket(gateway, user) as client:
        await client.subscribe(channel)
        for kind, target in (("broadcast", {}), ("channel", {"channel": channel})):
            answer = await gateway.trigger(kind, **target)
            await client.notification()
            await client.send({"type": "Ack", "payload": {"notification_id": answer["notification_id"]}})
            await client.error("ACK_UNKNOWN")
    assert await gateway.queue(user) == []


async def test_a_stream_acknowledges_by_post(gateway, user):
    async with EventStream(gateway, user) as stream:
        ids = await send_all(gateway, user, 3)
        for expected in ids:
            assert (await stream.notification())["id"] == expected
        never_sent = str(uuid.uuid4())
        answer = await post_acks(gateway, user, ids[0], never_sent, ids[2])
        assert answer.status_code == 200 and answer.json() == {"acked": [ids[0], ids[2]], "unknown": [never_sent]}
        assert (await post_acks(gateway, user, ids[0])).json() == {"acked": [], "unknown": [ids[0]]}
    await gateway.wait_until_away(user)
    async with EventStream(gateway, user) as stream:
        message = await stream.notification()
        assert (message["id"], message["replayed"], message["attempt"]) == (ids[1], True, 2)
        marker = await gateway.trigger("broadcast")
        assert (await stream.notification())["id"] == marker["notification_id"]


async def test_posted_acknowledgements_are_checked(gateway, user):
    path = "/api/v1/acks"
    body = {"notification_ids": [str(uuid.uuid4())]}
    bearer = {"Authorization": f"Bearer {make_token(user)}"}
    assert_error(await gateway.client.post(path, json=body), 401, "UNAUTHORIZED")
    assert_error(await gateway.post(path, body), 401, "UNAUTHORIZED")  # the API key is not a client's token
    assert_error(await gateway.client.post(path, json=body, headers={"Authorization": f"Bearer {make_token(user)}x"}),
                 401, "UNAUTHORIZED")
    assert_error(await gateway.client.get(path, headers=bearer), 405, "METHOD_NOT_ALLOWED")
    for wrong in ([], ["nonsense"], [1], "text", None, [str(uuid.uuid4())] * 1001):
        response = await gateway.client.post(path, json={"notification_ids": wrong}, headers=bearer)
        assert assert_error(response, 400, "VALIDATION_ERROR")["details"]["field"].startswith("notification_ids")
    many = [str(uuid.uuid4()) for _ in range(1000)]
    response = await gateway.client.post(path, json={"notification_ids": many}, headers=bearer)
    assert response.json() == {"acked": [], "unknown": many}


async def test_last_event_id_acknowledges_everything_up_to_it(gateway, user):
    async with EventStream(gateway, user) as stream:
        ids = await send_all(gateway, user, 4)
        for expected in ids:
            assert (await stream.notification())["id"] == expected
    await gateway.wait_until_away(user)
    (later,) = await send_all(gateway, user, 1)
    async with EventStream(gateway, user, headers={"Last-Event-ID": ids[1]}) as stream:
        for expected, attempt in ((ids[2], 2), (ids[3], 2), (later, 1)):
            message = await stream.notification()
            assert (message["id"], message["replayed"], message.get("attempt", 1)) == (expected, True, attempt)
        assert [i for i, _ in await in_flight(gateway, user)] == [ids[2], ids[3], later]


@pytest.mark.parametrize("nonsense", ["nonsense", "", str(uuid.uuid4())])
async def test_a_last_event_id_that_is_none_of_the_users_acknowledges_nothing(gateway, user, nonsense):
    (expected,) = await send_all(gateway, user, 1)
    async with EventStream(gateway, user, headers={"Last-Event-ID": nonsense}) as stream:
        assert (await stream.notification())["id"] == expected


@pytest.mark.parametrize("last", ["broadcast", "acknowledged", "second-connection"])
async def test_last_event_id_acknowledges_what_was_before_it_whatever_it_is_itself(gateway, user, last):
    """A browser sends the id of the last event, which need not be one that awaits an acknowledgement."""
    async with WebSocket(gateway, f"{user}" if last == "second-connection" else f"{user}-other"):
        async with EventStream(gateway, user) as stream:
            seen = await send_all(gateway, user, 2)
            if last == "broadcast":
                seen.append((await gateway.trigger("broadcast"))["notification_id"])
            for expected in seen:
                assert (await stream.notification())["id"] == expected
            if last == "acknowledged":
                assert (await post_acks(gateway, user, seen[-1])).json()["acked"] == [seen[-1]]
        await gateway.wait_for_connections(1)
        async with EventStream(gateway, user, headers={"Last-Event-ID": seen[-1]}):
            assert await gateway.queue(user) == []


@pytest.mark.parametrize("spelling", ["lastEventId", "last_event_id", "lastEventID", "Last-Event-ID", "Last-Event-Id",
                                      "evs_last_event_id"])
async def test_the_last_seen_id_in_the_query_does_what_the_header_does(gateway, user, spelling):
    first, second = await send_all(gateway, user, 2)
    async with EventStream(gateway, user, query={spelling: "none of ours"}) as stream:
        assert [(await stream.notification())["id"] for _ in range(2)] == [first, second]
    await gateway.wait_until_away(user)
    async with EventStream(gateway, user, query={spelling: first}) as stream:
        assert (await stream.notification())["id"] == second
        assert [i for i, _ in await in_flight(gateway, user)] == [second]


async def test_of_two_last_seen_ids_the_header_is_taken(gateway, user):
    """A library that reconnects sends the newer one in the header and leaves the URL as it was."""
    first, second, third = await send_all(gateway, user, 3)
    async with EventStream(gateway, user) as stream:
        assert [(await stream.notification())["id"] for _ in range(3)] == [first, second, third]
    await gateway.wait_until_away(user)
    async with EventStream(gateway, user, query={"lastEventId": first}, headers={"Last-Event-ID": second}) as stream:
        assert (await stream.notification())["id"] == third


async def test_npm_eventsource_comes_back_by_itself_and_misses_nothing(gateway, user):
    need("node")
    async with Relay(gateway) as relay:
        url = gateway.sse_url(make_token(user)).replace(str(gateway.port), str(relay.port), 1)
        async with node("eventsource_client.mjs", url) as source:
            await source.until(event="connected", patience_s=10)
            ids = await send_all(gateway, user, 2)
            assert [(await source.until(event="notification"))["id"] for _ in ids] == ids
            relay.cut()
            await gateway.wait_until_away(user)
            missed = await send_all(gateway, user, 2)
            for expected in missed:  # the first two it has seen, which its Last-Event-ID said
                line = await source.until(event="notification", patience_s=10)
                assert line["id"] == expected and json.loads(line["text"])["replayed"] is True
            assert [i for i, _ in await in_flight(gateway, user)] == missed


async def test_acknowledging_what_was_never_sent_does_not_lose_it(gateway, user):
    (expected,) = await send_all(gateway, user, 1)
    assert (await post_acks(gateway, user, expected)).json() == {"acked": [], "unknown": [expected]}
    assert [entry["notification"]["id"] for entry in await gateway.queue(user)] == [expected]


async def test_a_slow_consumer_gets_everything_again_that_it_did_not_acknowledge(gateway, user):
    async with RawWebSocket(gateway, user, receive_buffer=4096) as slow:
        first = (await gateway.send(user))["notification_id"]
        await slow.message()
        ids = [first]

        async def failed():
            answer = await gateway.send(user, payload="x" * 50_000)
            ids.append(answer["notification_id"])
            return answer["failed"]

        await wait_until(failed, what="the outbox full")
        assert await slow.close_code() == 4429
    async with WebSocket(gateway, user) as client:
        received = [await client.notification() for _ in ids]
        assert [message["id"] for message in received] == ids
        # All but the one that did not fit had been sent once.
        assert [message.get("attempt", 1) for message in received] == [2] * (len(ids) - 1) + [1]
        await client.assert_nothing_waits()


async def test_expire_drops_after_the_timeout_and_when_the_user_leaves(start_gateway, user):
    gateway = await start_gateway(**EVERYTHING_ON, ACK_UNACKED="expire", ACK_TIMEOUT_SECONDS=0.3)

    async def expired(count: int):
        async def reached():
            return (await gateway.get_ok("/stats"))["ack"]["total_expired"] == count

        await wait_until(reached, what=f"{count} expired")

    assert (await gateway.send(user))["queued"] is True  # the queue is on all the same
    async with WebSocket(gateway, user) as client:
        await client.notification()
        await expired(1)
        await client.assert_nothing_waits()
        await gateway.send(user)
        await client.notification()
    await expired(2)
    async with WebSocket(gateway, user) as client:
        await client.assert_nothing_waits()
    assert await gateway.queue(user) == [] and await gateway.dead_letters(user) == []


async def test_acknowledgement_works_without_the_queue(start_gateway, user):
    gateway = await start_gateway(ACK_ENABLED="true")
    assert (await gateway.send(user))["queued"] is False
    async with WebSocket(gateway, user) as client:
        (expected,) = await send_all(gateway, user, 1)
        await client.notification()
        await client.ack(expected)
        await send_all(gateway, user, 1)
        await client.notification()
    await gateway.wait_until_away(user)
    stats = await gateway.get_ok("/stats")
    assert (stats["ack"]["total_acked"], stats["ack"]["total_expired"], stats["queue"]["enabled"]) == (1, 1, False)


def test_requeue_without_the_queue_is_refused(new_folder):
    folder = new_folder()
    folder.mkdir(parents=True)
    result = run_cli("check-config", cwd=folder, ACK_ENABLED="true", ACK_UNACKED="requeue")
    assert result.returncode == 2
    assert "ACK_UNACKED" in result.stdout + result.stderr


async def test_tenants_cannot_acknowledge_for_each_other(start_gateway):
    gateway = await start_gateway(**EVERYTHING_ON, TENANT_ENABLED="true")
    async with WebSocket(gateway, "same", claims={"tenant_id": "red"}) as red, \
            WebSocket(gateway, "same", claims={"tenant_id": "blue"}) as blue:
        expected = (await gateway.send("same", "red"))["notification_id"]
        await red.notification()
        await blue.send({"type": "Ack", "payload": {"notification_id": expected}})
        await blue.error("ACK_UNKNOWN")
        answer = await post_acks(gateway, "same", expected, tenant_id="blue")
        assert answer.json() == {"acked": [], "unknown": [expected]}
        answer = await post_acks(gateway, "same", expected, tenant_id="red")
        assert answer.json() == {"acked": [expected], "unknown": []}


async def test_the_figures_add_up(start_gateway):
    gateway = await start_gateway(**EVERYTHING_ON)
    nothing = {"enabled": True, "total_tracked": 0, "total_acked": 0, "total_expired": 0, "total_timeouts": 0,
               "dead_letters": 0, "dead_letters_expired": 0, "pending_count": 0, "ack_rate": 0.0}

    async def ack():
        stats = await gateway.get_ok("/stats")
        assert sum(shard["ack_pending"] for shard in stats["shards"]) == stats["ack"]["pending_count"]
        assert 0 <= stats["ack"].pop("avg_latency_ms") < 5000
        return stats["ack"]

    assert await ack() == nothing
    async with WebSocket(gateway, "a") as a, EventStream(gateway, "b") as b:
        ids = {user: await send_all(gateway, user, 4) for user in ("a", "b")}
        for _ in range(4):
            await a.notification()
            await b.notification()
        assert await ack() == nothing | {"total_tracked": 8, "pending_count": 8}
        await a.ack(ids["a"][0])
        await post_acks(gateway, "b", *ids["b"])
        expected = nothing | {"total_tracked": 8, "total_acked": 5, "pending_count": 3, "ack_rate": 0.625}
        assert await ack() == expected
    await gateway.wait_until_away("a")
    assert await ack() == expected | {"pending_count": 0}
    async with WebSocket(gateway, "a") as a:  # a second attempt is not tracked twice
        for _ in range(3):
            await a.notification()
        for expected_id in ids["a"][1:]:
            await a.ack(expected_id)
    assert await ack() == nothing | {"total_tracked": 8, "total_acked": 8, "ack_rate": 1.0}
