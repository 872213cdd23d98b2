"""What a key may do, for whom, and until when: scopes, tenants, ends, and what the audit log says of refusals.

Property: a key does what its scopes and its tenant allow, and is told what it lacks; nobody else learns anything.
Why it matters: a key that does more than was meant is noticed by whoever abuses it.
"""

import subprocess
from http.client import HTTPConnection

import pytest
import requests

from clients import WebSocket
from conftest import gateway_module_fixture
from gateway import ALLOWED_ORIGIN, JWT_SECRET, gateway_binary, make_token, wait_until
from keys import FROM_FILE, audit, entry, reload
from test_http import assert_error

READ, SEND, ADMIN = "read-only-0123456789", "send-only-0123456789", "admin-only-0123456789"
RED, ALL, OLD = "of-red-0123456789", "of-all-0123456789", "of-the-past-0123456789"
CONFIG = "".join([
    "[tenant]\nenabled = true\n[queue]\nenabled = true\n",
    entry("reader", READ, "read"),
    entry("sender", SEND, "send"),
    entry("admin", ADMIN, "admin"),
    entry("red", RED, "read", "send", "admin", tenant="red", not_after="2100-01-01T00:00:00+02:00"),
    entry("all", ALL, "read", "send", "admin"),
    entry("old", OLD, "read", not_after="2020-01-01T00:00:00Z"),
])

gateway = gateway_module_fixture(**FROM_FILE, files={"config.toml": CONFIG})

BODY = {"event_type": "e", "payload": {}}
ROUTES = [
    ("read", "GET", "/stats", None),
    ("read", "GET", "/api/v1/stats", None),
    ("read", "GET", "/api/v1/channels", None),
    ("read", "GET", "/api/v1/channels/news", None),
    ("read", "GET", "/api/v1/users/u/subscriptions", None),
    ("read", "GET", "/api/v1/connections", None),
    ("read", "GET", "/api/v1/drain", None),
    ("admin", "DELETE", "/api/v1/drain", None),
    ("admin", "DELETE", "/api/v1/users/u/connections", None),
    ("read", "GET", "/api/v1/users/u/queue", None),
    ("read", "GET", "/api/v1/users/u/dead-letters", None),
    ("admin", "DELETE", "/api/v1/users/u/queue", None),
    ("admin", "DELETE", "/api/v1/users/u/dead-letters", None),
    ("send", "POST", "/api/v1/notifications/send", BODY | {"target_user_id": "u"}),
    ("send", "POST", "/api/v1/notifications/send-to-users", BODY | {"target_user_ids": ["u"]}),
    ("send", "POST", "/api/v1/notifications/broadcast", BODY),
    ("send", "POST", "/api/v1/notifications/channel", BODY | {"channel": "news"}),
    ("send", "POST", "/api/v1/notifications/channels", BODY | {"channels": ["news"]}),
]


def call(gateway, method, path, key, body=None, tenant=None):
    headers = {name: value for name, value in [("X-API-Key", key), ("X-Tenant-ID", tenant)] if value is not None}
    return requests.request(method, gateway.url + path, json=body, headers=headers, timeout=5)


@pytest.mark.parametrize(("scope", "method", "path", "body"), ROUTES)
async def test_a_route_serves_the_keys_of_its_scope_and_names_it_to_others(gateway, scope, method, path, body):
    keys = {"read": READ, "send": SEND, "admin": ADMIN}
    for has, key in keys.items():
        answer = call(gateway, method, path, key, body, "blue")
        if has == scope:
            assert answer.status_code in (200, 404), answer.text
            continue
        error = assert_error(answer, 403, "FORBIDDEN")
        assert f"`{scope}`" in error["message"], error
        assert error["details"] == {"scope": scope}, error
    assert call(gateway, method, path, ALL, body, "blue").status_code in (200, 404)


async def test_a_key_of_a_tenant_needs_no_header_and_may_name_no_other(gateway):
    async with WebSocket(gateway, "same", claims={"tenant_id": "red"}) as red, \
            WebSocket(gateway, "same", claims={"tenant_id": "blue"}) as blue:
        await red.subscribe("red-only")
        await blue.subscribe("blue-only")
        send = BODY | {"target_user_id": "same"}
        for tenant in (None, "red"):
            answer = call(gateway, "POST", "/api/v1/notifications/send", RED, send, tenant)
            assert answer.json()["delivered_to"] == 1, answer.text
            await red.notification()
        await blue.assert_nothing_waits()
        names = call(gateway, "GET", "/api/v1/channels", RED).json()["channels"]
        assert [channel["name"] for channel in names] == ["red-only"]
        assert call(gateway, "GET", "/api/v1/channels/blue-only", RED).status_code == 404
        for tenant in ("blue", "Red", "a/b", ""):
            for method, path, body in [("POST", "/api/v1/notifications/send", send), ("GET", "/api/v1/channels", None),
                                       ("DELETE", "/api/v1/users/same/queue", None)]:
                error = assert_error(call(gateway, method, path, RED, body, tenant), 403, "FORBIDDEN")
                assert "`red`" in error["message"] and "blue" not in error["message"], error
        await blue.assert_nothing_waits()
    # What shows all tenants is not for one of them.
    for path in ("/stats", "/api/v1/stats"):
        error = assert_error(call(gateway, "GET", path, RED), 403, "FORBIDDEN")
        assert "all tenants" in error["message"], error
    assert call(gateway, "GET", "/stats", ALL).status_code == 200
    # A key of none names one, as before.
    assert_error(call(gateway, "GET", "/api/v1/channels", ALL), 400)


