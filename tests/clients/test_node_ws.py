"""npm ws, the client of most Node services, connects, is served, refused and closed as the contract says."""

import json
import time

import pytest

from clients import node
from conftest import need
from gateway import make_token


def client(url: str, **settings):
    need("node")
    return node("ws_client.mjs", url, json.dumps(settings))


@pytest.mark.parametrize("way", ["query", "header", "protocol"])
async def test_npm_ws_is_served(gateway, user, channel, way):
    token = make_token(user)
    url, settings = {
        "query": (gateway.ws_url(token), {}),
        "header": (gateway.ws_url(), {"options": {"headers": {"Authorization": f"Bearer {token}"}}}),
        "protocol": (gateway.ws_url(), {"protocols": ["ara.v1", f"bearer.{token}"]}),
    }[way]
    async with client(url, **settings) as socket:
        opened = await socket.until(event="open", patience_s=10)
        assert opened["protocol"] == ("ara.v1" if way == "protocol" else "")

        async def message():
            return json.loads((await socket.until(event="message"))["text"])

        assert (await message())["type"] == "connected"
        await socket.command_line(send=json.dumps({"type": "Subscribe", "payload": {"channels": [channel]}}))
        assert await message() == {"type": "subscribed", "payload": [channel]}
        answer = await gateway.trigger("channel", channel=channel, payload={"é": "😀"})
        received = await message()
        assert (received["id"], received["payload"]) == (answer["notification_id"], {"é": "😀"})
        await socket.command_line(ping="are you there")
        assert (await socket.until(event="pong"))["text"] == "are you there"
        await socket.command_line(close=[1000, "done"])
        assert (await socket.until(event="close"))["code"] == 1000
        assert not any(line.get("binary") for line in socket.lines), "the gateway speaks text"


async def test_npm_ws_offering_compression_is_served(gateway, user):
    """ws offers permessage-deflate by default; without it in the answer both sides speak plain frames."""
    async with client(gateway.ws_url(make_token(user)), options={"perMessageDeflate": True}) as socket:
        await socket.until(event="message", patience_s=10)
        await gateway.send(user, payload={"text": "a" * 10_000})
        received = json.loads((await socket.until(event="message"))["text"])
        assert received["payload"]["text"] == "a" * 10_000


async def test_npm_ws_is_told_why_it_is_refused(gateway, user):
    async with client(gateway.ws_url(make_token(user, exp=int(time.time()) - 60))) as socket:
        refused = await socket.until(event="refused", patience_s=10)
        assert refused["status"] == 401 and json.loads(refused["body"])["error"]["code"] == "UNAUTHORIZED"


async def test_npm_ws_sees_the_close_code(gateway, user):
    async with client(gateway.ws_url(make_token(user))) as socket:
        await socket.until(event="message", patience_s=10)
        await socket.command_line(send="x" * 70_000)
        assert (await socket.until(event="close"))["code"] == 1009
