"""The HTTP API answers every caller in one shape, says what is wrong and where, and keeps HTTP/1.1's rules."""

import email.utils
import json
import re
import time
from types import SimpleNamespace

import pytest

from clients import WebSocket
from gateway import ALLOWED_ORIGIN, API_KEY, assert_error, free_port, make_token
from raw import RawConnection

SEND = "/api/v1/notifications/send"
GOOD = {"event_type": "e", "payload": {}}
BODY_MAX_BYTES = 65536


def ten_thousand_and_one_users() -> list[str]:
    """As many short distinct ids as one body of 64 KiB holds."""
    letters = [chr(c) for c in range(33, 127) if chr(c) not in '"\\']
    return [a + b for a in letters for b in letters][:8000] + [f"{n:03d}" for n in range(1000)] + \
        [f"x{n:02d}" for n in range(100)] + [f"{a}{n:02d}" for a in "abcdefghi" for n in range(100)] + ["last"]


INVALID_TRIGGERS = {
    "no-target": ("send", GOOD, "target_user_id"),
    "empty-user": ("send", GOOD | {"target_user_id": ""}, "target_user_id"),
    "user-of-129-bytes": ("send", GOOD | {"target_user_id": "x" * 129}, "target_user_id"),
    "user-of-129-bytes-in-65-characters": ("send", GOOD | {"target_user_id": "é" * 64 + "x"}, "target_user_id"),
    "user-with-a-line-end": ("send", GOOD | {"target_user_id": "a\nb"}, "target_user_id"),
    "user-with-a-nul": ("send", GOOD | {"target_user_id": "a\u0000b"}, "target_user_id"),
    "user-is-a-number": ("send", GOOD | {"target_user_id": 7}, "target_user_id"),
    "no-event-type": ("send", {"payload": {}, "target_user_id": "u"}, "event_type"),
    "empty-event-type": ("send", GOOD | {"event_type": "", "target_user_id": "u"}, "event_type"),
    "event-type-of-129-bytes": ("send", GOOD | {"event_type": "x" * 129, "target_user_id": "u"}, "event_type"),
    "no-payload": ("send", {"event_type": "e", "target_user_id": "u"}, "payload"),
    "unknown-priority": ("send", GOOD | {"priority": "Urgent", "target_user_id": "u"}, "priority"),
    "negative-ttl": ("send", GOOD | {"ttl": -1, "target_user_id": "u"}, "ttl"),
    "ttl-is-a-text": ("send", GOOD | {"ttl": "1h", "target_user_id": "u"}, "ttl"),
    "no-users": ("send-to-users", GOOD, "target_user_ids"),
    "empty-list-of-users": ("send-to-users", GOOD | {"target_user_ids": []}, "target_user_ids"),
    "one-bad-user": ("send-to-users", GOOD | {"target_user_ids": ["u", ""]}, "target_user_ids"),
    "10001-users": ("send-to-users", GOOD | {"target_user_ids": ten_thousand_and_one_users()}, "target_user_ids"),
    "no-channel": ("channel", GOOD, "channel"),
    "empty-channel": ("channel", GOOD | {"channel": ""}, "channel"),
    "channel-with-a-space": ("channel", GOOD | {"channel": "a b"}, "channel"),
    "channel-of-65": ("channel", GOOD | {"channel": "x" * 65}, "channel"),
    "no-channels": ("channels", GOOD, "channels"),
    "empty-list-of-channels": ("channels", GOOD | {"channels": []}, "channels"),
    "101-channels": ("channels", GOOD | {"channels": [f"c{n}" for n in range(101)]}, "channels"),
    "one-bad-channel": ("channels", GOOD | {"channels": ["ok", "not ok"]}, "channels"),
    "unknown-audience": ("broadcast", GOOD | {"audience": {"type": "Everybody"}}, "audience"),
    "audience-without-value": ("broadcast", GOOD | {"audience": {"type": "Roles"}}, "audience"),
    "audience-is-a-text": ("broadcast", GOOD | {"audience": "All"}, "audience"),
}


