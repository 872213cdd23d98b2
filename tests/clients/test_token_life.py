"""A token's whole life: a connection ends when its token does, unless another token has come.

Property: closed with 4401 (on SSE by an `error` event) when `exp` and the leeway are over, and not before; `Refresh` takes
the place of the token, and what the new one forbids is unsubscribed. Why it matters: whoever has lost the right to listen
must not go on for as long as a connection lasts.
"""

import asyncio
import json
import time
from datetime import datetime

import pytest
import websockets

from clients import EventStream, WebSocket
from conftest import gateway_module_fixture
from gateway import make_token, wait_until
from keys import FROM_FILE, entry, reload

gateway = gateway_module_fixture(JWT_LEEWAY_SECONDS="0", TENANT_ENABLED="true", SHARDS_COUNT="4", QUEUE_ENABLED="true")


def soon(seconds: int = 2) -> int:
    return int(time.time()) + seconds


def told(expires_at: str) -> float:
    return datetime.fromisoformat(expires_at.replace("Z", "+00:00")).timestamp()


async def refresh(socket: WebSocket, user: str, **claims):
    await socket.send({"type": "Refresh", "payload": {"token": make_token(user, **claims)}})


async def closed_at(socket: WebSocket) -> float:
    assert await socket.close_code(120) == 4401
    return time.time()


async def test_a_websocket_ends_with_its_token(gateway, user):
    end = soon()
    async with WebSocket(gateway, user, claims={"exp": end}) as socket, WebSocket(gateway, f"{user}-2") as other:
        assert told(socket.connected["expires_at"]) == end
        await gateway.send(user, payload=1)
        assert (await socket.notification())["payload"] == 1
        assert end <= await closed_at(socket) <= end + 3
        assert socket.socket.close_reason == "token expired"
        await other.assert_nothing_waits()
        assert (await gateway.send(user, payload=2))["queued"], "its user is away now"
    assert (await gateway.get_ok("/stats"))["connections"]["expired"] >= 1


async def test_a_stream_ends_with_an_error_event_and_comes_back_with_a_fresh_token(gateway, user):
    end = soon()
    async with EventStream(gateway, user, claims={"exp": end}) as stream:
        assert told(stream.connected["expires_at"]) == end
        event = await stream.expect("error", 10)
        assert end <= time.time() <= end + 3
        error = json.loads(event.data)
        assert (error["code"], error["message"]) == ("TOKEN_EXPIRED", "token expired")
        assert event.retry == 3000
        with pytest.raises(AssertionError, match="the stream ended"):
            await stream.event()
    await gateway.send(user, payload="meanwhile")
    async with EventStream(gateway, user) as stream:
        assert (await stream.notification())["payload"] == "meanwhile"


async def test_a_refresh_keeps_the_connection_and_a_second_one_may_end_it_sooner(gateway, user):
    end, later = soon(), soon(3600)
    async with WebSocket(gateway, user, claims={"exp": end}) as socket, WebSocket(gateway, user) as second:
        await refresh(socket, user, exp=later)
        answer = await socket.expect("refreshed")
        assert told(answer["expires_at"]) == later
        await wait_until(lambda: time.time() > end + 0.5, what="the first token's end")
        await socket.assert_nothing_waits()
        assert (await gateway.send(user))["delivered_to"] == 2
        await socket.notification()
        # The other was to live for an hour.
        end = soon(1)
        await refresh(second, user, exp=end)
        await second.notification()
        await second.expect("refreshed")
        assert await closed_at(second) <= end + 3
        await socket.assert_nothing_waits()
    assert (await gateway.get_ok("/stats"))["connections"]["tokens_refreshed"] >= 2


async def test_what_the_new_token_forbids_is_unsubscribed(gateway, user):
    async with WebSocket(gateway, user) as socket:
        await socket.subscribe("news.de", "news.fr", "sport")
        await refresh(socket, user, channels=["news.*"], roles=["admin"])
        assert (await socket.expect("unsubscribed"))["payload"] == ["sport"]
        await socket.expect("refreshed")
        await socket.send({"type": "Subscribe", "payload": {"channels": ["sport"]}})
        await socket.error("FORBIDDEN_CHANNEL")
        audience = {"type": "Roles", "value": ["admin"]}
        for channel in ("sport", "news.de"):
            await gateway.trigger("channel", channel=channel, payload=channel, audience=audience)
        assert (await socket.notification())["payload"] == "news.de"
        await socket.assert_nothing_waits()


