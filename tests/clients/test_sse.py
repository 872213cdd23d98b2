"""An SSE client receives what is its own, every channel its token allows, and proper events.

Clients: PyPI httpx-sse and requests, curl -N, npm eventsource, and a raw socket for what these hide.
"""

import asyncio
import json

import httpx_sse
import pytest
import requests

from clients import EventStream, LineProcess, WebSocket, node
from conftest import need
from gateway import ALLOWED_ORIGIN, JWT_SECRET, assert_error, make_token
from raw import RawConnection


@pytest.fixture(autouse=True)
async def nobody_is_left(gateway):
    yield
    await gateway.wait_for_connections(0)


@pytest.mark.parametrize("token_in_query", [True, False], ids=["query", "header"])
async def test_headers_connected_event_and_notification(gateway, user, token_in_query):
    async with EventStream(gateway, user, token_in_query=token_in_query) as stream:
        headers = stream.response.headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert stream.connected["type"] == "connected" and stream.connected["user_id"] == user
        assert stream.connected["connection_id"]
        answer = await gateway.send(user, payload={"n": 1}, correlation_id="c")
        assert answer["delivered_to"] == 1
        message = await stream.notification()
        assert message["id"] == answer["notification_id"] and message["payload"] == {"n": 1}
        assert message["metadata"]["correlation_id"] == "c"


async def read_chunk(connection) -> bytes:
    size = int(await connection.until(b"\r\n"), 16)
    chunk = await connection.exactly(size)
    assert await connection.exactly(2) == b"\r\n"
    return chunk


async def test_each_event_is_a_chunk_and_the_first_sets_the_retry(start_gateway, user):
    """Also what waited and is marked as replayed, which makes it longer, and the end after a stop."""
    gateway = await start_gateway(QUEUE_ENABLED="true", WEBSOCKET_HEARTBEAT_INTERVAL=0.2)
    waiting = await gateway.send(user, payload={"name": "Zo\u00eb"})
    async with RawConnection(gateway) as connection:
        await connection.send(connection.request("GET", f"/sse?token={make_token(user)}"))
        status, headers = await connection.head()
        assert status == 200 and headers["transfer-encoding"] == "chunked" and "content-length" not in headers
        first = (await read_chunk(connection)).decode().splitlines()
        assert int(first[0].removeprefix("retry: ")) > 0 and first[1] == "event: connected"
        assert json.loads(first[2].removeprefix("data: "))["type"] == "connected" and first[3:] == [""]
        replayed = (await read_chunk(connection)).decode()
        assert replayed.startswith(f"id: {waiting['notification_id']}\n") and '"replayed":true' in replayed
        assert (await read_chunk(connection)).startswith(b"event: heartbeat\ndata: ")
        answer = await gateway.send(user, payload=list(range(3000)))
        while not (chunk := await read_chunk(connection)).startswith(b"id: "):
            assert chunk.startswith(b"event: heartbeat\ndata: ")
        assert answer["notification_id"].encode() in chunk and chunk.endswith(b"}\n\n")
        gateway.signal()
        while chunk := await read_chunk(connection):
            last = chunk
        assert last.startswith(b"retry: ") and b'"type":"shutdown"' in last
        assert await connection.to_the_end() == b""


async def test_a_reader_of_http_1_0_gets_the_same_events_without_chunks(start_gateway, user):
    gateway = await start_gateway(QUEUE_ENABLED="true")
    waiting = await gateway.send(user)
    async with RawConnection(gateway) as connection:
        request = connection.request("GET", f"/sse?token={make_token(user)}")
        await connection.send(request.replace(b" HTTP/1.1", b" HTTP/1.0"))
        status, headers = await connection.head()
        assert status == 200 and "transfer-encoding" not in headers and "content-length" not in headers
        await gateway.wait_for_connections(1)
        live = await gateway.send(user)
        gateway.signal()
        text = (await connection.to_the_end()).decode()
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.removesuffix("\n\n").split("\n\n")]
    assert [block["event"] for block in blocks] == ["connected", "notification", "notification", "message"]
    assert [block.get("id") for block in blocks[1:3]] == [waiting["notification_id"], live["notification_id"]]
    assert all(json.loads(block["data"]) for block in blocks) and "\r" not in text
    assert {0, 3} == {index for index, block in enumerate(blocks) if "retry" in block}


