"""Each way a WebSocket connection ends has its own close code, and no client ends another's.

Clients: a raw socket that breaks RFC 6455 in one point each, and PyPI websockets beside it.
"""

import asyncio
import json
import struct
import time

import pytest

from clients import WebSocket
from gateway import make_token
from raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawWebSocket, frame, json_frame

MAX_MESSAGE_BYTES = 65536

VIOLATIONS = {
    "unmasked-frame": (frame(TEXT, b'{"type":"Ping"}', masked=False), 1002),
    "reserved-bit-1": (frame(TEXT, b'{"type":"Ping"}', reserved=4), 1002),
    "reserved-bit-2": (frame(TEXT, b'{"type":"Ping"}', reserved=2), 1002),
    "reserved-bit-3": (frame(TEXT, b'{"type":"Ping"}', reserved=1), 1002),
    "reserved-opcode": (frame(0x3, b""), 1002),
    "reserved-control-opcode": (frame(0xB, b""), 1002),
    "fragmented-ping": (frame(PING, b"x", fin=False), 1002),
    "ping-too-long": (frame(PING, b"x" * 126), 1002),
    "continuation-of-nothing": (frame(CONTINUATION, b"x"), 1002),
    "message-inside-a-message": (frame(TEXT, b'{"ty', fin=False) + frame(TEXT, b"{}"), 1002),
    "close-with-one-byte": (frame(CLOSE, b"\x03"), 1002),
    "close-code-999": (frame(CLOSE, struct.pack(">H", 999)), 1002),
    "close-code-1005": (frame(CLOSE, struct.pack(">H", 1005)), 1002),
    "close-reason-not-utf8": (frame(CLOSE, struct.pack(">H", 1000) + b"\xff"), 1007),
    "text-not-utf8": (frame(TEXT, b'{"type":"\xff\xfe"}'), 1007),
    "text-not-utf8-across-fragments": (frame(TEXT, b'{"type":"\xc3', fin=False) + frame(CONTINUATION, b'"}'), 1007),
    "text-cut-inside-a-character": (frame(TEXT, b'"\xe2\x82'), 1007),
    "header-says-too-big": (frame(TEXT, b"x" * 100, declared=MAX_MESSAGE_BYTES + 1), 1009),
    "header-says-2-to-the-40": (frame(BINARY, b"", declared=1 << 40), 1009),
    "fragments-too-big-together":
        (frame(TEXT, b"x" * 40_000, fin=False) + frame(CONTINUATION, b"x" * 40_000), 1009),
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_is_closed_with_its_code(gateway, user, name):
    data, code = VIOLATIONS[name]
    async with RawWebSocket(gateway, user) as client:
        await client.send(data)
        assert await client.close_code() == code


async def test_the_largest_allowed_message_is_taken(gateway, user):
    text = b'{"type":"Ping"}'.ljust(MAX_MESSAGE_BYTES)
    async with RawWebSocket(gateway, user) as client:
        await client.send(frame(TEXT, text))
        assert (await client.message())["type"] == "pong"
        half = MAX_MESSAGE_BYTES // 2
        await client.send(frame(TEXT, text[:half], fin=False) + frame(CONTINUATION, text[half:]))
        assert (await client.message())["type"] == "pong"


async def test_a_message_limit_of_ones_own_is_kept(start_gateway, user):
    gateway = await start_gateway(WEBSOCKET_MAX_MESSAGE_BYTES=1000)
    async with RawWebSocket(gateway, user) as client:
        await client.send(frame(TEXT, b'{"type":"Ping"}'.ljust(1000)))
        assert (await client.message())["type"] == "pong"
        await client.send(frame(TEXT, b'{"type":"Ping"}'.ljust(1001)))
        assert await client.close_code() == 1009


@pytest.mark.parametrize("reason", [b"", b"bye"])
async def test_a_close_is_answered_with_its_code_and_the_socket_is_closed(gateway, user, reason):
    async with RawWebSocket(gateway, user) as client:
        await client.send(frame(CLOSE, struct.pack(">H", 1000) + reason))
        assert await client.close_code() == 1000


async def test_an_empty_close_is_answered(gateway, user):
    async with RawWebSocket(gateway, user) as client:
        await client.send(frame(CLOSE))
        assert await client.close_code() in (None, 1000)


async def test_a_frame_that_arrives_byte_by_byte_is_understood(gateway, user):
    async with RawWebSocket(gateway, user) as client:
        for byte in json_frame({"type": "Ping"}):
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.message())["type"] == "pong"


