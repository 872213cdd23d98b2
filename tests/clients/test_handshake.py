"""Who may not connect is told so in the answer to the upgrade, by class, and nothing secret is logged."""

import json
import time
from types import SimpleNamespace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from websockets.exceptions import InvalidStatus

from clients import EventStream, WebSocket
from gateway import ALLOWED_ORIGIN, API_KEY, JWT_SECRET, assert_error, free_port, make_token, wait_until
from raw import RawConnection


def unsigned_token(user: str) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time()) + 600}, None, algorithm="none")


def rsa_token(user: str) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return jwt.encode({"sub": user, "exp": int(time.time()) + 600}, key, algorithm="RS256")


def tampered_token(user: str) -> str:
    head, _, signature = make_token("somebody").split(".")
    return ".".join((head, make_token(user).split(".")[1], signature))


REFUSED_TOKENS = {
    "missing": lambda: None,
    "empty": lambda: "",
    "malformed": lambda: "not-a-token",
    "malformed-parts": lambda: "a.b.c",
    "bad-signature": lambda: make_token("u", secret="another secret that is long enough to be one, really"),
    "tampered": lambda: tampered_token("u"),
    "wrong-algorithm": lambda: make_token("u", algorithm="HS512"),
    "asymmetric-algorithm": lambda: rsa_token("u"),
    "algorithm-none": lambda: unsigned_token("u"),
    "expired": lambda: make_token("u", exp=int(time.time()) - 60),
    "not-yet-valid": lambda: make_token("u", nbf=int(time.time()) + 600),
    "no-subject": lambda: make_token(None),
    "empty-subject": lambda: make_token(""),
    "no-expiry": lambda: make_token("u", exp=None),
}


async def upgrade(gateway, token, **headers):
    """The answer to a WebSocket upgrade as an httpx response."""
    fields = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
              "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} | headers
    return await gateway.client.get("/ws", params={} if token is None else {"token": token},
                                    headers={k: v for k, v in fields.items() if v is not None})


@pytest.mark.parametrize("path", ["/ws", "/sse"])
@pytest.mark.parametrize("name", REFUSED_TOKENS)
async def test_a_bad_token_is_401_on_both_transports(gateway, path, name):
    token = REFUSED_TOKENS[name]()
    if path == "/ws":
        response = await upgrade(gateway, token)
    else:
        response = await gateway.client.get(path, params={} if token is None else {"token": token})
    assert_error(response, 401, "UNAUTHORIZED")
    for secret in filter(None, (token, JWT_SECRET)):
        assert secret not in response.text


async def test_the_message_tells_the_class_of_the_refusal(gateway):
    classes = ("missing", "malformed", "bad-signature", "wrong-algorithm", "expired")
    messages = {name: (await upgrade(gateway, REFUSED_TOKENS[name]())).json()["error"]["message"] for name in classes}
    assert len(set(messages.values())) == len(classes), messages
    assert "expired" in messages["expired"].lower()


async def test_a_token_just_expired_is_taken_within_the_leeway(gateway, user):
    async with WebSocket(gateway, token=make_token(user, exp=int(time.time()) - 2)) as client:
        await client.assert_nothing_waits()


async def test_a_bad_authorization_header_is_401(gateway):
    for value in ("Bearer", "Basic dTpw", "Bearer not-a-token"):
        assert_error(await upgrade(gateway, None, Authorization=value), 401, "UNAUTHORIZED")


async def test_a_bad_token_in_the_protocol_list_is_401(gateway):
    response = await upgrade(gateway, None, **{"Sec-WebSocket-Protocol": "ara.v1, bearer.not-a-token"})
    assert_error(response, 401, "UNAUTHORIZED")


