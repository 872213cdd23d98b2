"""An SSE client receives what is its own, every channel its token allows, and proper events.

Clients: PyPI httpx-sse, curl -N, npm eventsource, and a raw socket for what these hide.
"""

import asyncio
import json

import pytest

from clients import EventStream, LineProcess, WebSocket, node
from conftest import need
from gateway import JWT_SECRET, assert_error, make_token
from raw import RawConnection


@pytest.fixture(autouse=True)
async def nobody_is_left(gateway):
    yield
    await gateway.wait_for_connections(0)


@pytest.mark.parametrize("token_in_query", [True, False], ids=["query", "header"])
async def test_headers_connected_event_and_notification(gateway, user, token_in_query):
    async with EventStream(gateway, user, token_in_query=token_in_query) as stream:
        headers = stream.response.headers
        assert headers["content-type"].split(";")[0] == "text/event-stream"
        assert headers["cache-control"] == "no-cache"
        assert headers["x-accel-buffering"] == "no"
        assert stream.connected["type"] == "connected" and stream.connected["user_id"] == user
        assert stream.connected["connection_id"]
        answer = await gateway.send(user, payload={"n": 1}, correlation_id="c")
        assert answer["delivered_to"] == 1
        message = await stream.notification()
        assert message["id"] == answer["notification_id"] and message["payload"] == {"n": 1}
        assert message["metadata"]["correlation_id"] == "c"


async def test_the_stream_is_not_chunked_and_begins_with_retry(gateway, user):
    async with RawConnection(gateway) as connection:
        await connection.send(connection.request("GET", f"/sse?token={make_token(user)}", Accept="text/event-stream"))
        status, headers = await connection.head()
        assert status == 200
        assert "transfer-encoding" not in headers and "content-length" not in headers
        first = await connection.until(b'"connection_id"')
        lines = [line for line in first.decode().splitlines() if line]
        retry = next(line for line in lines if line.startswith("retry:"))
        assert int(retry.split(":")[1]) > 0
        assert lines.index(retry) <= lines.index("event: connected")


async def test_the_same_json_comes_on_both_transports(gateway, user, channel):
    async with EventStream(gateway, user) as stream, WebSocket(gateway, user) as client:
        await client.subscribe(channel)
        for kind, target in (("send", {"target_user_id": user}), ("broadcast", {}), ("channel", {"channel": channel})):
            answer = await gateway.trigger(kind, **target)
            assert answer["delivered_to"] == 2, kind
            assert json.loads((await stream.expect("notification")).data) == await client.notification()


async def test_all_channels_are_received_without_subscribing(gateway, user, channel):
    async with EventStream(gateway, user) as stream:
        for name in (f"{channel}.a", f"{channel}.b"):
            answer = await gateway.trigger("channel", channel=name)
            assert answer["delivered_to"] == 1
            assert (await stream.notification())["channel"] == name
        answer = await gateway.trigger("channels", channels=[f"{channel}.a", f"{channel}.b"])
        assert answer["total_delivered"] == 1
        await assert_next_is_a_marker(gateway, stream, user, after=answer["notification_id"])


async def assert_next_is_a_marker(gateway, stream, user, after: str | None = None):
    """Whatever came before this was all there was."""
    if after:
        assert (await stream.notification())["id"] == after
    marker = await gateway.send(user, event_type="marker")
    assert (await stream.notification())["id"] == marker["notification_id"]


async def test_the_channels_parameter_narrows(gateway, user, channel):
    async with EventStream(gateway, user, channels=f"{channel}.a,{channel}.b") as stream:
        assert (await gateway.trigger("channel", channel=f"{channel}.c"))["delivered_to"] == 0
        for name in (f"{channel}.a", f"{channel}.b"):
            assert (await gateway.trigger("channel", channel=name))["delivered_to"] == 1
            assert (await stream.notification())["channel"] == name
        await assert_next_is_a_marker(gateway, stream, user)
        answer = await gateway.trigger("broadcast")
        assert (await stream.notification())["id"] == answer["notification_id"]


async def test_repeated_channels_parameters_are_one_list(gateway, user, channel):
    query = f"&channels={channel}.a&channels={channel}.b,{channel}.c"
    async with RawConnection(gateway) as connection:
        await connection.send(connection.request("GET", f"/sse?token={make_token(user)}{query}"))
        await connection.until(b'"connection_id"')
        assert (await gateway.trigger("channel", channel=f"{channel}.d"))["delivered_to"] == 0
        for name in "abc":
            assert (await gateway.trigger("channel", channel=f"{channel}.{name}"))["delivered_to"] == 1


async def test_the_tokens_channels_are_the_only_ones(gateway, user, channel):
    async with EventStream(gateway, user, claims={"channels": [channel, f"{channel}.team.*"]}) as stream:
        assert (await gateway.trigger("channel", channel=f"{channel}.other"))["delivered_to"] == 0
        for name in (channel, f"{channel}.team.x"):
            assert (await gateway.trigger("channel", channel=name))["delivered_to"] == 1
            assert (await stream.notification())["channel"] == name
        await assert_next_is_a_marker(gateway, stream, user)


async def test_another_users_notifications_are_not_received(gateway, user):
    async with EventStream(gateway, user) as stream, EventStream(gateway, f"{user}-2") as other:
        answer = await gateway.send(f"{user}-2")
        assert (await other.notification())["id"] == answer["notification_id"]
        await assert_next_is_a_marker(gateway, stream, user)


