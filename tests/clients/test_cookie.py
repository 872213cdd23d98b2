"""A token in a cookie: taken from pages that may connect, and from nobody else.

Property: without a listed `Origin`, or a browser's word that the page is the gateway's own, a cookie opens nothing. Why it
matters: a browser sends cookies for whatever page asks, so any page of the web could listen in its visitors' names.
"""

import httpx
import pytest
import websockets

from clients import EventStream, WebSocket
from conftest import gateway_module_fixture
from gateway import ALLOWED_ORIGIN, assert_error, make_token

gateway = gateway_module_fixture(JWT_COOKIE="ara_token", QUEUE_ENABLED="true", ACK_ENABLED="true")
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


def cookie(user: str, before: str = "theme=dark; ", name: str = "ara_token") -> dict[str, str]:
    return {"Cookie": f"{before}{name}={make_token(user)}"}


def socket_of(gateway, user: str, **headers) -> WebSocket:
    return WebSocket(gateway, user, url=gateway.ws_url(), additional_headers=headers)


async def refusal_of(gateway, user: str, **headers) -> tuple[int, bytes]:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await socket_of(gateway, user, **headers).__aenter__()
    return refused.value.response.status_code, refused.value.response.body


async def test_a_page_of_a_listed_origin_connects_with_its_cookie(gateway, user):
    quoted = {"Cookie": f'ara_token="{make_token(user)}"'}
    for headers in (cookie(user), cookie(user, before=""), quoted, cookie(user, before="ara_tokens=x; =; broken; ")):
        async with socket_of(gateway, user, Origin=ALLOWED_ORIGIN, **headers) as socket:
            assert socket.connected["user_id"] == user
    async with socket_of(gateway, user, **cookie(user), **OWN_PAGE) as socket:
        assert socket.connected["user_id"] == user, "a page that the gateway's own host has served"


async def test_no_other_page_does(gateway, user):
    for headers in ({}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"}):
        status, body = await refusal_of(gateway, user, **cookie(user), **headers)
        assert status == 403 and b"listed origin" in body
    status, body = await refusal_of(gateway, user, **cookie(user), **OWN_PAGE, Origin="https://evil.example")
    assert status == 403 and b"FORBIDDEN" in body
    status, _ = await refusal_of(gateway, user, **cookie(user, name="other"), Origin=ALLOWED_ORIGIN)
    assert status == 401
    status, body = await refusal_of(gateway, user, Cookie="ara_token=no.token.atall", Origin=ALLOWED_ORIGIN)
    assert status == 401 and b"malformed" in body


async def test_a_token_that_is_shown_counts_before_the_cookie(gateway, user):
    # It needs no page.
    async with WebSocket(gateway, user, additional_headers=cookie("someone-else")) as socket:
        assert socket.connected["user_id"] == user
    headers = {"Authorization": f"Bearer {make_token(user)}"} | cookie("someone-else")
    async with socket_of(gateway, user, **headers) as socket:
        assert socket.connected["user_id"] == user


async def test_streams_and_acknowledgements_take_it_too(gateway, user):
    headers = {"Origin": ALLOWED_ORIGIN} | cookie(user)
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        async with http.stream("GET", "/sse", headers=headers) as answer:
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == ALLOWED_ORIGIN
            assert answer.headers["access-control-allow-credentials"] == "true"
            sent = await gateway.send(user, payload=1)
            body = {"notification_ids": [sent["notification_id"]]}
            assert_error(await http.post("/api/v1/acks", json=body, headers=cookie(user)), 403, "FORBIDDEN")
            acked = await http.post("/api/v1/acks", json=body, headers=headers)
            assert acked.json()["acked"] == [sent["notification_id"]]
        assert_error(await http.get("/sse", headers=cookie(user)), 403, "FORBIDDEN")
        async with http.stream("GET", "/sse", headers=cookie(user) | OWN_PAGE) as answer:
            assert answer.status_code == 200
    assert make_token(user)[:20] not in gateway.log()


async def test_in_development_any_origin_is_not_a_listed_one(start_gateway, user):
    gateway = await start_gateway(JWT_COOKIE="ara_token", CORS_ORIGINS="*")
    status, _ = await refusal_of(gateway, user, **cookie(user), Origin="https://evil.example")
    assert status == 403
    async with WebSocket(gateway, user, additional_headers={"Origin": "https://evil.example"}):
        pass  # a token that is shown


async def test_without_configuration_no_cookie_is_looked_at(start_gateway, user):
    gateway = await start_gateway()
    status, _ = await refusal_of(gateway, user, **cookie(user), Origin=ALLOWED_ORIGIN)
    assert status == 401
    async with EventStream(gateway, user):
        pass