async def test_an_expired_key_is_told_so_and_a_wrong_one_is_not(gateway):
    expired = assert_error(call(gateway, "GET", "/stats", OLD), 401, "UNAUTHORIZED")
    assert "has expired" in expired["message"], expired
    for wrong in (OLD[:-1], OLD.upper(), "x", ""):
        error = assert_error(call(gateway, "GET", "/stats", wrong), 401, "UNAUTHORIZED")
        assert "expired" not in error["message"], error
    assert "X-API-Key" in assert_error(call(gateway, "GET", "/stats", None), 401)["message"]
    # A token of a client is no key, and the key has no other header.
    bearer = {"Authorization": f"Bearer {ALL}"}
    assert_error(requests.get(gateway.url + "/stats", headers=bearer, timeout=5), 401)


async def test_refusals_and_clearing_are_in_the_audit_log_without_a_secret(gateway):
    wanted = [
        (("GET", "/stats", SEND, None, "blue"), {"reason": "missing_scope", "key": "sender", "scope": "read"}),
        (("GET", "/stats", RED), {"reason": "other_tenant", "key": "red"}),
        (("GET", "/stats", OLD), {"reason": "expired", "key": "old"}),
        (("GET", "/stats", "guess-0123456789"), {"reason": "unknown"}),
    ]
    for request, fields in wanted:
        def refused():
            call(gateway, *request)
            return audit(gateway, "key_refused", **fields)
        line = (await wait_until(refused, every_s=0.1))[0]
        assert line["peer"].startswith("127.0.0.1:") and line["level"] == "INFO", line
        assert "message" not in line, line
    call(gateway, "POST", "/api/v1/notifications/send", ALL, BODY | {"target_user_id": "cleared"}, "blue")
    assert call(gateway, "DELETE", "/api/v1/users/cleared/queue", ALL, None, "blue").json()["cleared"] == 1
    call(gateway, "DELETE", "/api/v1/users/cleared/dead-letters", ADMIN, None, "blue")
    who = {"tenant": "blue", "user": "cleared"}
    await wait_until(lambda: audit(gateway, "queue_cleared", key="all", count=1, **who))
    await wait_until(lambda: audit(gateway, "dead_letters_cleared", key="admin", count=0, **who))
    for secret in (READ, SEND, ADMIN, RED, ALL, OLD, "guess-0123456789"):
        assert secret not in gateway.log()


async def test_a_flood_of_bad_keys_is_a_few_lines_that_count_it(gateway):
    before = len(audit(gateway, "key_refused", reason="unknown"))
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=5)
    for _ in range(400):
        connection.request("GET", "/stats", headers={"X-API-Key": "guess"})
        assert connection.getresponse().read()
    connection.close()

    def counted():
        call(gateway, "GET", "/stats", "guess")
        new = audit(gateway, "key_refused", reason="unknown")[before:]
        return new if sum(line["suppressed"] for line in new) >= 399 else None

    assert len(await wait_until(counted, every_s=0.1)) <= 10


async def test_ara_gateway_key_makes_one_and_sighup_lets_it_in(start_gateway):
    gateway = await start_gateway(**FROM_FILE, files={"config.toml": entry("first", "first-0123456789", "read")},
                                  RUN_MODE="production", JWT_SECRET=JWT_SECRET, CORS_ORIGINS=ALLOWED_ORIGIN)
    # As an operator types it: the key into a variable, its lines into the file.
    script = f'"{gateway_binary()}" key --name made --scope read 2>> config.toml'
    made = subprocess.run(script, shell=True, cwd=gateway.folder, check=True, capture_output=True, text=True)
    key, config = made.stdout.strip(), (gateway.folder / "config.toml").read_text()
    assert key.startswith("ara_") and key not in config and config.count("[[api.keys]]") == 2
    assert call(gateway, "GET", "/stats", key).status_code == 401
    assert (await reload(gateway, config))["keys"] == "api.keys"
    assert call(gateway, "GET", "/stats", key).status_code == 200
    assert call(gateway, "GET", "/stats", "first-0123456789").status_code == 200
    assert call(gateway, "GET", "/stats", make_token("u")).status_code == 401