async def test_issuer_and_audience_are_checked_when_configured_and_ignored_otherwise(gateway, start_gateway, user):
    strange = make_token(user, iss="somebody", aud="something")
    async with WebSocket(gateway, token=strange):
        pass
    strict = await start_gateway(JWT_ISSUER="ara-issuer", JWT_AUDIENCE="ara-audience")
    async with WebSocket(strict, token=make_token(user, iss="ara-issuer", aud=["other", "ara-audience"])):
        pass
    for token in (strange, make_token(user), make_token(user, iss="ara-issuer"), make_token(user, aud="ara-audience"),
                  make_token(user, iss="ara-issuer", aud="other")):
        assert_error(await upgrade(strict, token), 401, "UNAUTHORIZED")


BAD_UPGRADES = {
    "no-upgrade-header": ({"Upgrade": None}, (400, 426)),
    "no-connection-header": ({"Connection": None}, (400, 426)),
    "another-protocol": ({"Upgrade": "h2c"}, (400, 426)),
    "no-key": ({"Sec-WebSocket-Key": None}, (400,)),
    "no-version": ({"Sec-WebSocket-Version": None}, (400, 426)),
    "old-version": ({"Sec-WebSocket-Version": "8"}, (426,)),
}


@pytest.mark.parametrize("name", BAD_UPGRADES)
async def test_a_bad_upgrade_is_refused(gateway, user, name):
    headers, statuses = BAD_UPGRADES[name]
    response = await upgrade(gateway, make_token(user), **headers)
    assert response.status_code in statuses, response.text
    assert_error(response, response.status_code)
    if name == "old-version":
        assert response.headers["sec-websocket-version"] == "13"


