"""What is not exactly as documented is refused by name, at every depth and on every way in; nothing is ignored
that was to narrow who receives a notification, and no message repeats a parser's own words.

Ways in: HTTP bodies (httpx), Redis messages (a real redis-server), WebSocket messages (PyPI websockets).
"""

import gzip
import json

import pytest
import pytest_asyncio

from clients import WebSocket
from conftest import need
from gateway import Gateway, assert_error, make_token, wait_until
from redis_server import RedisServer

BROADCAST = "/api/v1/notifications/broadcast"
SEND = "/api/v1/notifications/send"
ACKS = "/api/v1/acks"
GOOD = {"event_type": "e", "payload": {"any": {"thing": None}}}
OPTIONAL = ("target_user_ids", "channel", "channels", "priority", "ttl", "source", "correlation_id", "audience", "queue")
WORDS_OF_LIBRARIES = ("invalid type", "invalid value", "expected u64", "struct", "variant", "enum", "sequence", "map",
                      "floating point", "EOF", "expected value", "expected ident", "trailing")


def assert_own_words(sentence: str):
    assert not [words for words in WORDS_OF_LIBRARIES if words in sentence], sentence


def raw(body: dict, **members: str) -> str:
    """The body with these members added as they are."""
    return json.dumps(body)[:-1] + "".join(f', "{name}": {text}' for name, text in members.items()) + "}"


UNKNOWN_OR_REPEATED = {
    "unknown": (BROADCAST, raw(GOOD, audeince='{"type":"All"}'), "audeince"),
    "unknown-in-audience": (BROADCAST, raw(GOOD, audience='{"type":"All","roles":["admin"]}'), "audience.roles"),
    "unknown-before-the-type": (BROADCAST, raw(GOOD, audience='{"roles":[],"type":"All"}'), "audience.roles"),
    "repeated": (BROADCAST, raw(GOOD, ttl="1", priority='"Low"')[:-1] + ',"ttl":2}', "ttl"),
    "repeated-payload": (BROADCAST, raw(GOOD, payload="1"), "payload"),
    "repeated-in-audience": (BROADCAST, raw(GOOD, audience='{"type":"All","type":"Roles","value":["r"]}'), "audience.type"),
    "array-for-audience": (BROADCAST, raw(GOOD, audience='["Roles",["admin"]]'), "audience"),
    "value-for-all": (BROADCAST, raw(GOOD, audience='{"type":"All","value":["admin"]}'), "audience.value"),
    "unknown-in-acks": (ACKS, '{"notification_ids":[],"user":"u"}', "user"),
    "repeated-in-acks": (ACKS, '{"notification_ids":[],"notification_ids":[]}', "notification_ids"),
}


@pytest.mark.parametrize("name", UNKNOWN_OR_REPEATED)
async def test_an_unknown_or_repeated_field_reaches_nobody(gateway, user, name):
    path, body, field = UNKNOWN_OR_REPEATED[name]
    async with WebSocket(gateway, user) as client:
        response = await gateway.post(path, body, Authorization=f"Bearer {make_token(user)}")
        error = assert_error(response, 400, "VALIDATION_ERROR")
        assert error["details"]["field"] == field and f"`{field}`" in error["message"], error
        await client.assert_nothing_waits()


@pytest.mark.parametrize("field", OPTIONAL)
async def test_null_is_as_good_as_no_field(gateway, user, field):
    assert (await gateway.send(user, **{field: None}))["success"]
    if field == "audience":
        assert (await gateway.send(user, audience={"type": "All", "value": None}))["success"]


@pytest.mark.parametrize("field", ["target_user_id", *OPTIONAL, "event_type"])
async def test_a_value_of_another_kind_is_told_in_the_words_of_json(gateway, user, field):
    for value in (7, -1, 1.5, 1e300, "text", True, [], {}, [[]], [7], {"type": 7}, {"type": "Some"}, {"type": "Roles", "value": 7}):
        body = GOOD | {"target_user_id": user, field: value}
        response = await gateway.post(SEND, body)
        if response.status_code == 200:
            continue
        error = assert_error(response, 400, "VALIDATION_ERROR")
        assert error["details"]["field"].startswith(field) and f"`{field}" in error["message"], error
        assert_own_words(error["message"])