@pytest.mark.parametrize("name", INVALID_TRIGGERS)
async def test_an_invalid_trigger_is_400_and_names_the_field(gateway, name):
    kind, body, field = INVALID_TRIGGERS[name]
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(text) <= BODY_MAX_BYTES
    error = assert_error(await gateway.post(f"/api/v1/notifications/{kind}", text), 400, "VALIDATION_ERROR")
    # A list may name the item too: `channels[1]`.
    assert re.split(r"[.\[]", error["details"]["field"])[0] == field, error


async def test_the_largest_of_everything_is_taken(gateway):
    users = ten_thousand_and_one_users()
    assert len(set(users)) == 10_001
    text = json.dumps(GOOD | {"target_user_ids": users[1:]}, separators=(",", ":"))
    response = await gateway.post("/api/v1/notifications/send-to-users", text)
    assert response.status_code == 200, response.text[:500]
    assert len(response.json()["results"]) == 10_000
    await gateway.trigger("channels", channels=[f"{n:03d}" + "x" * 61 for n in range(100)])
    await gateway.trigger("send", target_user_id="x" * 128, event_type="y" * 128)


@pytest.mark.parametrize("text, line", [
    ('{"event_type": oops}', 1),
    ('{\n  "event_type": "e",\n  "payload": {]\n}', 3),
    ('{"event_type": "e", "payload": {}', 1),
    ('{} {}', 1),
], ids=["bad-word", "third-line", "cut-off", "two-values"])
async def test_malformed_json_is_400_and_names_line_and_column(gateway, text, line):
    error = assert_error(await gateway.post(SEND, text), 400)
    assert re.search(rf"line\s*:?\s*{line}\b", error["message"]), error
    assert re.search(r"column\s*:?\s*\d+", error["message"]), error


@pytest.mark.parametrize("text", ["[]", "7", '"text"', "null", ""])
async def test_a_body_that_is_no_object_is_400(gateway, text):
    assert_error(await gateway.post(SEND, text), 400)


async def test_a_body_that_is_not_utf8_is_400(gateway):
    assert_error(await gateway.post(SEND, b'{"target_user_id":"\xff","event_type":"e","payload":{}}'), 400)


@pytest.mark.parametrize("method, path", [
    ("POST", SEND), ("POST", "/api/v1/notifications/broadcast"), ("GET", "/api/v1/channels"), ("GET", "/stats"),
    ("GET", "/api/v1/stats"), ("GET", "/api/v1/users/u/subscriptions"),
])
async def test_everything_but_health_needs_the_key(gateway, method, path):
    for key in (None, "", "wrong", API_KEY[:-1], API_KEY + "x", API_KEY.upper()):
        headers = {} if key is None else {"X-API-Key": key}
        body = GOOD | {"target_user_id": "u"} if method == "POST" else None
        response = await gateway.client.request(method, path, headers=headers, json=body)
        assert_error(response, 401, "UNAUTHORIZED")
        assert API_KEY not in response.text


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v1/notifications/nothing", "/api/v2/stats",
                                  "/api/v1/channels/a/b/c"])