async def test_requests_sees_each_event_when_it_comes(start_gateway, user):
    """urllib3 holds a body back until 512 bytes are there, unless it comes in chunks; text/* is Latin-1 to requests
    unless the type says otherwise; and a body that does not end as its encoding says is an error."""
    gateway = await start_gateway()
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    response = await asyncio.to_thread(
        requests.get, gateway.sse_url(), headers={"Authorization": f"Bearer {make_token(user)}"}, stream=True)

    def read():
        for line in response.iter_lines(decode_unicode=True):
            loop.call_soon_threadsafe(lines.put_nowait, line)

    async def until(start: str) -> str:
        async with asyncio.timeout(5):
            while not (line := await lines.get()).startswith(start):
                pass
            return line

    reader = asyncio.create_task(asyncio.to_thread(read))
    try:
        await until("event: connected")
        await gateway.send(user, payload={"name": "Zoë"})
        await until("event: notification")
        assert json.loads((await until("data: ")).removeprefix("data: "))["payload"] == {"name": "Zoë"}
    finally:
        # The one thing that ends the other thread's read.
        gateway.signal()
        await reader


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
    """The marker is the next event, so nothing else was sent before it."""
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
        assert (await connection.to_the_end()).endswith(b"\r\n0\r\n\r\n"), "the stream is complete"


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


# --- a temporary refusal would end an EventSource for good, so it comes as a stream

@pytest.fixture
async def full(start_gateway):
    """A gateway on which a user may have one connection."""
    return await start_gateway(WEBSOCKET_MAX_CONNECTIONS_PER_USER=1, WEBSOCKET_MAX_CONNECTIONS=2)


async def refused(gateway, token: str, **headers: str) -> list[httpx_sse.ServerSentEvent]:
    async with httpx_sse.aconnect_sse(gateway.client, "GET", gateway.sse_url(token), headers=headers) as source:
        assert source.response.status_code == 200
        assert source.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert source.response.headers.get("access-control-allow-origin") == headers.get("Origin")
        return [event async for event in source.aiter_sse()]


async def test_a_refusal_for_now_is_an_error_event_to_an_event_source_and_a_status_to_others(full, user):
    origin = {"Origin": ALLOWED_ORIGIN}
    async with EventStream(full, user), EventStream(full, f"{user}-2"):
        # Both the gateway's own limit, seen first, and the user's.
        for other in (user, f"{user}-3"):
            for headers in ({}, origin):
                [event] = await refused(full, make_token(other), **headers)
                assert event.event == "error" and event.retry >= 1000
                error = json.loads(event.data)
                assert (error["type"], error["code"]) == ("error", "CONNECTION_LIMIT_EXCEEDED") and error["message"]
            response = await full.client.get("/sse", params={"token": make_token(other)})
            assert_error(response, 429, "CONNECTION_LIMIT_EXCEEDED")
    # Their places are free once the gateway has seen them leave.
    await full.wait_for_connections(0)
    async with EventStream(full, user):
        [event] = await refused(full, make_token(user), **origin)
        assert json.loads(event.data)["message"].startswith("this user has")
        assert_error(await full.client.get("/sse", params={"token": make_token(user)}), 429)
        async with RawConnection(full) as kept:
            # The same on a caller's connection that was kept.
            await kept.send(kept.request("GET", "/health"))
            assert (await kept.response())[0] == 200
            await kept.send(kept.request("GET", f"/sse?token={make_token(user)}", Accept="text/event-stream"))
            status, _, body = await kept.response()
            assert status == 200 and b"event: error\n" in body
            assert await kept.to_the_end() == b""


async def test_a_refused_npm_eventsource_comes_in_when_there_is_room(full, user):
    need("node")
    async with EventStream(full, user) as stream:
        async with node("eventsource_client.mjs", full.sse_url(make_token(user))) as client:
            error = await client.until(event="error", patience_s=10)
            assert json.loads(error["text"])["code"] == "CONNECTION_LIMIT_EXCEEDED"
            broken = await client.until(event="broken", patience_s=10)
            assert broken["state"] == 0, "it will not try again"
            await stream.__aexit__()
            await client.until(event="connected", patience_s=30)
            await client.command_line(close=True)


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
async def test_a_stop_is_no_broken_transfer_to_curl(start_gateway, user, version):
    gateway = await start_gateway()
    command = (need("curl"), "-N", "-s", version, gateway.sse_url(make_token(user)))
    async with LineProcess(*command, parse=str.rstrip) as curl:
        while await curl.next() != "event: connected":
            pass
        gateway.signal()
        while '"type":"shutdown"' not in await curl.next():
            pass
        async with asyncio.timeout(10):
            assert await curl.process.wait() == 0