async def test_roles_are_taken_from_the_token(gateway, user):
    async with EventStream(gateway, user, claims={"roles": ["admin"]}) as stream:
        answer = await gateway.trigger("broadcast", audience={"type": "Roles", "value": ["admin"]})
        assert answer["delivered_to"] == 1
        await stream.notification()
        assert (await gateway.trigger("broadcast", audience={"type": "Roles", "value": ["x"]}))["delivered_to"] == 0
        await assert_next_is_a_marker(gateway, stream, user)


async def test_a_refusal_is_401_with_the_error_shape(gateway):
    response = await gateway.client.get("/sse", params={"token": "x.y.z"}, headers={"Accept": "text/event-stream"})
    assert_error(response, 401, "UNAUTHORIZED")
    assert JWT_SECRET not in response.text


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
async def test_a_payload_of_many_lines_arrives_intact(gateway, user, line_end):
    payload = json.dumps({"text": "data: x\n\nevent: fake", "list": [1, 2], "id": "y"}, indent=2).replace("\n", line_end)
    body = f'{{"target_user_id":"{user}","event_type":"lines","payload":{payload}}}'
    async with EventStream(gateway, user) as stream, WebSocket(gateway, user) as client:
        response = await gateway.post("/api/v1/notifications/send", body)
        assert response.json()["delivered_to"] == 2
        event = await stream.expect("notification")
        assert json.loads(event.data)["payload"] == json.loads(payload)
        assert event.id == response.json()["notification_id"]
        if line_end == "\n":
            assert payload in event.data
        assert payload in await client.text()
        await assert_next_is_a_marker(gateway, stream, user)


async def test_a_heartbeat_event_comes(start_gateway, user, gateway):
    beating = await start_gateway(WEBSOCKET_HEARTBEAT_INTERVAL=1)
    async with EventStream(beating, user) as stream:
        async with asyncio.timeout(4):
            async for event in stream._events:
                if event.event == "heartbeat":
                    break
        assert json.loads(event.data) == {"type": "heartbeat"}


async def test_a_client_that_half_closes_is_noticed(gateway, user):
    async with RawConnection(gateway) as connection:
        await connection.send(connection.request("GET", f"/sse?token={make_token(user)}"))
        await connection.until(b'"connection_id"')
        await gateway.wait_for_connections(1)
        connection.half_close()
        await gateway.wait_for_connections(0)
        assert (await gateway.send(user))["delivered_to"] == 0


async def test_a_client_that_goes_away_is_noticed(gateway, user):
    async with EventStream(gateway, user):
        await gateway.wait_for_connections(1)
    await gateway.wait_for_connections(0)


async def test_what_a_stream_client_sends_is_no_message(gateway, user):
    """One-way: further bytes are neither executed nor fatal for anybody else."""
    async with RawConnection(gateway) as connection, EventStream(gateway, user) as stream:
        await connection.send(connection.request("GET", f"/sse?token={make_token(user)}"))
        await connection.until(b'"connection_id"')
        await connection.send(b'{"type":"Subscribe","payload":{"channels":["x"]}}\r\n' * 1000)
        await assert_next_is_a_marker(gateway, stream, user)


async def test_curl_receives_events(gateway, user):
    command = (need("curl"), "-N", "-s", "-i", "--http1.1", "-H", f"Authorization: Bearer {make_token(user)}",
               f"{gateway.url}/sse")
    async with LineProcess(*command, parse=str.rstrip) as curl:
        assert await curl.next() == "HTTP/1.1 200 OK"
        while await curl.next() != "event: connected":
            pass
        answer = await gateway.send(user, payload={"from": "curl"})
        while await curl.next() != "event: notification":
            pass
        rest = [await curl.next() for _ in range(2)]
        lines = {line.split(":", 1)[0]: line.split(":", 1)[1].strip() for line in (curl.lines[-4:] + rest) if ":" in line}
        assert lines["id"] == answer["notification_id"]
        assert json.loads(lines["data"])["payload"] == {"from": "curl"}


@pytest.mark.parametrize("header", [False, True], ids=["query", "header"])
async def test_npm_eventsource_receives_events(gateway, user, channel, header):
    token = make_token(user)
    arguments = (gateway.sse_url(), token) if header else (gateway.sse_url(token),)
    need("node")
    async with node("eventsource_client.mjs", *arguments) as client:
        connected = await client.until(event="connected", patience_s=10)
        assert json.loads(connected["text"])["user_id"] == user
        payload = {"text": "line 1\nline 2 \u2028 \u0085 é 😀"}
        for kind, target in (("send", {"target_user_id": user}), ("channel", {"channel": channel}), ("broadcast", {})):
            answer = await gateway.trigger(kind, payload=payload, **target)
            event = await client.next()
            assert (event["event"], event["id"]) == ("notification", answer["notification_id"])
            assert json.loads(event["text"])["payload"] == payload
        await client.command_line(close=True)


async def test_npm_eventsource_does_not_retry_after_401(gateway):
    need("node")
    async with node("eventsource_client.mjs", gateway.sse_url("x.y.z")) as client:
        event = await client.next(patience_s=10)
        assert (event["event"], event["status"], event["state"]) == ("broken", 401, 2)


async def test_npm_eventsource_comes_back_by_itself(start_gateway, gateway, user):
    """After the gateway was restarted on the same port the client reconnects within `retry`."""
    need("node")
    first = await start_gateway()
    async with node("eventsource_client.mjs", first.sse_url(make_token(user))) as client:
        await client.until(event="connected", patience_s=10)
        first.signal()
        assert await first.exit_code() == 0
        second = await start_gateway(SERVER_PORT=first.port)
        await client.until(event="connected", patience_s=30)
        async with WebSocket(second, f"{user}-2", url=second.ws_url(make_token(f"{user}-2"))):
            pass