async def test_header_names_and_tokens_in_any_case_are_a_good_upgrade(gateway, user):
    async with RawConnection(gateway) as connection:
        await connection.send(
            f"GET /ws?token={make_token(user)} HTTP/1.1\r\nhOST: x\r\nUPGRADE: WebSocket\r\n"
            "connection: keep-alive, UPGRADE\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "SEC-WEBSOCKET-VERSION: 13\r\n\r\n".encode())
        status, headers = await connection.head()
        assert status == 101
        assert headers["upgrade"].lower() == "websocket" and headers["connection"].lower() == "upgrade"
        assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert "sec-websocket-extensions" not in headers and "sec-websocket-protocol" not in headers


async def test_a_foreign_origin_is_403_and_an_allowed_or_absent_one_is_not(gateway, user):
    assert_error(await upgrade(gateway, make_token(user), Origin="http://evil.example"), 403, "FORBIDDEN")
    assert_error(await upgrade(gateway, make_token(user), Origin=ALLOWED_ORIGIN + ".evil.example"), 403, "FORBIDDEN")
    async with WebSocket(gateway, user, origin=ALLOWED_ORIGIN), WebSocket(gateway, user):
        pass


async def refused_for_the_limit(gateway, user):
    with pytest.raises(InvalidStatus) as refusal:
        async with WebSocket(gateway, user):
            pass
    assert refusal.value.response.status_code == 429
    assert_error(await gateway.client.get("/sse", params={"token": make_token(user)}), 429, "CONNECTION_LIMIT_EXCEEDED")
    assert_error(await upgrade(gateway, make_token(user)), 429, "CONNECTION_LIMIT_EXCEEDED")


async def admitted(gateway, user) -> bool:
    try:
        async with WebSocket(gateway, user):
            return True
    except InvalidStatus:
        return False


async def test_the_limit_of_connections_per_user_is_exact_over_both_transports(start_gateway):
    gateway = await start_gateway(WEBSOCKET_MAX_CONNECTIONS_PER_USER=2)
    async with EventStream(gateway, "one"):
        async with WebSocket(gateway, "one"):
            await refused_for_the_limit(gateway, "one")
            async with WebSocket(gateway, "two"):
                pass
        await wait_until(lambda: admitted(gateway, "one"), what="a place for the user again")


async def test_the_limit_of_connections_in_total_is_exact_over_both_transports(start_gateway):
    gateway = await start_gateway(WEBSOCKET_MAX_CONNECTIONS=3)
    async with EventStream(gateway, "one"), WebSocket(gateway, "two"):
        async with WebSocket(gateway, "three"):
            await refused_for_the_limit(gateway, "four")
        await wait_until(lambda: admitted(gateway, "four"), what="a place again")


@pytest.mark.parametrize("mode", ["development", "production"])
async def test_tokens_and_secrets_are_never_logged(start_gateway, user, channel, mode):
    """At debug level, over every way a token can come in, accepted and refused, and after an API call."""
    gateway = await start_gateway(RUN_MODE="production" if mode == "production" else None, RUST_LOG="debug")
    good = [make_token(user, jti=str(n)) for n in range(4)]
    bad = [make_token(user, jti=str(n), exp=int(time.time()) - 60) for n in range(3)]
    async with WebSocket(gateway, token=good[0]) as client:
        await client.subscribe(channel)
        await client.send("{broken")
        await client.error("INVALID_MESSAGE")
    async with WebSocket(gateway, url=gateway.ws_url(), additional_headers={"Authorization": f"Bearer {good[1]}"}):
        pass
    async with WebSocket(gateway, url=gateway.ws_url(), subprotocols=["ara.v1", f"bearer.{good[2]}"]):
        pass
    async with EventStream(gateway, token=good[3]):
        pass
    await upgrade(gateway, bad[0])
    await upgrade(gateway, None, Authorization=f"Bearer {bad[1]}")
    await gateway.client.get("/sse", params={"token": bad[2]})
    await gateway.send(user)
    await gateway.client.get("/api/v1/channels", headers={"X-API-Key": "a-wrong-key-that-is-secret-too"})
    gateway.signal()
    assert await gateway.exit_code() == 0
    log = gateway.log()
    secrets = {"JWT secret": JWT_SECRET, "API key": API_KEY, "wrong API key": "a-wrong-key-that-is-secret-too"}
    secrets |= {f"token {n}": token for n, token in enumerate(good + bad)}
    secrets |= {f"signature {n}": token.split(".")[2] for n, token in enumerate(good + bad)}
    assert [name for name, secret in secrets.items() if secret in log] == []


@pytest.mark.parametrize("path", ["/ws", "/sse"])
@pytest.mark.parametrize("query, name, hint", [
    ("tokn={token}", "tokn", "`token`"),
    ("token={token}&chanels=a", "chanels", "`channels`"),
    ("token={token}&setled=true", "setled", "`settled`"),
    ("token={token}&lastEvent=x", "lastEvent", "`lastEventId`"),
    ("token={token}&token={token}", "token", "more than once"),
    ("token={token}&settled=true&settled=true", "settled", "more than once"),
    ("token={token}&lastEventId=x&last_event_id=y", "lastEventId", "more than once"),
    ("token={token}&settled=yes", "settled", "`true` or `false`"),
    ("token={token}%FF", "token", "UTF-8"),
    ("token={token}&%zz=1", "%zz", "two hexadecimal digits"),
], ids=["token", "channels", "settled", "last-event-id", "token-twice", "settled-twice", "last-event-id-twice",
        "settled-value", "token-not-utf8", "bad-escape"])
async def test_a_query_parameter_that_is_unknown_or_repeated_is_400_and_named(gateway, user, path, query, name, hint):
    async with RawConnection(gateway) as connection:
        target = f"{path}?{query.format(token=make_token(user))}"
        request = connection.upgrade_request(None).replace(b"GET /ws ", f"GET {target} ".encode())
        await connection.send(request)
        status, _, body = await connection.response()
        error = json.loads(body)["error"]
        assert (status, error["code"], error["details"]["field"]) == (400, "VALIDATION_ERROR", name), error
        assert f"`{name}`" in error["message"] or name == "lastEventId", error
        assert hint in error["message"], error


async def test_channels_on_a_websocket_are_refused_with_what_to_do(gateway, user):
    response = await upgrade(gateway, None, Authorization=f"Bearer {make_token(user)}")
    assert response.status_code == 101
    async with RawConnection(gateway) as connection:
        request = connection.upgrade_request(make_token(user)).replace(b" HTTP", b"&channels=a HTTP", 1)
        await connection.send(request)
        status, _, body = await connection.response()
        assert status == 400 and "Subscribe" in json.loads(body)["error"]["message"]


async def test_what_caches_and_polyfills_add_is_ignored(gateway, user):
    query = "_=17&t=1&t=2&r=0.5&nocache=1&padding=true&evs_preamble=2056"
    async with WebSocket(gateway, url=gateway.ws_url(make_token(user)) + "&" + query) as client:
        await client.assert_nothing_waits()


@pytest.mark.parametrize("slashes", ["//", "///"])
async def test_a_base_address_that_ends_with_a_slash_connects(gateway, user, slashes):
    url = gateway.ws_url(make_token(user)).replace("/ws?", f"{slashes}ws?")
    async with WebSocket(gateway, url=url) as client:
        assert client.connected["user_id"] == user
    async with RawConnection(gateway) as connection:
        await connection.send(connection.request("GET", "/health"))
        assert (await connection.response())[0] == 200
        await connection.send(connection.request("GET", f"{slashes}sse?token={make_token(user)}"))
        assert (await connection.head())[0] == 200
        await connection.until(b'"connection_id"')


@pytest.mark.parametrize("offered", ["bearer.{}", "graphql-ws", "bearer.{}, chat"])
async def test_subprotocols_without_ours_are_refused_with_what_to_offer(gateway, user, offered):
    """A browser would drop a 101 that selects none of them, and report no reason."""
    token = make_token(user)
    response = await upgrade(gateway, None if "bearer" in offered else token,
                             **{"Sec-WebSocket-Protocol": offered.format(token)})
    error = assert_error(response, 400, "VALIDATION_ERROR")
    assert "ara.v1" in error["message"] and error["details"]["field"] == "Sec-WebSocket-Protocol"
    assert token not in response.text


PROXY_HEADERS = {
    "version-1": b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n",
    "version-1-unknown": b"PROXY UNKNOWN\r\n",
    "version-2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\x13\x88\0\x50",
}


@pytest.mark.parametrize("name", PROXY_HEADERS)
@pytest.mark.parametrize("has_api_address", [False, True], ids=["door", "api"])
async def test_a_proxy_protocol_header_is_told_what_it_is(start_gateway, user, name, has_api_address):
    port = free_port()
    gateway = await start_gateway(API_LISTEN=f"127.0.0.1:{port}" if has_api_address else None)
    address = SimpleNamespace(port=port if has_api_address else gateway.port)
    for _ in range(20):
        async with RawConnection(address) as connection:
            request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
            await connection.send(PROXY_HEADERS[name] + request)
            status, _, body = await connection.response()
            assert status == 400 and "PROXY protocol" in json.loads(body)["error"]["message"]
    await wait_until(lambda: "PROXY protocol" in gateway.log(), what="a line in the log")
    lines = [line for line in gateway.log().splitlines() if "PROXY protocol" in line]
    # At most one line a second for the door of each of the two shards.
    assert len(lines) < 20 and all("WARN" in line and "127.0.0.1" in line for line in lines), lines


@pytest.mark.parametrize("has_api_address", [False, True], ids=["door", "api"])
async def test_the_log_names_an_ipv4_peer_by_its_ipv4_address(start_gateway, has_api_address):
    # A socket for both families shows it as `::ffff:127.0.0.1`: nobody writes an address so.
    port = free_port()
    gateway = await start_gateway(SERVER_HOST="::", API_LISTEN=f"[::]:{port}" if has_api_address else None)
    async with RawConnection(SimpleNamespace(port=port if has_api_address else gateway.port)) as connection:
        await connection.send(PROXY_HEADERS["version-1"])
        assert (await connection.response())[0] == 400
        peer = "{}:{}".format(*connection.socket.getsockname())
    await wait_until(lambda: "PROXY protocol" in gateway.log(), what="a line in the log")
    line = next(line for line in gateway.log().splitlines() if "PROXY protocol" in line)
    assert f"peer={peer}" in line.replace('"', "").replace("\x1b[0m", ""), line
