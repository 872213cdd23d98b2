"""A page of an allowed origin uses the gateway with the browser's own means; a page of another origin cannot.

Client: headless Chromium with its own WebSocket, EventSource and fetch, driven by playwright-core.
"""

import asyncio
import json
from urllib.parse import quote

from clients import node
from conftest import need
from gateway import API_KEY, make_token

START_S = 40


def browser(gateway, origin: str, user: str, channel: str, cookie: str | None = None):
    """`cookie`: the name of the cookie that holds the token, which is nowhere else then."""
    need("node")
    token = make_token(user)
    shown = {"protocols": ["ara.v1", f"bearer.{token}"], "stream": gateway.sse_url(token)}
    if cookie:
        shown = {"protocols": [], "stream": gateway.sse_url(), "cookie": f"{cookie}={token}"}
    settings = {"socket": gateway.ws_url(), "api": gateway.url, "key": API_KEY, "channel": channel} | shown
    return node("browser.mjs", need("chromium"), f"{origin}/page.html#{quote(json.dumps(settings))}")


async def collect(page, *events: str, patience_s: float = START_S) -> dict[str, dict]:
    """Reads until each of these events was seen, in any order; returns the last of each."""
    seen = {}
    async with asyncio.timeout(patience_s):
        while not set(events) <= set(seen):
            line = await page.next(patience_s)
            seen[line.get("event")] = line
    return seen


async def test_a_page_of_an_allowed_origin_receives_and_sends(start_gateway, pages):
    origin = f"http://127.0.0.1:{pages}"
    gateway = await start_gateway(CORS_ORIGINS=f"https://app.example,{origin}")
    async with browser(gateway, origin, "visitor", "news") as page:
        seen = await collect(page, "ws-open", "ws-message", "sse-connected", "loaded")
        assert seen["ws-open"]["protocol"] == "ara.v1"
        if json.loads(seen["ws-message"]["text"])["type"] == "connected":
            seen = await collect(page, "ws-message")
        assert json.loads(seen["ws-message"]["text"]) == {"type": "subscribed", "payload": ["news"]}

        for kind, target in (("send", {"target_user_id": "visitor"}), ("channel", {"channel": "news"})):
            answer = await gateway.trigger(kind, payload={"text": "é 😀 \u2028"}, **target)
            assert answer["delivered_to"] == 2
            seen = await collect(page, "ws-message", "sse-notification")
            assert json.loads(seen["ws-message"]["text"]) == json.loads(seen["sse-notification"]["text"])
            assert seen["sse-notification"]["id"] == answer["notification_id"]

        body = {"target_user_id": "visitor", "event_type": "from.page", "payload": {"n": 1}}
        path = "/api/v1/notifications/send"
        await page.command_line(evaluate=f"send({json.dumps(path)}, {json.dumps(body)})")
        seen = await collect(page, "fetch", "ws-message", "sse-notification")
        assert seen["fetch"]["status"] == 200 and seen["fetch"]["body"]["delivered_to"] == 2
        assert json.loads(seen["ws-message"]["text"])["id"] == seen["fetch"]["body"]["notification_id"]

        await page.command_line(evaluate='call("/health")')
        assert (await collect(page, "fetch"))["fetch"]["body"]["status"] == "healthy"
        # An error is readable by the page too, not a bare network failure.
        await page.command_line(evaluate='send("/api/v1/notifications/send", {})')
        seen = await collect(page, "fetch")
        assert seen["fetch"]["status"] == 400
        assert seen["fetch"]["body"]["error"]["code"] == "VALIDATION_ERROR"

        gateway.signal()
        assert (await collect(page, "ws-close"))["ws-close"]["code"] == 1001
        await page.command_line(quit=True)
        await collect(page, "quit")


async def test_a_page_of_a_listed_origin_connects_with_its_cookie(start_gateway, pages):
    origin = f"http://127.0.0.1:{pages}"
    gateway = await start_gateway(CORS_ORIGINS=origin, JWT_COOKIE="ara_token")
    async with browser(gateway, origin, "visitor", "news", cookie="ara_token") as page:
        await collect(page, "ws-open", "ws-message", "sse-connected", "loaded")
        assert (await gateway.send("visitor", payload=1))["delivered_to"] == 2
        seen = await collect(page, "sse-notification")
        assert json.loads(seen["sse-notification"]["text"])["payload"] == 1
        await page.command_line(quit=True)
        await collect(page, "quit")