async def test_a_ping_between_fragments_is_answered_first(gateway, user):
    async with RawWebSocket(gateway, user) as client:
        await client.send(frame(TEXT, b'{"type":', fin=False) + frame(PING, b"now")
                          + frame(CONTINUATION, b'"Ping"}'))
        assert await client.frame() == (PONG, b"now")
        assert (await client.message())["type"] == "pong"


async def test_a_frame_sent_together_with_the_upgrade_request_is_not_lost(gateway, user):
    async with RawWebSocketWithEarlyFrame(gateway, user) as client:
        assert (await client.message())["type"] == "pong"


class RawWebSocketWithEarlyFrame(RawWebSocket):
    def upgrade_request(self, token, **headers):
        return super().upgrade_request(token, **headers) + json_frame({"type": "Ping"})


async def test_a_silent_client_is_closed_with_4408_and_one_that_only_answers_pings_is_not(start_gateway):
    """Heartbeats are sent on both levels; a client that answers with pongs counts as alive."""
    gateway = await start_gateway(WEBSOCKET_HEARTBEAT_INTERVAL=1, WEBSOCKET_CONNECTION_TIMEOUT=3)
    async with RawWebSocket(gateway, "silent") as silent, RawWebSocket(gateway, "polite") as polite:
        begin = time.monotonic()

        async def answer_pings(until_s: float) -> list[str]:
            seen = []
            while time.monotonic() < begin + until_s:
                opcode, payload = await polite.frame(patience_s=3)
                assert opcode in (PING, TEXT), (opcode, payload)
                if opcode == PING:
                    seen.append("ping")
                    await polite.send(frame(PONG, payload))
                else:
                    assert json.loads(payload) == {"type": "heartbeat"}
                    seen.append("heartbeat")
            return seen

        polite_task = asyncio.create_task(answer_pings(6.0))
        assert await silent.close_code(patience_s=8) == 4408
        took = time.monotonic() - begin
        assert 2.5 <= took <= 6.0, took
        seen = await polite_task
        assert seen.count("ping") >= 3 and seen.count("heartbeat") >= 3, seen
        await polite.send(json_frame({"type": "Ping"}))
        assert (await gateway.send("polite"))["delivered_to"] == 1
        await gateway.wait_for_connections(1)


async def test_a_heartbeat_comes_within_its_jittered_interval(start_gateway, user):
    gateway = await start_gateway(WEBSOCKET_HEARTBEAT_INTERVAL=1)
    async with RawWebSocket(gateway, user) as client:
        begin = time.monotonic()
        opcodes = {(await client.frame(patience_s=3))[0] for _ in range(2)}
        assert opcodes == {TEXT, PING}
        assert 0.7 <= time.monotonic() - begin <= 2.0


async def test_a_slow_consumer_is_closed_with_4429_and_delays_nobody(start_gateway):
    """A client that stops reading fills its own outbox only; the others of its shards notice nothing."""
    gateway = await start_gateway()
    payload = {"fill": "x" * 50_000}
    others = [f"fast-{n}" for n in range(4)]  # on both shards, the slow one's included
    async with RawWebSocket(gateway, "slow", receive_buffer=4096) as slow:
        clients = [WebSocket(gateway, token=make_token(name)) for name in others]
        for client in clients:
            await client.__aenter__()
        try:
            delivered = failed = 0
            for n in range(60):
                answer = await gateway.send("slow", payload=payload)
                delivered += answer["delivered_to"]
                failed += answer["failed"]
                for name, client in zip(others, clients, strict=True):
                    begin = time.monotonic()
                    assert (await gateway.send(name, payload=n))["delivered_to"] == 1
                    assert (await client.notification())["payload"] == n
                    assert time.monotonic() - begin < 1.0, f"{name} waited for the slow client"
                if failed:
                    break
            assert failed == 1, (delivered, failed)
            assert delivered * 50_000 >= 262_144 * 0.6, "the outbox was smaller than configured"

            # What is sent to the user from now on reaches nobody, and says so.
            await gateway.wait_for_connections(len(others))
            assert (await gateway.send("slow"))["delivered_to"] == 0

            received, code = 0, None
            while code is None:
                opcode, body = await slow.frame()
                if opcode == CLOSE:
                    code = struct.unpack(">H", body[:2])[0]
                elif opcode == TEXT:
                    assert json.loads(body)["payload"] == payload
                    received += 1
            assert code == 4429
            assert received <= delivered
        finally:
            for client in clients:
                await client.__aexit__()