@pytest.mark.parametrize("path, fields, field, sentence", [
    (SEND, {"target_user_id": "u", "priority": "secret"}, "priority",
     "`priority` is not valid: use one of Low, Normal, High, Critical"),
    (f"{SEND}-to-users", {"target_user_ids": ["u", "secret\n"]}, "target_user_ids[1]",
     "`target_user_ids[1]` is not valid: use 1 to 128 bytes of visible text"),
    ("/api/v1/notifications/channels", {"channels": []}, "channels", "`channels` has 0 entries; 1 to 100 are allowed"),
    ("/api/v1/notifications/channel", {"channel": "a b"}, "channel",
     "`channel` is not valid: use 1 to 64 of A-Z a-z 0-9 . _ -"),
    (SEND, {"target_user_id": "u", "channel": "c"}, "channel", "`channel` does not belong to this path"),
    (SEND, {}, "target_user_id", "`target_user_id` is missing"),
    (BROADCAST, {"audience": {"type": "Users", "value": ["u", ""]}}, "audience.value[1]",
     "`audience.value[1]` is not valid: use 1 to 128 bytes of visible text"),
])
async def test_a_value_out_of_its_bounds_is_told_as_over_redis(gateway, path, fields, field, sentence):
    """The same bounds and sentences as in REJECTED, below; only the paths of the fields differ."""
    error = assert_error(await gateway.post(path, GOOD | fields), 400, "VALIDATION_ERROR")
    assert (error["message"], error["details"]) == (sentence, {"field": field})


@pytest.mark.parametrize("body", ["hello", "{", '{"a" 1}', '{"a":1,}', '{"a":01}', '{"a":"\n"}', "{'a':1}", "nul", "{}x", "7", "[]", ""])
async def test_malformed_json_is_told_without_the_parsers_words(gateway, body):
    error = assert_error(await gateway.post(SEND, body), 400, "VALIDATION_ERROR")
    assert_own_words(error["message"])
    assert error["details"]["line"] >= 1 and error["details"]["column"] >= 1, error


async def test_a_compressed_body_is_415_and_names_the_encoding(gateway, user):
    body = json.dumps(GOOD | {"target_user_id": user}).encode()
    packed = gzip.compress(body)
    for content, encoding in ((packed, "gzip"), (packed, None), (body, "br"), (b"\x28\xb5\x2f\xfd" + body, None)):
        headers = {} if encoding is None else {"Content-Encoding": encoding}
        response = await gateway.post(SEND, content, **headers)
        error = assert_error(response, 415, "UNSUPPORTED_MEDIA_TYPE")
        assert (encoding or ("gzip" if content is packed else "zstd")) in error["message"], error
        assert response.headers["accept-encoding"] == "identity"
    assert (await gateway.post(SEND, body, **{"Content-Encoding": "identity"})).status_code == 200


async def test_a_byte_order_mark_is_ignored_and_other_encodings_are_named(gateway, user):
    text = json.dumps(GOOD | {"target_user_id": user})
    assert (await gateway.post(SEND, text.encode("utf-8-sig"))).status_code == 200
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        error = assert_error(await gateway.post(SEND, text.encode(encoding)), 400, "VALIDATION_ERROR")
        assert encoding[:6].upper() in error["message"], error


@pytest.mark.parametrize("text, found", [
    ("hello", "line 1, column 1"),
    ('{"type":7}', "`type` must be a string, not a number"),
    ('{"type":"Ping","type":"Ping"}', "`type` is given twice"),
    ('{"type":"Subscribe","payload":{"channels":"news"}}', "`payload.channels` must be an array, not a string"),
    ('{"type":"Subscribe","payload":{"channels":["a"],"channels":["b"]}}', "`payload.channels` is given twice"),
    ('{"type":"Ack","payload":{"notification_id":{}}}', "`payload.notification_id` must be a string, not an object"),
])
async def test_a_websocket_message_is_refused_by_what_was_found(gateway, user, text, found):
    async with WebSocket(gateway, user) as client:
        await client.send(text)
        message = (await client.error("INVALID_MESSAGE"))["message"]
        assert found in message, message
        assert_own_words(message)


