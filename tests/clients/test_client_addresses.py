"""Where a client is, when proxies stand between: by the socket, by what trusted proxies add, by the PROXY protocol.

Set-up: 127.0.0.1 is a trusted proxy, other addresses of this machine are not. Property: the address that the list of
connections, the rate limits and the audit log go by is the one the last trusted proxy has seen. Why it matters: who can
choose an address can lock others out, and is never locked out.
"""

import ipaddress
import struct

import httpx
import pytest

from clients import EventStream, WebSocket
from gateway import API_KEY, assert_error, make_token, wait_until
from keys import audit
from raw import RawConnection

TRUSTED = {"SERVER_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8"}
CLIENT, STRANGER = "198.51.100.7", "127.9.9.9"


async def addresses(gateway, user: str | None = None) -> list[str]:
    shown = await gateway.get_ok("/api/v1/connections" + (f"?user_id={user}" if user else ""))
    return sorted(connection["address"] for connection in shown["connections"])


def v1(client: str, port: int = 5000) -> bytes:
    family = "TCP4" if "." in client else "TCP6"
    return f"PROXY {family} {client} {client} {port} 80\r\n".encode()


def v2(client: str, port: int = 5000, more: bytes = b"") -> bytes:
    address = ipaddress.ip_address(client)
    block = address.packed * 2 + struct.pack(">HH", port, 80) + more
    family = 0x11 if address.version == 4 else 0x21
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack(">BBH", 0x21, family, len(block)) + block


LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


async def test_what_a_trusted_proxy_adds_is_taken_and_what_others_say_is_not(start_gateway, user):
    gateway = await start_gateway(**TRUSTED)
    said = {"X-Forwarded-For": f"6.6.6.6, {CLIENT}, 10.1.1.1", "Forwarded": "for=6.6.6.6"}
    async with WebSocket(gateway, user, additional_headers=said), EventStream(gateway, f"{user}-s", headers=said):
        assert await addresses(gateway) == [CLIENT, CLIENT]
        async with WebSocket(gateway, f"{user}-x", additional_headers=said, local_addr=(STRANGER, 0)) as socket:
            port = socket.socket.transport.get_extra_info("sockname")[1]
            assert await addresses(gateway, f"{user}-x") == [f"{STRANGER}:{port}"]
    async with WebSocket(gateway, user, additional_headers={"X-Forwarded-For": f"{CLIENT}, unknown"}):
        assert (await addresses(gateway, user))[0].startswith("127.0.0.1:"), "nobody is told apart behind that"


async def test_the_header_is_the_one_that_is_configured(start_gateway, user):
    gateway = await start_gateway(**TRUSTED, SERVER_FORWARDED_HEADER="Forwarded")
    said = {"X-Forwarded-For": "6.6.6.6", "Forwarded": 'for=6.6.6.6, For="[2001:db8::7]:4711";proto=https'}
    async with WebSocket(gateway, user, additional_headers=said):
        assert await addresses(gateway) == ["[2001:db8::7]:4711"]


async def test_limits_go_by_the_client_and_not_by_its_proxy(start_gateway, user):
    """Over one connection of the proxy too, on which requests of many clients follow each other."""
    gateway = await start_gateway(**TRUSTED, RATELIMIT_ENABLED="true", RATELIMIT_HTTP_REQUESTS_PER_SECOND="1",
                                  RATELIMIT_HTTP_BURST_SIZE="5", RATELIMIT_AUTH_FAILURES_PER_MINUTE="2",
                                  RATELIMIT_WS_CONNECTIONS_PER_MINUTE="1")
    async with httpx.AsyncClient(base_url=gateway.url, limits=httpx.Limits(max_connections=1)) as proxy:
        for client in ("192.0.2.1", "192.0.2.2", "2001:db8:1:1::1", "2001:db8:1:2::1"):
            said = {"X-Forwarded-For": client}
            lefts = [(await proxy.get("/openapi.json", headers=said)).headers["x-ratelimit-remaining"] for _ in range(3)]
            assert lefts == ["4", "3", "2"], client
        neighbour = await proxy.get("/openapi.json", headers={"X-Forwarded-For": "2001:db8:1:1:ffff::"})
        assert int(neighbour.headers["x-ratelimit-remaining"]) <= 2, "of the same /64"
        for status in (401, 401, 429):
            answer = await proxy.get("/stats", headers={"X-Forwarded-For": "192.0.2.3", "X-API-Key": "wrong"})
            assert answer.status_code == status
        answer = await proxy.get("/stats", headers={"X-Forwarded-For": "192.0.2.4", "X-API-Key": API_KEY})
        assert answer.status_code == 200
        # A client on a connection that was a caller's before.
        sse = gateway.sse_url(make_token(user))
        async with proxy.stream("GET", sse, headers={"X-Forwarded-For": "192.0.2.5"}) as first:
            assert first.status_code == 200
            assert await addresses(gateway) == ["192.0.2.5"]
        again = await proxy.get(sse, headers={"X-Forwarded-For": "192.0.2.5"})
        assert_error(again, 429, "RATE_LIMITED")
        async with proxy.stream("GET", sse, headers={"X-Forwarded-For": "192.0.2.6"}) as other:
            assert other.status_code == 200