async def test_a_token_that_is_not_valid_or_not_its_own_changes_nothing(gateway, user):
    end = soon(3)
    async with WebSocket(gateway, user, claims={"exp": end}) as socket:
        for token, part in ((make_token(user, secret="x" * 40), "signature"), (make_token(user, exp=1), "expired"),
                            ("nonsense", "malformed"), ("", "required"), (make_token(f"{user}-2"), "another user's"),
                            (make_token(user, tenant_id="red"), "another user's")):
            await socket.send({"type": "Refresh", "payload": {"token": token}})
            assert part in (await socket.error("UNAUTHORIZED"))["message"]
        await socket.send({"type": "Refresh", "payload": {}})
        await socket.error("INVALID_MESSAGE")
        assert end <= await closed_at(socket) <= end + 3
    assert make_token(user)[:20] not in gateway.log()


async def test_by_configuration_a_connection_outlives_its_token(start_gateway, user):
    config = entry("all", "a-key-0123456789abcdef", "read")
    gateway = await start_gateway(**FROM_FILE, files={"config.toml": config + "[jwt]\nleeway_seconds = 0\nexpire_connections = false\n"})
    end = soon(1)
    async with WebSocket(gateway, user, claims={"exp": end}) as socket:
        assert "expires_at" not in socket.connected
        await wait_until(lambda: time.time() > end + 1, what="the token's end")
        await socket.assert_nothing_waits()
        await refresh(socket, user)
        assert await socket.expect("refreshed") == {"type": "refreshed"}
        # From then on, for who connects and who shows another token.
        outcome = await reload(gateway, config + "[jwt]\nleeway_seconds = 0\nexpire_connections = true\n")
        assert outcome["keys"] == "jwt.expire_connections"
        await socket.assert_nothing_waits()
        await refresh(socket, user, exp=soon(1))
        await socket.expect("refreshed")
        await closed_at(socket)


async def test_a_change_of_the_secret_cuts_nobody_off(start_gateway, user):
    before, after = "the-secret-of-before-0123456789-abcdef", "the-secret-of-now-0123456789-abcdef-xyz"
    keys = entry("all", "a-key-0123456789abcdef", "read")
    gateway = await start_gateway(**FROM_FILE, JWT_SECRET=None,
                                  files={"config.toml": keys + f'[jwt]\nsecret = "{before}"\n'})

    def signed(secret: str, name: str) -> dict:
        return {"user": name, "token": make_token(name, secret=secret)}

    async with WebSocket(gateway, **signed(before, user)) as old:
        outcome = await reload(gateway, keys + f'[jwt]\nsecret = "{after}"\nprevious_secret = "{before}"\n')
        assert sorted(outcome["keys"].split(", ")) == ["jwt.previous_secret", "jwt.secret"]
        for secret in (before, after):
            async with WebSocket(gateway, **signed(secret, user)) as socket:
                await socket.send({"type": "Refresh", "payload": {"token": make_token(user, secret=after)}})
                await socket.expect("refreshed")
        await reload(gateway, keys + f'[jwt]\nsecret = "{after}"\n')
        with pytest.raises(websockets.InvalidStatus):
            await WebSocket(gateway, **signed(before, user)).__aenter__()
        async with WebSocket(gateway, **signed(after, user)):
            await old.assert_nothing_waits()
    assert before not in gateway.log() and after not in gateway.log()


async def test_many_connections_end_at_the_same_moment(start_gateway, user):
    """More than one shard sends away in a turn."""
    gateway = await start_gateway(SHARDS_COUNT="1", JWT_LEEWAY_SECONDS="0")
    many, at_once = 700, 50

    async def open_some(first: int, **claims) -> list[WebSocket]:
        opening = (WebSocket(gateway, f"{user}-{n}", claims=claims).__aenter__() for n in range(first, first + at_once))
        return await asyncio.gather(*opening)

    began = time.monotonic()
    for socket in await open_some(many):
        await socket.__aexit__(None, None, None)
    # Late enough that all are there, however slow this machine is.
    end = soon(4 + int(3 * (time.monotonic() - began) * many / at_once))
    sockets = [socket for first in range(0, many, at_once) for socket in await open_some(first, exp=end)]
    moments = await asyncio.gather(*(closed_at(socket) for socket in sockets))
    assert end <= min(moments) and max(moments) <= end + 5
    await gateway.wait_for_connections(0)