async def test_an_unknown_path_is_404(gateway, path):
    assert_error(await gateway.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize("method, path, allowed", [
    ("GET", SEND, "POST"), ("DELETE", SEND, "POST"), ("POST", "/api/v1/channels", "GET"), ("POST", "/health", "GET"),
    ("PUT", "/stats", "GET"), ("POST", "/ws", "GET"), ("POST", "/sse", "GET"),
])
async def test_a_wrong_method_is_405_and_names_the_right_one(gateway, method, path, allowed):
    response = await gateway.client.request(method, path, headers=gateway.headers())
    assert_error(response, 405, "METHOD_NOT_ALLOWED")
    assert allowed in [name.strip() for name in response.headers["allow"].split(",")]


async def test_a_body_over_the_limit_is_413_and_one_at_the_limit_is_not(gateway):
    shell = json.dumps(GOOD | {"target_user_id": "u", "payload": ""})
    full = shell.replace('""', '"' + "x" * (BODY_MAX_BYTES - len(shell)) + '"')
    assert len(full) == BODY_MAX_BYTES
    assert (await gateway.post(SEND, full)).status_code == 200
    assert_error(await gateway.post(SEND, full + " "), 413, "PAYLOAD_TOO_LARGE")


async def test_a_chunked_body_over_the_limit_is_413_and_a_small_one_is_taken(gateway):
    async def parts(count):
        for _ in range(count):
            yield b" " * 10_000
        yield json.dumps(GOOD | {"target_user_id": "u"}).encode()

    headers = gateway.headers() | {"Content-Type": "application/json"}
    assert (await gateway.client.post(SEND, content=parts(1), headers=headers)).status_code == 200
    assert_error(await gateway.client.post(SEND, content=parts(10), headers=headers), 413, "PAYLOAD_TOO_LARGE")


async def test_a_declared_length_over_the_limit_is_refused_before_the_body_is_sent(gateway):
    async with RawConnection(gateway) as connection:
        head = connection.request("POST", SEND, X_API_Key=API_KEY, Content_Type="application/json",
                                  Content_Length="10000000000")
        await connection.send(head)
        status, _, body = await connection.response()
        assert status == 413 and json.loads(body)["error"]["code"] == "PAYLOAD_TOO_LARGE"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/xml"])
async def test_a_body_of_another_type_is_415(gateway, content_type):
    headers = gateway.headers() | ({} if content_type is None else {"Content-Type": content_type})
    response = await gateway.client.post(SEND, content=json.dumps(GOOD | {"target_user_id": "u"}), headers=headers)
    assert_error(response, 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_json_is_taken_however_it_is_announced(gateway, content_type):
    response = await gateway.post(SEND, GOOD | {"target_user_id": "u"}, **{"Content-Type": content_type})
    assert response.status_code == 200


async def test_no_answer_names_the_software(gateway):
    for answer in (await gateway.get("/health"), await gateway.get("/nowhere"), await gateway.post(SEND, {})):
        assert not {"server", "via"} & set(answer.headers)


async def test_a_connection_is_kept_and_serves_many_requests(gateway):
    async with RawConnection(gateway) as connection:
        for n in range(20):
            body = json.dumps(GOOD | {"target_user_id": f"u{n}"}).encode()
            await connection.send(connection.request("POST", SEND, body, X_API_Key=API_KEY))
            status, _, answer = await connection.response()
            assert status == 200 and json.loads(answer)["success"] is True
            await connection.send(connection.request("GET", "/health"))
            assert (await connection.response())[0] == 200


async def test_an_error_does_not_cost_the_connection(gateway):
    async with RawConnection(gateway) as connection:
        for path, expected in (("/nothing", 404), (SEND, 405), ("/health", 200)):
            await connection.send(connection.request("GET", path, X_API_Key=API_KEY))
            assert (await connection.response())[0] == expected


async def test_pipelined_requests_are_answered_in_order(gateway, channel):
    async with RawConnection(gateway) as connection:
        body = json.dumps(GOOD | {"channel": channel}).encode()
        await connection.send(
            connection.request("POST", "/api/v1/notifications/channel", body, X_API_Key=API_KEY)
            + connection.request("GET", f"/api/v1/channels/{channel}", X_API_Key=API_KEY)
            + connection.request("GET", "/health"))
        status, _, answer = await connection.response()
        assert status == 200 and json.loads(answer)["channel"] == channel
        status, _, answer = await connection.response()
        assert status == 404 and json.loads(answer)["error"]["code"] == "CHANNEL_NOT_FOUND"
        status, _, answer = await connection.response()
        assert status == 200 and json.loads(answer)["status"] == "healthy"


async def test_connection_close_is_honoured(gateway):
    async with RawConnection(gateway) as connection:
        await connection.send(connection.request("GET", "/health", Connection="close"))
        status, _, body = await connection.response()
        assert status == 200 and json.loads(body)["status"] == "healthy"
        assert await connection.to_the_end() == b""


async def test_a_request_that_arrives_in_pieces_is_understood(gateway):
    async with RawConnection(gateway) as connection:
        data = connection.request("POST", SEND, json.dumps(GOOD | {"target_user_id": "u"}).encode(), X_API_Key=API_KEY)
        for start in range(0, len(data), 7):
            await connection.send(data[start:start + 7])
        assert (await connection.response())[0] == 200


async def test_a_stream_can_follow_other_requests_on_one_connection(gateway, user):
    async with RawConnection(gateway) as connection:
        await connection.send(connection.request("GET", "/health"))
        assert (await connection.response())[0] == 200
        await connection.send(connection.request("GET", f"/sse?token={make_token(user)}"))
        status, headers = await connection.head()
        assert status == 200 and headers["content-type"].startswith("text/event-stream")
        assert b"event: connected" in await connection.until(b'"connection_id"')
        assert (await gateway.send(user))["delivered_to"] == 1
        await connection.until(b"event: notification")


async def test_a_websocket_can_follow_other_requests_on_one_connection(gateway, user):
    async with RawConnection(gateway) as connection:
        await connection.send(connection.request("GET", "/health"))
        assert (await connection.response())[0] == 200
        await connection.send(connection.upgrade_request(make_token(user)))
        assert (await connection.head())[0] == 101
        await connection.until(b'"connection_id"')
        assert (await gateway.send(user))["delivered_to"] == 1
        await connection.until(b'"notification"')


async def test_a_preflight_of_an_allowed_origin_is_granted(gateway):
    response = await gateway.client.options(SEND, headers={
        "Origin": ALLOWED_ORIGIN, "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-api-key,x-tenant-id"})
    assert response.status_code in (200, 204)
    assert response.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
    assert "POST" in response.headers["access-control-allow-methods"]
    allowed = {name.strip().lower() for name in response.headers["access-control-allow-headers"].split(",")}
    assert {"content-type", "x-api-key", "x-tenant-id", "authorization", "idempotency-key", "last-event-id",
            "cache-control", "traceparent", "tracestate", "baggage"} <= allowed


async def test_answers_allow_the_allowed_origin_only(gateway, user):
    for path in ("/health", f"/sse?token={make_token(user)}"):
        async with gateway.client.stream("GET", path, headers={"Origin": ALLOWED_ORIGIN}) as response:
            assert response.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
            assert "origin" in response.headers["vary"].lower()
    response = await gateway.client.get("/health", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in response.headers
    response = await gateway.client.options(SEND, headers={
        "Origin": "http://evil.example", "Access-Control-Request-Method": "POST"})
    assert "access-control-allow-origin" not in response.headers


async def test_an_error_can_be_read_by_an_allowed_origin_too(gateway):
    response = await gateway.client.post(SEND, json={}, headers={"Origin": ALLOWED_ORIGIN})
    assert_error(response, 401)
    assert response.headers["access-control-allow-origin"] == ALLOWED_ORIGIN


EXPOSED = {"retry-after", "idempotent-replayed", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}


def every_kind_of_answer(user: str) -> list[tuple[str, str, dict, int]]:
    """Streams, refusals, errors, preflights and plain answers: (method, path, headers, status)."""
    key, body = {"X-API-Key": API_KEY}, {"X-API-Key": API_KEY, "Content-Type": "application/json"}
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    return [
        ("GET", f"/sse?token={make_token(user)}", {}, 200),
        ("GET", "/sse", {}, 401),
        ("GET", "/ws", upgrade, 400),
        ("GET", f"/ws?token={make_token(user)}", {}, 426),
        ("POST", "/ws", {}, 405),
        ("GET", "/health", {}, 200), ("GET", "/health/live", {}, 200), ("GET", "/health/ready", {}, 200),
        ("GET", "/stats", key, 200), ("GET", "/stats", {}, 401),
        ("GET", "/api/v1/channels", key, 200), ("GET", "/api/v1/channels/nobody", key, 404),
        ("GET", f"/api/v1/users/{user}/queue", key, 200),
        ("GET", f"/api/v1/users/{user}/subscriptions", {}, 401),
        ("DELETE", f"/api/v1/users/{user}/queue", key, 200),
        ("GET", SEND, key, 405), ("GET", "/nowhere", key, 404),
        ("POST", SEND, body, 400), ("POST", SEND, key, 415), ("POST", "/api/v1/acks", body, 401),
        ("OPTIONS", SEND, {"Access-Control-Request-Method": "POST"}, 204),
        ("OPTIONS", "/sse", {"Access-Control-Request-Method": "GET"}, 204),
    ]


async def test_every_answer_says_who_may_read_it(gateway, user):
    for origin, allowed in ((ALLOWED_ORIGIN, True), ("http://evil.example", False), (None, False)):
        for method, path, headers, status in every_kind_of_answer(user):
            if origin is not None:
                headers = headers | {"Origin": origin}
            async with gateway.client.stream(method, path, headers=headers) as response:
                where = (method, path, origin)
                is_refused = origin is not None and not allowed and path[:4] in ("/sse", "/ws", "/ws?") and method == "GET"
                assert response.status_code == (403 if is_refused else status), where
                assert response.headers["vary"].lower() == "origin", where
                cors = {name: value for name, value in response.headers.items() if name.startswith("access-control-")}
                if not allowed:
                    assert cors == {}, where
                    continue
                assert cors["access-control-allow-origin"] == origin, where
                assert cors["access-control-allow-credentials"] == "true", where
                exposed = {name.strip().lower() for name in cors["access-control-expose-headers"].split(",")}
                assert EXPOSED <= exposed, where


async def test_no_answer_but_a_stream_may_be_stored(gateway, user):
    for method, path, headers, _status in every_kind_of_answer(user):
        if method == "GET" and path.startswith("/sse?"):
            continue
        response = await gateway.client.request(method, path, headers=headers)
        assert response.headers.get("cache-control") == "no-store", (method, path)


async def test_the_star_allows_every_page_without_credentials(start_gateway, user):
    gateway = await start_gateway(CORS_ORIGINS=f"*,{ALLOWED_ORIGIN}")
    for origin, allowed, credentials in (("http://any.example", "*", None), (ALLOWED_ORIGIN, ALLOWED_ORIGIN, "true")):
        for method, path, headers, status in every_kind_of_answer(user):
            async with gateway.client.stream(method, path, headers=headers | {"Origin": origin}) as response:
                assert response.status_code == status
                assert response.headers["access-control-allow-origin"] == allowed, (method, path)
                assert response.headers.get("access-control-allow-credentials") == credentials, (method, path)


GARBAGE = {
    "no-http": b"hello\r\n\r\n",
    "tls-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64 + b"\r\n\r\n",
    "bad-header": b"GET /health HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
    "two-lengths": b"POST " + SEND.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "bad-length": b"POST " + SEND.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_is_refused_and_the_gateway_goes_on(gateway, user, name):
    async with WebSocket(gateway, user) as client:
        async with RawConnection(gateway) as connection:
            await connection.send(GARBAGE[name])
            connection.half_close()
            answer = await connection.to_the_end()
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:200]
        await client.assert_nothing_waits()


@pytest.fixture
async def api_address(start_gateway):
    """The API of a gateway that has an address of its own for it. A RawConnection takes it for a gateway."""
    port = free_port()
    await start_gateway(API_LISTEN=f"127.0.0.1:{port}")
    return SimpleNamespace(port=port)


def head(*lines: str, request: str = "GET /health HTTP/1.1", host: str | None = "Host: x") -> bytes:
    return "\r\n".join([request, *([host] if host else []), *lines, "", ""]).encode()


BAD_HEADS = {
    "too-many-lines": (head(*["A: b"] * 64), 431, "REQUEST_HEADER_FIELDS_TOO_LARGE"),
    "too-long": (head("A: " + "a" * 16384), 431, "REQUEST_HEADER_FIELDS_TOO_LARGE"),
    "longer-than-any-buffer": (head("A: " + "a" * 100_000), 431, "REQUEST_HEADER_FIELDS_TOO_LARGE"),
    "no-host": (head(host=None), 400, "VALIDATION_ERROR"),
    "two-hosts": (head("Host: x"), 400, "VALIDATION_ERROR"),
    "host-with-a-path": (head(host="Host: x/y"), 400, "VALIDATION_ERROR"),
    "bad-header": (head("bad header"), 400, "VALIDATION_ERROR"),
    "space-before-the-colon": (head("A : b"), 400, "VALIDATION_ERROR"),
    "folded-header": (head("A: b", " c"), 400, "VALIDATION_ERROR"),
    "no-http": (b"hello\r\n\r\n", 400, "VALIDATION_ERROR"),
    "http-2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "VALIDATION_ERROR"),
    "another-version": (head(request="GET /health HTTP/1.2"), 400, "VALIDATION_ERROR"),
    "bad-target": (head(request="GET health HTTP/1.1"), 400, "VALIDATION_ERROR"),
    "two-lengths": (head("Content-Length: 1", "Content-Length: 2"), 400, "VALIDATION_ERROR"),
    "length-and-chunks": (head("Content-Length: 1", "Transfer-Encoding: chunked"), 400, "VALIDATION_ERROR"),
    "unknown-coding": (head("Transfer-Encoding: gzip, chunked"), 400, "VALIDATION_ERROR"),
    "proxy-protocol-1": (b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n" + head(), 400, "VALIDATION_ERROR"),
}


def assert_refused(answer: bytes, status: int, code: str):
    """One whole answer in the shape of every error, as the last thing on its connection."""
    top, _, body = answer.partition(b"\r\n\r\n")
    lines = top.decode().split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {status} "), lines[0]
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    assert headers["content-type"] == "application/json" and headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body)
    assert_now(headers["date"])
    error = json.loads(body)["error"]
    assert error["code"] == code and error["message"]
    return error


def assert_now(date: str):
    assert abs(email.utils.parsedate_to_datetime(date).timestamp() - time.time()) < 60, date


@pytest.mark.parametrize("name", BAD_HEADS)
async def test_a_bad_head_is_refused_alike_as_first_and_later_request_at_door_and_api(gateway, api_address, name):
    bad, status, code = BAD_HEADS[name]
    errors = []
    for address in (gateway, api_address):
        for before in range(3):
            async with RawConnection(address) as connection:
                for _ in range(before):
                    await connection.send(head())
                    assert (await connection.response())[0] == 200
                await connection.send(bad)
                errors.append(assert_refused(await connection.to_the_end(), status, code))
    assert all(error == errors[0] for error in errors), errors


async def test_what_was_asked_before_a_bad_head_is_answered_first(gateway):
    async with RawConnection(gateway) as connection:
        await connection.send(head() + head() + head(host=None))
        for _ in range(2):
            status, headers, _ = await connection.response()
            assert status == 200 and headers.get("connection", "keep-alive") != "close"
        assert_refused(await connection.to_the_end(), 400, "VALIDATION_ERROR")


async def test_the_largest_head_is_taken_first_and_later(gateway, api_address):
    full = head("A: " + "a" * (16384 - len(head("A: "))))
    assert len(full) == 16384
    for address in (gateway, api_address):
        async with RawConnection(address) as connection:
            for good in (full, full, head(*["A: b"] * 63)):
                await connection.send(good)
                assert (await connection.response())[0] == 200


async def test_http_1_0_needs_no_host(gateway):
    async with RawConnection(gateway) as connection:
        await connection.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert (await connection.to_the_end()).split(b" ")[1] == b"200"


async def test_a_body_is_never_read_as_a_head_nor_a_head_as_a_body(gateway, user):
    """Bodies of every length and coding, cut anywhere, with what looks like a request in them."""
    body = json.dumps(GOOD | {"target_user_id": user, "payload": "GET /ws HTTP/1.1\r\n\r\n"}).encode()
    chunks = b"".join(b"%x;x=y\r\n%s\r\n" % (len(body[n:n + 7]), body[n:n + 7]) for n in range(0, len(body), 7))
    start = ["X-API-Key: " + API_KEY, "Content-Type: application/json"]
    post = {"request": f"POST {SEND} HTTP/1.1"}
    whole = head(*start, f"Content-Length: {len(body)}", **post) + body
    chunked = head(*start, "Transfer-Encoding: chunked", **post) + chunks + b"0\r\nTrailer: x\r\n\r\n"
    stream = (whole + chunked + head()) * 3
    for piece in (1, 13, len(stream)):
        async with RawConnection(gateway) as connection:
            for n in range(0, len(stream), piece):
                await connection.send(stream[n:n + piece])
            for _ in range(9):
                status, _, answer = await connection.response()
                assert status == 200, answer


async def test_a_caller_that_closes_its_sending_side_still_gets_its_answers(gateway):
    async with RawConnection(gateway) as connection:
        await connection.send(head() + head())
        connection.half_close()
        assert (await connection.to_the_end()).count(b"HTTP/1.1 200 OK") == 2


async def test_a_401_names_the_scheme_that_is_asked_for_and_every_refusal_has_its_date(gateway, user):
    for response, scheme in [
        (await gateway.client.get("/stats"), 'ApiKey header="X-API-Key"'),
        (await gateway.client.get("/stats", headers={"X-API-Key": "wrong"}), 'ApiKey header="X-API-Key"'),
        (await gateway.post("/api/v1/acks", {"notification_ids": []}), "Bearer"),
        (await gateway.client.get("/sse"), "Bearer"),
        (await gateway.client.get("/sse", params={"token": "wrong"}), 'Bearer error="invalid_token"'),
        (await gateway.client.get("/ws", headers={"Connection": "Upgrade", "Upgrade": "websocket",
                                                  "Sec-WebSocket-Version": "13",
                                                  "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}), "Bearer"),
    ]:
        assert_error(response, 401, "UNAUTHORIZED")
        assert response.headers["www-authenticate"] == scheme
        assert_now(response.headers["date"])
    async with gateway.client.stream("GET", "/sse", params={"token": make_token(user)}) as response:
        assert_now(response.headers["date"])


@pytest.mark.parametrize("path, has_head", [("/health", True), ("/stats", True), ("/api/v1/channels", True),
                                            ("/api/v1/users/u/queue", True), (SEND, False), ("/sse", False)])
async def test_allow_lists_head_where_it_is_served(gateway, path, has_head):
    response = await gateway.client.put(path, headers=gateway.headers())
    assert_error(response, 405)
    allowed = {name.strip() for name in response.headers["allow"].split(",")}
    assert ("HEAD" in allowed) == has_head and "OPTIONS" in allowed
    assert ((await gateway.client.head(path, headers=gateway.headers())).status_code == 200) == has_head


@pytest.mark.parametrize("segment", ["%FF", "a%C3", "%zz", "%", "a%4"])
@pytest.mark.parametrize("path, field", [("/api/v1/users/{}/subscriptions", "user_id"),
                                         ("/api/v1/users/{}/queue", "user_id"),
                                         ("/api/v1/channels/{}", "name")])
async def test_a_path_that_is_no_text_is_400_and_not_another_name(gateway, path, field, segment):
    async with RawConnection(gateway) as connection:
        await connection.send(connection.request("GET", path.format(segment), X_API_Key=API_KEY))
        status, _, body = await connection.response()
        error = json.loads(body)["error"]
        assert (status, error["code"], error["details"]["field"]) == (400, "VALIDATION_ERROR", field)


@pytest.mark.parametrize("method, path, name", [
    ("GET", "/api/v1/channels?limit=3", "limit"), ("GET", "/stats?tenant=a", "tenant"),
    ("GET", "/api/v1/users/u/subscriptions?token=x", "token"), ("DELETE", "/api/v1/users/u/queue?max=1", "max"),
    ("POST", SEND + "?dry_run=true", "dry_run"), ("GET", "/api/v1/channels?%66oo", "foo"),
])
async def test_an_unknown_query_parameter_is_400_and_named(gateway, method, path, name):
    body = GOOD | {"target_user_id": "u"} if method == "POST" else None
    error = assert_error(await gateway.client.request(method, path, headers=gateway.headers(), json=body), 400,
                         "VALIDATION_ERROR")
    assert error["details"]["field"] == name and f"`{name}`" in error["message"]


@pytest.mark.parametrize("path", ["/api/v1/channels?_=1700000000000", "/stats?t=1&nocache=2&t=3", "/stats?",
                                  "/health?anything=x", "/health/ready?probe=lb"])
async def test_what_proxies_add_and_what_a_probe_adds_is_let_through(gateway, path):
    assert (await gateway.get(path)).status_code == 200


async def test_an_acknowledgement_takes_the_token_and_nothing_else_in_its_query(gateway, user):
    path = f"/api/v1/acks?token={make_token(user)}"
    ids = {"notification_ids": ["01a2033e-2914-7543-b8f7-69588ca79ea1"]}
    assert (await gateway.post(path, ids)).status_code == 200
    error = assert_error(await gateway.post(path + "&tokn=x", ids), 400, "VALIDATION_ERROR")
    assert error["details"]["field"] == "tokn" and "`token`" in error["message"]