async def test_a_client_may_be_newer_than_the_gateway(gateway, user, channel):
    async with WebSocket(gateway, user) as client:
        await client.send({"type": "Subscribe", "trace": "t", "payload": {"channels": [channel], "later": {"x": 1}}})
        assert (await client.expect("subscribed"))["payload"] == [channel]


@pytest_asyncio.fixture(scope="module")
async def redis_pair(new_folder):
    """A redis-server and a gateway that is subscribed to it."""
    need("redis-server")
    server = RedisServer(new_folder("redis"))
    try:
        await server.start()
        gateway = Gateway(new_folder(), REDIS_URL=server.url)
        try:
            await gateway.start()

            async def connected():
                return (await gateway.health())["redis"]["connected"]

            await wait_until(connected, 10, "connected to Redis")
            yield gateway, server
            await gateway.stop()
        finally:
            gateway.kill()
    finally:
        server.kill()


REJECTED = {
    "unknown": ('{"type":"broadcast","audience":{"type":"All"},"event":{"event_type":"e","payload":1}}',
                "unknown_field", "unknown field `audience`"),
    "unknown-in-event": ('{"type":"broadcast","event":{"event_type":"e","payload":1,"audience":{"type":"Roles"}}}',
                         "unknown_field", "unknown field `event.audience`"),
    "repeated-in-event": ('{"type":"broadcast","event":{"event_type":"e","payload":1,"payload":2}}',
                          "bad_json", "`event.payload` is given twice"),
    "ttl-is-a-text": ('{"type":"broadcast","event":{"event_type":"e","payload":"secret","ttl":"secret"}}',
                      "bad_ttl", "`event.ttl` must be a whole number, 0 or more, not a string"),
    "no-priority": ('{"type":"broadcast","event":{"event_type":"e","payload":1,"priority":"secret"}}',
                    "bad_priority", "`event.priority` is not valid: use one of Low, Normal, High, Critical"),
    "no-user": ('{"type":"users","target":["u","secret\\n"],"event":{"event_type":"e","payload":1}}',
                "bad_user", "`target[1]` is not valid: use 1 to 128 bytes of visible text"),
    "no-channels": ('{"type":"channels","target":[],"event":{"event_type":"e","payload":1}}',
                    "bad_channel", "`target` has 0 entries; 1 to 100 are allowed"),
}


@pytest.mark.parametrize("name", REJECTED)
async def test_a_redis_message_is_refused_by_the_same_rules(redis_pair, user, name):
    gateway, server = redis_pair
    text, reason, problem = REJECTED[name]

    async def rejected():
        return (await gateway.get_ok("/stats"))["redis"]["messages_rejected"][reason]

    async def published_and_said():
        """A line a second is logged at most, so it may take several messages."""
        await server.publish("notification:broadcast", text)
        return problem in gateway.log()

    before = await rejected()
    async with WebSocket(gateway, user) as client:
        await wait_until(published_and_said, what="a line that says what was found", every_s=0.2)
        assert await rejected() > before
        await client.assert_nothing_waits()
    assert "secret" not in gateway.log()


async def test_null_is_as_good_as_no_field_through_redis(redis_pair, user):
    gateway, server = redis_pair
    event = {"event_type": "e", "payload": None, "priority": None, "ttl": None, "correlation_id": None}
    async with WebSocket(gateway, user) as client:
        text = json.dumps({"type": "broadcast", "target": None, "tenant_id": None, "event": event})
        await server.publish("notification:broadcast", "\ufeff" + text)
        assert (await client.notification())["payload"] is None
