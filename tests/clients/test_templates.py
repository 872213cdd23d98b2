"""Templates: a trigger names one and brings variables, and clients get what the template and the variables say, byte for byte.

Set-up: real clients, two shards, two tenants; templates made, changed and deleted over HTTP, used over HTTP and Redis; with
the disk backend restarts, kill -9, torn files, and a disk that fails (faulty_disk.c).
"""

import asyncio
import contextlib
import errno
import hashlib
import json
import random
import string

import httpx
import pytest
import pytest_asyncio

from clients import EventStream, WebSocket
from conftest import folder_numbers, gateway_module_fixture
from durable import FaultyDisk
from gateway import Gateway, assert_error, wait_until
from redis_server import RedisServer

TEMPLATES = "/api/v1/templates"
SEND = "/api/v1/notifications/send"

gateway = gateway_module_fixture(TENANT_ENABLED="true", QUEUE_ENABLED="true")


@pytest.fixture
def template_id():
    """An id that no other test has."""
    return f"template-{next(folder_numbers)}"


def text_of(fields: dict, payload_template: str) -> str:
    """A body with this very text as `payload_template`."""
    return json.dumps(fields)[:-1] + f', "payload_template": {payload_template}}}'


async def put(gateway, method: str, path: str, body, tenant: str | None = None):
    headers = gateway.headers(tenant) | {"Content-Type": "application/json"}
    content = body if isinstance(body, str) else json.dumps(body)
    return await gateway.client.request(method, path, content=content, headers=headers)


async def make(gateway, template_id: str, payload_template, tenant: str | None = None, **fields) -> dict:
    text = payload_template if isinstance(payload_template, str) else json.dumps(payload_template)
    body = text_of({"id": template_id, "event_type": "template.event"} | fields, text)
    response = await gateway.post(TEMPLATES, body, tenant)
    assert response.status_code == 201, response.text
    return response.json()


async def send(gateway, user: str, template_id: str, variables=None, tenant: str | None = None, **fields):
    """A trigger by a template; `variables` as text go out as they are."""
    body = {"target_user_id": user, "template_id": template_id} | fields
    if variables is None:
        return await gateway.post(SEND, body, tenant)
    text = variables if isinstance(variables, str) else json.dumps(variables)
    return await gateway.post(SEND, json.dumps(body)[:-1] + f', "variables": {text}}}', tenant)


def payload_text(text: str) -> str:
    """The payload's own bytes in a notification."""
    start = text.index('"payload":') + len('"payload":')
    return text[start:text.rindex(',"metadata":')]


async def test_a_template_is_made_shown_changed_and_deleted(gateway, template_id):
    text = '{"b":1.10, "a" : ["{{x}}", 1e400,"\\u0041"],"a":0}'
    made = await make(gateway, template_id, text, name="Ä name", default_priority="High", default_ttl=0)
    assert made["created_at"] == made["updated_at"]
    assert made == made | {"id": template_id, "name": "Ä name", "event_type": "template.event",
                           "default_priority": "High", "default_ttl": 0}
    path = f"{TEMPLATES}/{template_id}"
    shown = await gateway.get(path)
    assert shown.status_code == 200 and shown.json()["id"] == template_id
    # Byte for byte.
    assert f'"payload_template":{text},' in shown.text
    assert_error(await gateway.post(TEMPLATES, shown.json() | {"created_at": None}), 400, "VALIDATION_ERROR")
    again = {"id": template_id, "event_type": "e", "payload_template": 1}
    assert_error(await gateway.post(TEMPLATES, again), 409, "TEMPLATE_EXISTS")

    response = await put(gateway, "PUT", path, {"event_type": "other", "payload_template": None})
    assert response.status_code == 200, response.text
    changed = response.json()
    assert changed == {"id": template_id, "event_type": "other", "payload_template": None, "default_priority": "Normal",
                       "created_at": made["created_at"], "updated_at": changed["updated_at"]}
    assert changed["updated_at"] >= made["updated_at"]
    assert (await gateway.get_ok(path)) == changed
    error = assert_error(await put(gateway, "PUT", path, again | {"id": "another"}), 400, "VALIDATION_ERROR")
    assert error["details"] == {"field": "id"}

    response = await gateway.client.delete(path, headers=gateway.headers())
    assert (response.status_code, response.content) == (204, b"")
    for response in (await gateway.get(path), await gateway.client.delete(path, headers=gateway.headers()),
                     await put(gateway, "PUT", path, again), await gateway.post(f"{path}/render", {})):
        assert_error(response, 404, "TEMPLATE_NOT_FOUND")
    error = assert_error(await send(gateway, "u", template_id), 404, "TEMPLATE_NOT_FOUND")
    assert error["details"] == {"field": "template_id"}