async def test_a_page_of_another_origin_has_no_use_of_the_cookie(start_gateway, pages):
    gateway = await start_gateway(CORS_ORIGINS="https://app.example", JWT_COOKIE="ara_token")
    async with browser(gateway, f"http://127.0.0.1:{pages}", "visitor", "news", cookie="ara_token") as page:
        seen = await collect(page, "ws-close", "sse-broken", "loaded")
        assert seen["ws-close"]["code"] == 1006
        await page.command_line(quit=True)
        await collect(page, "quit")
    await gateway.wait_for_connections(0)


async def test_a_page_of_another_origin_is_refused(start_gateway, pages):
    gateway = await start_gateway(CORS_ORIGINS="https://app.example")
    async with browser(gateway, f"http://127.0.0.1:{pages}", "visitor", "news") as page:
        seen = await collect(page, "ws-close", "sse-broken", "loaded")
        assert seen["ws-close"]["code"] == 1006
        body = {"target_user_id": "visitor", "event_type": "e", "payload": {}}
        for call in ('call("/health")', f'send("/api/v1/notifications/send", {json.dumps(body)})'):
            await page.command_line(evaluate=call)
            await collect(page, "fetch-failed")
        events = {line.get("event") for line in page.lines if isinstance(line, dict)}
        assert not events & {"ws-open", "ws-message", "sse-connected", "sse-notification", "fetch"}
        await page.command_line(quit=True)
        await collect(page, "quit")
    await gateway.wait_for_connections(0)


TRACED = {"Cache-Control": "no-cache", "Last-Event-ID": "01a2033e-2914-7543-b8f7-69588ca79ea1",
          "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
          "tracestate": "a=b", "baggage": "c=d"}


async def test_a_page_of_a_listed_origin_uses_credentials_and_the_headers_of_its_libraries(start_gateway, pages):
    origin = f"http://127.0.0.1:{pages}"
    gateway = await start_gateway(CORS_ORIGINS=f"*,{origin}")
    async with browser(gateway, origin, "visitor", "news") as page:
        await collect(page, "loaded", "sse-connected")
        await page.command_line(evaluate='listen("cookies", {withCredentials: true})')
        await collect(page, "cookies-connected")
        for options in ({"headers": TRACED}, {"headers": TRACED, "credentials": "include"}):
            await page.command_line(evaluate=f"stream({json.dumps(options)})")
            assert (await collect(page, "fetch-stream"))["fetch-stream"]["status"] == 200
            await page.command_line(evaluate=f'call("/health", {json.dumps(options)})')
            assert (await collect(page, "fetch"))["fetch"]["status"] == 200

        path, body = "/api/v1/notifications/send", {"target_user_id": "visitor", "event_type": "e", "payload": 1}
        post = f"send({json.dumps(path)}, {json.dumps(body)}, {json.dumps(TRACED | {'Idempotency-Key': 'k'})})"
        for replayed in (None, "true"):
            await page.command_line(evaluate=post)
            seen = (await collect(page, "fetch"))["fetch"]
            assert seen["status"] == 200 and seen["headers"].get("idempotent-replayed") == replayed, seen
        await page.command_line(quit=True)
        await collect(page, "quit")


async def test_a_page_that_only_the_star_allows_has_no_credentials(start_gateway, pages):
    gateway = await start_gateway(CORS_ORIGINS="*")
    async with browser(gateway, f"http://127.0.0.1:{pages}", "visitor", "news") as page:
        await collect(page, "loaded", "sse-connected", "ws-open")
        await page.command_line(evaluate='call("/health")')
        assert (await collect(page, "fetch"))["fetch"]["status"] == 200
        await page.command_line(evaluate='listen("cookies", {withCredentials: true})')
        assert (await collect(page, "cookies-broken"))["cookies-broken"]["state"] == 2
        await page.command_line(evaluate='call("/health", {credentials: "include"})')
        await collect(page, "fetch-failed")
        events = {line.get("event") for line in page.lines if isinstance(line, dict)}
        assert "cookies-connected" not in events
        await page.command_line(quit=True)
        await collect(page, "quit")