async def test_the_audit_log_names_the_client(start_gateway):
    gateway = await start_gateway(**TRUSTED, RUST_LOG_FORMAT="json")
    async with httpx.AsyncClient(base_url=gateway.url) as proxy:
        await proxy.get("/stats", headers={"X-Forwarded-For": CLIENT, "X-API-Key": "wrong"})
    await wait_until(lambda: audit(gateway, "key_refused", peer=CLIENT), what="an audit line")


@pytest.mark.parametrize("header,expected", [
    (v1(CLIENT), f"{CLIENT}:5000"), (v2(CLIENT), f"{CLIENT}:5000"), (v1("2001:db8::7"), "[2001:db8::7]:5000"),
    (v2("2001:db8::7", more=b"\x04\0\x02\0\0"), "[2001:db8::7]:5000"),
    (b"PROXY UNKNOWN\r\n", "127.0.0.1:"), (LOCAL, "127.0.0.1:"),
], ids=["1-ipv4", "2-ipv4", "1-ipv6", "2-ipv6-more", "1-unknown", "2-local"])
async def test_a_proxy_protocol_header_names_the_client(start_gateway, user, header, expected):
    gateway = await start_gateway(SERVER_PROXY_PROTOCOL="true", wait_for=None)
    async with RawConnection(gateway) as socket, RawConnection(gateway) as slow, RawConnection(gateway) as caller:
        await socket.send(header + socket.upgrade_request(make_token(user), X_Forwarded_For="6.6.6.6"))
        assert (await socket.head())[0] == 101
        for byte in header:
            await slow.send(bytes([byte]))
        await slow.send(slow.upgrade_request(make_token(user)))
        assert (await slow.head())[0] == 101
        # One header for all requests of the connection.
        await caller.send(header)
        for _ in range(2):
            await caller.send(caller.request("GET", "/api/v1/connections", X_API_Key=API_KEY))
            status, _, body = await caller.response()
            shown = [connection["address"] for connection in httpx.Response(200, content=body).json()["connections"]]
            assert status == 200 and len(shown) == 2 and all(one.startswith(expected) for one in shown), shown


# Another gateway has shown the document that refusals are held against.
@pytest.mark.usefixtures("gateway")
@pytest.mark.parametrize("sent", [
    b"", b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", b"PROXY TCP4 1.2.3.999 1.2.3.4 1 2\r\n", b"PROXY TCP4 " + b"1" * 200,
    b"\r\n\r\n\0\r\nQUIT\n\x41\x11\0\x0c" + bytes(12), b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + bytes(5000),
], ids=["none", "short", "no-address", "endless", "version-4", "huge"])
async def test_where_a_header_is_expected_nothing_else_is_taken(start_gateway, sent):
    gateway = await start_gateway(SERVER_PROXY_PROTOCOL="true", wait_for=None)
    async with RawConnection(gateway) as connection:
        await connection.send(sent + connection.request("GET", "/health"))
        status, _, body = await connection.response()
        assert status == 400 and b"server.proxy_protocol" in body
    await wait_until(lambda: "server.proxy_protocol" in gateway.log(), what="a line in the log")


async def test_with_trusted_proxies_only_those_send_a_header(start_gateway, user):
    gateway = await start_gateway(SERVER_PROXY_PROTOCOL="true", SERVER_TRUSTED_PROXIES=STRANGER)
    async with RawConnection(gateway, local_address=STRANGER) as proxied, WebSocket(gateway, f"{user}-2"):
        await proxied.send(v2(CLIENT) + proxied.upgrade_request(make_token(user)))
        assert (await proxied.head())[0] == 101
        assert await addresses(gateway, user) == [f"{CLIENT}:5000"]
    async with RawConnection(gateway) as forger:
        await forger.send(v2(CLIENT) + forger.request("GET", "/health"))
        status, _, body = await forger.response()
        assert status == 400 and b"not expected here" in body