async def test_the_list_comes_in_pages(gateway):
    tenant = f"pages-{next(folder_numbers)}"
    assert await gateway.get_ok(TEMPLATES, tenant) == {"templates": [], "total": 0}
    ids = sorted(f"t-{number}" for number in range(7))
    for template_id in reversed(ids):
        await make(gateway, template_id, 1, tenant)
    seen, cursor = [], ""
    while cursor is not None:
        page = await gateway.get_ok(f"{TEMPLATES}?limit=3{cursor and '&cursor='}{cursor}", tenant)
        assert page["total"] == 7 and len(page["templates"]) <= 3
        seen += [template["id"] for template in page["templates"]]
        cursor = page.get("next_cursor")
    assert seen == ids
    # What is made or deleted meanwhile moves nothing else to another page.
    assert [t["id"] for t in (await gateway.get_ok(f"{TEMPLATES}?cursor=t-2x", tenant))["templates"]] == ids[3:]
    for query, field in (("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("cursor=a.b", "cursor"),
                         ("cursor=", "cursor"), ("page=2", "page"), ("limit=1&limit=2", "limit")):
        error = assert_error(await gateway.get(f"{TEMPLATES}?{query}", tenant), 400, "VALIDATION_ERROR")
        assert error["details"]["field"] == field
    assert_error(await gateway.get(f"{TEMPLATES}/t-1?limit=1", tenant), 400, "VALIDATION_ERROR")
    # Long ones fill a page before there are many.
    long = f"pages-{next(folder_numbers)}"
    for number in range(20):
        await make(gateway, f"t-{number:02}", json.dumps("x" * 65_000), long)
    page = await gateway.get_ok(TEMPLATES, long)
    assert 15 <= len(page["templates"]) < 20 and page["next_cursor"] == page["templates"][-1]["id"]


@pytest.mark.parametrize("change, status, code, field", [
    ({"id": "a.b"}, 400, "INVALID_TEMPLATE_ID", "id"),
    ({"id": ""}, 400, "INVALID_TEMPLATE_ID", "id"),
    ({"id": "i" * 65}, 400, "INVALID_TEMPLATE_ID", "id"),
    ({"id": None}, 400, "VALIDATION_ERROR", "id"),
    ({"id": 7}, 400, "VALIDATION_ERROR", "id"),
    ({"name": " "}, 400, "VALIDATION_ERROR", "name"),
    ({"event_type": "e" * 129}, 400, "VALIDATION_ERROR", "event_type"),
    ({"event_type": None}, 400, "VALIDATION_ERROR", "event_type"),
    ({"default_priority": "high"}, 400, "VALIDATION_ERROR", "default_priority"),
    ({"default_ttl": -1}, 400, "VALIDATION_ERROR", "default_ttl"),
    ({"priority": "High"}, 400, "VALIDATION_ERROR", "priority"),
    ({"payload_template": {"a": [0, "x {{"]}}, 400, "VALIDATION_ERROR", "payload_template.a[1]"),
    ({"payload_template": {"a": {"b": "{{a b}}"}}}, 400, "VALIDATION_ERROR", "payload_template.a.b"),
    ({"payload_template": "{{{a}}}"}, 400, "VALIDATION_ERROR", "payload_template"),
    ({"payload_template": ["{{a}}"] * 1001}, 400, "VALIDATION_ERROR", "payload_template[1000]"),
    ({"payload_template": "x" * 65_535}, 413, "PAYLOAD_TOO_LARGE", None),
    ({"payload_template": "x" * 100_000}, 413, "PAYLOAD_TOO_LARGE", None),
], ids=lambda value: str(value)[:40])
async def test_what_is_no_template_is_refused_by_its_field(gateway, template_id, change, status, code, field):
    good = {"id": template_id, "event_type": "e", "payload_template": {"a": "{{a}}"}}
    error = assert_error(await gateway.post(TEMPLATES, good | change), status, code)
    assert error.get("details", {}).get("field") == field, error
    assert_error(await gateway.get(f"{TEMPLATES}/{template_id}"), 404, "TEMPLATE_NOT_FOUND")


async def test_the_longest_template_fits_with_its_longest_fields(gateway, template_id):
    text = json.dumps("x" * 65_534)
    made = await make(gateway, template_id, text, name="ä" * 64, event_type="é" * 64, default_ttl=2**64 - 1)
    assert json.dumps(made["payload_template"]) == text and made["default_ttl"] == 2**64 - 1


@pytest.mark.parametrize("bad", ["a.b", "%20", "i" * 65, ""], ids=["dot", "space", "long", "empty"])
async def test_a_path_that_names_no_template_says_so(gateway, bad):
    for path, method in ((f"{TEMPLATES}/{bad}", "GET"), (f"{TEMPLATES}/{bad}/render", "POST")):
        error = assert_error(await put(gateway, method, path, {}), 400, "INVALID_TEMPLATE_ID")
        assert error["details"] == {"field": "template_id"}
    error = assert_error(await send(gateway, "u", bad), 400, "INVALID_TEMPLATE_ID")
    assert error["details"] == {"field": "template_id"}


# (template, variables, payload), each as text.
RENDERED = [
    ('"{{x}}"', '{"x": 1.50}', "1.50"),
    ('"{{x}}"', '{"x": {"b":1e400, "a" :[ ] }}', '{"b":1e400, "a" :[ ] }'),
    ('["{{x}}" ,"{{ x }}"]', '{"x": null}', "[null ,null]"),
    ('"{{x}}"', r'{"x": "a\"\u0041\ud83d"}', r'"a\"\u0041\ud83d"'),
    ('"Dear {{x}}!"', r'{"x": "\"A\"\\\n é\u2028"}', r'"Dear \"A\"\\\n é\u2028!"'),
    ('"{{n}} of {{b}}{{n}}"', '{"n": -1.50e3, "b": true}', '"-1.50e3 of true-1.50e3"'),
    ('{"{{x}}":"{{a.b.c}}","a":"{{a.b.c}}{{a.d}}"}', '{"a":{"d":"D","b":{"c":"C"}}}', '{"{{x}}":"C","a":"CD"}'),
    (r'"\\{{x}} \\\\{{x}} { } }}"', '{"x": 1}', r'"{{x}} \\1 { } }}"'),
    ('"no place"', '{"unused": {"x": []}}', '"no place"'),
    (r'{"b":1.10,  "a":"{{x}}", "a":"\u007b{x}}"}', r'{"\u0078": 1}', '{"b":1.10,  "a":1, "a":1}'),
]


@pytest.mark.parametrize("template, variables, payload", RENDERED, ids=[case[0] for case in RENDERED])
async def test_clients_get_the_bytes_of_template_and_variables(gateway, user, template_id, template, variables, payload):
    await make(gateway, template_id, template)
    async with WebSocket(gateway, user) as client, EventStream(gateway, user) as stream:
        answer = await send(gateway, user, template_id, variables)
        assert answer.status_code == 200 and answer.json()["delivered_to"] == 2, answer.text
        text = await client.text()
        assert payload_text(text) == payload
        assert json.loads(text)["event_type"] == "template.event"
        event = await stream.event()
        assert payload_text(event.data) == payload
    # And the same is shown before.
    shown = await gateway.post(f"{TEMPLATES}/{template_id}/render", f'{{"variables":{variables}}}')
    assert shown.status_code == 200
    assert shown.text == f'{{"event_type":"template.event","payload":{payload},"priority":"Normal"}}'


@pytest.mark.parametrize("template, variables, code, details", [
    ('["{{a}}","{{b.c}} {{d}}","{{e.f}}","{{b.g}}"]', {"d": 1, "e": "text", "b": {"g": 1}}, "MISSING_VARIABLE",
     {"field": "variables", "missing": ["a", "b.c", "e.f"]}),
    ('"{{a}}"', None, "MISSING_VARIABLE", {"field": "variables", "missing": ["a"]}),
    ('{"x":[0,{"y":"- {{a.b}}"}]}', {"a": {"b": {}}}, "INVALID_VARIABLE",
     {"field": "variables", "variable": "a.b", "place": "payload_template.x[1].y"}),
    ('" {{a}}"', {"a": []}, "INVALID_VARIABLE", {"field": "variables", "variable": "a", "place": "payload_template"}),
    ('" {{a}}"', {"a": None}, "INVALID_VARIABLE", {"field": "variables", "variable": "a", "place": "payload_template"}),
    ('" {{a}}"', r'{"a":"\ud83d"}', "INVALID_VARIABLE", {"field": "variables", "variable": "a", "place": "payload_template"}),
    ('"{{a}}"', '{"a":1,"a":2}', "INVALID_VARIABLE", {"field": "variables", "variable": "a"}),
], ids=["missing", "none", "object", "array", "null", "half-pair", "twice"])
async def test_variables_that_do_not_fill_the_template_are_named(gateway, user, template_id, template, variables, code, details):
    await make(gateway, template_id, template)
    async with WebSocket(gateway, user) as client:
        error = assert_error(await send(gateway, user, template_id, variables), 422, code)
        assert error["details"] == details
        assert error["message"].startswith("`variables"), error
        text = "{}" if variables is None else variables if isinstance(variables, str) else json.dumps(variables)
        shown = await gateway.post(f"{TEMPLATES}/{template_id}/render", f'{{"variables":{text}}}')
        assert assert_error(shown, 422, code) == error
        await client.assert_nothing_waits()


@pytest.mark.parametrize("change, field", [
    ({"payload": {}}, "payload"), ({"payload": None}, "payload"), ({"variables": []}, "variables"),
    ({"variables": "x"}, "variables"), ({"event_type": " "}, "event_type"), ({"priority": "high"}, "priority"),
    ({"template_id": None, "variables": {}, "payload": 1}, "variables"), ({"template_id": None}, "event_type"),
    ({"template_id": None, "event_type": "e"}, "payload"), ({"template_id": 7}, "template_id"),
])
async def test_a_trigger_says_either_a_payload_or_a_template(gateway, template_id, change, field):
    await make(gateway, template_id, '"x"')
    body = {"target_user_id": "u", "template_id": template_id} | change
    error = assert_error(await gateway.post(SEND, body), 400, "VALIDATION_ERROR")
    assert error["details"]["field"] == field, error


async def test_what_a_trigger_says_counts_before_what_the_template_says(gateway, user, template_id):
    await make(gateway, template_id, "1", event_type="by.template", default_priority="High", default_ttl=60)
    await make(gateway, f"{template_id}-bare", "1")
    own = {"event_type": "by.trigger", "priority": "Low", "ttl": 7}
    async with WebSocket(gateway, user) as client:
        for suffix, fields, expected in [
            ("", {}, ("by.template", "High", 60)), ("", own, ("by.trigger", "Low", 7)),
            ("", {"ttl": 0}, ("by.template", "High", 0)), ("-bare", {}, ("template.event", "Normal", None)),
            ("-bare", {"priority": "Critical"}, ("template.event", "Critical", None)),
        ]:
            await send(gateway, user, template_id + suffix, **fields)
            message = await client.notification()
            metadata = message["metadata"]
            assert (message["event_type"], metadata["priority"], metadata.get("ttl")) == expected
            shown = await gateway.post(f"{TEMPLATES}/{template_id}{suffix}/render", fields)
            shown = shown.json()
            assert (shown["event_type"], shown["priority"], shown.get("ttl")) == expected


@pytest.mark.parametrize("kind", ["send", "send-to-users", "broadcast", "channel", "channels"])
async def test_every_trigger_takes_a_template(gateway, user, channel, template_id, kind):
    tenant = f"kinds-{next(folder_numbers)}"
    await make(gateway, template_id, {"to": "{{to}}"}, tenant)
    target = {"send": {"target_user_id": user}, "send-to-users": {"target_user_ids": [user]}, "broadcast": {},
              "channel": {"channel": channel}, "channels": {"channels": [channel, "other"]}}[kind]
    async with WebSocket(gateway, user, claims={"tenant_id": tenant}) as client:
        await client.subscribe(channel)
        body = target | {"template_id": template_id, "variables": {"to": kind}}
        answer = await gateway.post(f"/api/v1/notifications/{kind}", body, tenant)
        assert answer.status_code == 200 and answer.json()["delivered_to"] == 1, answer.text
        assert (await client.notification())["payload"] == {"to": kind}


async def test_a_rendered_payload_obeys_the_bound_of_a_payload(gateway, user, template_id):
    await make(gateway, template_id, json.dumps("{{x}}" * 1000))
    async with WebSocket(gateway, user) as client:
        # 2 quotation marks and 1,000 times the text: 64 KiB hold 65 characters of it.
        assert (await send(gateway, user, template_id, {"x": "y" * 65})).status_code == 200
        assert (await client.notification())["payload"] == "y" * 65_000
        error = assert_error(await send(gateway, user, template_id, {"x": "y" * 66}), 413, "PAYLOAD_TOO_LARGE")
        assert "65536" in error["message"]
        assert_error(await send(gateway, user, template_id, {"x": "y" * 60_000}), 413, "PAYLOAD_TOO_LARGE")
        await client.assert_nothing_waits()


async def test_a_change_does_not_reach_what_waits(gateway, user, template_id):
    path = f"{TEMPLATES}/{template_id}"
    await make(gateway, template_id, '"first {{x}}"')
    assert (await send(gateway, user, template_id, {"x": 1})).json()["queued"] is True
    await put(gateway, "PUT", path, {"event_type": "second", "payload_template": "second {{x}}"})
    assert (await send(gateway, user, template_id, {"x": 2})).json()["queued"] is True
    await gateway.client.delete(path, headers=gateway.headers())
    async with WebSocket(gateway, user) as client:
        assert [(await client.notification())["payload"] for _ in range(2)] == ["first 1", "second 2"]


async def test_a_repeated_request_is_answered_again_whatever_the_template_is_now(gateway, user, template_id):
    await make(gateway, template_id, '"first {{x}}"')
    body = {"target_user_id": user, "template_id": template_id, "variables": {"x": 1}}
    async with WebSocket(gateway, user) as client:
        key = {"Idempotency-Key": f"key-{template_id}"}
        first = await gateway.post(SEND, body, **key)
        assert (await client.notification())["payload"] == "first 1"
        # A refusal is not remembered: nothing was sent.
        wrong = body | {"variables": {}}
        for _ in range(2):
            assert_error(await gateway.post(SEND, wrong, **{"Idempotency-Key": f"other-{template_id}"}), 422, "MISSING_VARIABLE")
        await delete(gateway, template_id)
        again = await gateway.post(SEND, body, **key)
        assert again.json() == first.json() and again.headers["idempotent-replayed"] == "true"
        await client.assert_nothing_waits()


async def test_tenants_have_templates_of_their_own(gateway, user, template_id):
    red, blue = (f"{colour}-{next(folder_numbers)}" for colour in ("red", "blue"))
    await make(gateway, template_id, '"red {{x}}"', red, name="of red")
    assert_error(await gateway.get(f"{TEMPLATES}/{template_id}", blue), 404, "TEMPLATE_NOT_FOUND")
    assert await gateway.get_ok(TEMPLATES, blue) == {"templates": [], "total": 0}
    assert_error(await send(gateway, user, template_id, {"x": 1}, blue), 404, "TEMPLATE_NOT_FOUND")
    await make(gateway, template_id, '"blue {{x}}"', blue)
    async with WebSocket(gateway, user, claims={"tenant_id": red}) as of_red, \
            WebSocket(gateway, user, claims={"tenant_id": blue}) as of_blue:
        for tenant, client, colour in ((red, of_red, "red"), (blue, of_blue, "blue")):
            await send(gateway, user, template_id, {"x": 1}, tenant)
            assert (await client.notification())["payload"] == f"{colour} 1"
        await gateway.client.delete(f"{TEMPLATES}/{template_id}", headers=gateway.headers(blue))
        await send(gateway, user, template_id, {"x": 2}, red)
        assert (await of_red.notification())["payload"] == "red 2"
        await of_blue.assert_nothing_waits()
    assert (await gateway.get_ok(f"{TEMPLATES}/{template_id}", red))["name"] == "of red"


async def test_a_tenant_has_at_most_a_thousand(gateway):
    tenant, other = (f"many-{next(folder_numbers)}" for _ in range(2))
    for number in range(1000):
        await make(gateway, f"t-{number}", "1", tenant)
    one_more = {"id": "one-more", "event_type": "e", "payload_template": 1}
    error = assert_error(await gateway.post(TEMPLATES, one_more, tenant), 409, "TEMPLATE_LIMIT")
    assert "1000" in error["message"]
    # An id that is taken is the closer fault; a change needs no room; another tenant has its own.
    assert_error(await gateway.post(TEMPLATES, one_more | {"id": "t-1"}, tenant), 409, "TEMPLATE_EXISTS")
    assert (await put(gateway, "PUT", f"{TEMPLATES}/t-1", {"event_type": "e", "payload_template": 2}, tenant)).status_code == 200
    await make(gateway, "one-more", "1", other)
    await gateway.client.delete(f"{TEMPLATES}/t-500", headers=gateway.headers(tenant))
    await make(gateway, "one-more", "1", tenant)
    assert (await gateway.get_ok(TEMPLATES, tenant))["total"] == 1000


@pytest.mark.parametrize("backend", ["memory", "disk"])
async def test_of_many_at_once_only_so_many_are_made_as_may_be(new_store, backend):
    store = new_store(QUEUE_BACKEND=backend, QUEUE_FSYNC="never")
    gateway = await store.start()
    answers = await asyncio.gather(*(gateway.post(TEMPLATES, {"id": "same", "event_type": "e", "payload_template": n}) for n in range(20)))
    [made] = [answer for answer in answers if answer.status_code == 201]
    for answer in answers:
        if answer is not made:
            assert_error(answer, 409, "TEMPLATE_EXISTS")
    assert (await gateway.get_ok(f"{TEMPLATES}/same")) == made.json()
    for start in range(1, 990, 43):
        await asyncio.gather(*(make(gateway, f"t-{number}", "1") for number in range(start, start + 43)))
    assert (await gateway.get_ok(TEMPLATES))["total"] == 990
    answers = await asyncio.gather(*(gateway.post(TEMPLATES, {"id": f"n-{n}", "event_type": "e", "payload_template": 1}) for n in range(30)))
    assert [answer.status_code for answer in answers].count(201) == 10
    for answer in answers:
        if answer.status_code != 201:
            assert_error(answer, 409, "TEMPLATE_LIMIT")
    assert (await gateway.get_ok(TEMPLATES))["total"] == 1000


async def test_scopes(start_gateway):
    keys = {name: new_key(name) for name in ("read", "send", "admin")}
    config = "".join(f'[[api.keys]]\nname = "{name}"\nsha256 = "{digest}"\nscopes = ["{name}"]\n'
                     for name, (_, digest) in keys.items())
    gateway = await start_gateway(files={"config.toml": config})
    one = {"id": "t", "event_type": "e", "payload_template": "x"}
    calls = [("POST", TEMPLATES, one, "admin"), ("GET", TEMPLATES, None, "read"), ("GET", f"{TEMPLATES}/t", None, "read"),
             ("POST", f"{TEMPLATES}/t/render", {}, "send"), ("PUT", f"{TEMPLATES}/t", one, "admin"),
             ("DELETE", f"{TEMPLATES}/t", None, "admin")]
    for method, path, body, scope in calls:
        for name, (key, _) in sorted(keys.items(), key=lambda item: item[0] == scope):
            response = await gateway.client.request(method, path, headers={"X-API-Key": key}, **({"json": body} if body is not None else {}))
            if name == scope:
                assert response.is_success, f"{method} {path}: {response.text}"
            else:
                assert assert_error(response, 403, "FORBIDDEN")["details"] == {"scope": scope}
    events = [line for line in gateway.log().splitlines() if "template_" in line]
    assert [next(word for word in ("created", "changed", "deleted") if f"template_{word}" in line) for line in events] \
        == ["created", "changed", "deleted"], events
    assert all('key="admin"' in line and 'template="t"' in line and 'tenant="default"' in line for line in events), events


def new_key(name: str) -> tuple[str, str]:
    """A key and its SHA-256."""
    key = name + "".join(random.choices(string.ascii_letters, k=40))
    return key, hashlib.sha256(key.encode()).hexdigest()


@pytest_asyncio.fixture
async def over_redis(new_folder):
    """A gateway that is subscribed to a Redis of its own, and that Redis."""
    async with contextlib.AsyncExitStack() as stack:
        server = RedisServer(new_folder("redis"))
        stack.callback(server.kill)
        await server.start()
        gateway = Gateway(new_folder(), REDIS_URL=server.url, TENANT_ENABLED="true")
        stack.callback(gateway.kill)
        await gateway.start()

        async def healthy():
            return (await gateway.health())["redis"]["status"] == "healthy"

        await wait_until(healthy, 10, "Redis is connected")
        yield gateway, server
        await gateway.stop()


async def test_a_message_over_redis_takes_a_template(over_redis, user):
    gateway, server = over_redis
    await make(gateway, "greeting", '{"to":"{{to}}","text":"Dear {{to}}"}', "acme", default_priority="High")

    async def publish(event: dict):
        message = {"type": "user", "target": user, "tenant_id": "acme", "event": event}
        await server.publish(f"notification:user:{user}", message)

    good = {"template_id": "greeting", "variables": {"to": "Ä \"B\""}}
    async with WebSocket(gateway, user, claims={"tenant_id": "acme"}) as client:
        await publish(good)
        received = await client.notification()
        assert received["payload"] == {"to": 'Ä "B"', "text": 'Dear Ä "B"'}
        assert (received["event_type"], received["metadata"]["priority"]) == ("template.event", "High")
        faults = {
            "bad_template": [{"template_id": "none"}, {"template_id": "a.b"}],
            "missing_variable": [{"template_id": "greeting"}],
            "invalid_variable": [{"template_id": "greeting", "variables": {"to": {}}}, {"template_id": "greeting", "variables": []}],
            "bad_event": [{"template_id": "greeting", "payload": 1}, {"event_type": "e"}],
        }
        for events in faults.values():
            for event in events:
                await publish(event)
        await publish(good)
        assert (await client.notification())["payload"] == received["payload"]
        await client.assert_nothing_waits()
    rejected = (await gateway.get_ok("/stats"))["redis"]["messages_rejected"]
    assert {reason: rejected[reason] for reason in faults} == {reason: len(events) for reason, events in faults.items()}
    assert "rejected a message from Redis" in gateway.log()


# --- the disk backend

async def delete(gateway, template_id: str, tenant: str | None = None):
    return await gateway.client.delete(f"{TEMPLATES}/{template_id}", headers=gateway.headers(tenant))


async def replace(gateway, template_id: str, payload_template, tenant: str | None = None):
    body = {"event_type": "replaced", "payload_template": payload_template}
    return await put(gateway, "PUT", f"{TEMPLATES}/{template_id}", body, tenant)


def journals_of_templates(store) -> list:
    return [path for path in store.journals() if path.parent.name == "templates"]


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("fsync", ["always", "never"])
async def test_templates_are_there_after_a_restart(new_store, user, how, fsync):
    store = new_store(QUEUE_FSYNC=fsync, TENANT_ENABLED="true")
    gateway = await store.start()
    text = '{"b":1.10, "a" : ["{{x}}", 1e400,"\\u0041"]}'
    await make(gateway, "kept", text, "red", name="Ä name", default_priority="Critical", default_ttl=0)
    await make(gateway, "kept", '"blue {{x}}"', "blue")
    await make(gateway, "changed", '"first {{x}}"', "red")
    await make(gateway, "deleted", "1", "red")
    assert (await send(gateway, user, "changed", {"x": 1}, "red")).json()["queued"] is True
    assert (await replace(gateway, "changed", "second {{x}}", "red")).status_code == 200
    assert (await delete(gateway, "deleted", "red")).status_code == 204
    before = {tenant: await gateway.get_ok(TEMPLATES, tenant) for tenant in ("red", "blue")}

    for _ in range(2):
        gateway = await store.restart(how)
        assert {tenant: await gateway.get_ok(TEMPLATES, tenant) for tenant in ("red", "blue")} == before
    assert f'"payload_template":{text},' in (await gateway.get(f"{TEMPLATES}/kept", "red")).text
    assert_error(await gateway.get(f"{TEMPLATES}/deleted", "red"), 404, "TEMPLATE_NOT_FOUND")
    # What waited was written before the change, and is as it was.
    await send(gateway, user, "changed", {"x": 2}, "red")
    async with WebSocket(gateway, user, claims={"tenant_id": "red"}) as client:
        assert [(await client.notification())["payload"] for _ in range(2)] == ["first 1", "second 2"]


async def test_a_kill_costs_no_change_that_was_answered(new_store):
    """Killed while callers change templates: what was answered is there, and of what was not, the old or the new."""
    store = new_store()
    gateway = await store.start()
    # What each template is, and what it may be as well: its text, or None where there is none.
    sure, perhaps = {}, {}

    async def change_for_ever(caller: int):
        for count in range(1_000_000):
            template_id = f"t-{caller}-{count % 3}"
            is_there = sure.get(template_id) is not None
            perhaps[template_id] = None if is_there and count % 7 == 6 else f"{caller} {count}"
            try:
                if not is_there:
                    await make(gateway, template_id, json.dumps(perhaps[template_id]))
                elif perhaps[template_id] is None:
                    assert (await delete(gateway, template_id)).status_code == 204
                else:
                    assert (await replace(gateway, template_id, perhaps[template_id])).status_code == 200
            except httpx.TransportError:
                return
            sure[template_id] = perhaps[template_id]

    for _ in range(3):
        callers = [asyncio.create_task(change_for_ever(caller)) for caller in range(4)]
        await wait_until(lambda: gateway.log().count("template_changed") > 50, 20, "changes")
        gateway.kill()
        await asyncio.gather(*callers)
        gateway = await store.restart("killed")
        page = await gateway.get_ok(f"{TEMPLATES}?limit=100")
        found = {template["id"]: template["payload_template"] for template in page["templates"]}
        assert found.keys() <= perhaps.keys()
        for template_id in perhaps:
            assert found.get(template_id) in (sure.get(template_id), perhaps[template_id]), template_id
        sure = {template_id: found.get(template_id) for template_id in perhaps}


@pytest.mark.parametrize("cut", [1, 7, 40])
async def test_a_torn_end_costs_only_what_was_torn(new_store, cut):
    store = new_store()
    gateway = await store.start()
    await make(gateway, "first", '"{{x}}"')
    await make(gateway, "last", '"{{y}}"')
    await store.kill()
    [journal] = journals_of_templates(store)
    # The file may be longer than what is in it.
    content = journal.read_bytes().rstrip(b"\0")
    journal.write_bytes(content[:-cut])
    gateway = await store.start()
    assert [template["id"] for template in (await gateway.get_ok(TEMPLATES))["templates"]] == ["first"]
    await make(gateway, "last", '"{{z}}"')
    gateway = await store.restart("killed")
    assert [template["id"] for template in (await gateway.get_ok(TEMPLATES))["templates"]] == ["first", "last"]


@pytest.fixture(scope="module")
def library(new_folder):
    return FaultyDisk.compile(new_folder("library"))


@pytest.mark.parametrize("what, error", [("write", errno.ENOSPC), ("write", errno.EIO), ("sync", errno.EIO)],
                         ids=["full", "broken", "sync-fails"])
async def test_what_the_disk_does_not_take_is_not_changed(new_store, library, user, what, error):
    store = new_store()
    disk = FaultyDisk(store, library)
    gateway = await store.start()
    await make(gateway, "kept", '"{{x}}"')
    await make(gateway, "other", '"{{x}}"')
    before = await gateway.get_ok(TEMPLATES)
    with disk.does(what, error):
        new = {"id": "new", "event_type": "e", "payload_template": 1}
        for response in (await gateway.post(TEMPLATES, new), await replace(gateway, "kept", 2), await delete(gateway, "other")):
            refused = assert_error(response, 503, "TEMPLATES_UNAVAILABLE")
            assert response.headers["retry-after"] == "1" and "not made" in refused["message"]
        assert await gateway.get_ok(TEMPLATES) == before
        # Templates are used and shown as before.
        async with WebSocket(gateway, user) as client:
            assert (await send(gateway, user, "kept", {"x": 3})).status_code == 200
            assert (await client.notification())["payload"] == 3

    async def is_taken():
        return (await replace(gateway, "kept", 4)).status_code == 200

    # The journal tries again by itself.
    await wait_until(is_taken, 10, "the disk is used again")
    gateway = await store.restart("killed")
    after = {template["id"]: template["payload_template"] for template in (await gateway.get_ok(TEMPLATES))["templates"]}
    assert after == {"kept": 4, "other": "{{x}}"}


async def test_without_the_disk_they_end_with_the_process(new_store):
    store = new_store(QUEUE_BACKEND="memory")
    await make(await store.start(), "gone", "1")
    gateway = await store.restart("stopped")
    assert await gateway.get_ok(TEMPLATES) == {"templates": [], "total": 0}
