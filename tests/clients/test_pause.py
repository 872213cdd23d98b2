"""A client is silent only if it was asked and did not answer: neither a pause of the gateway nor a
configuration without heartbeats closes those that only receive.

Clients: raw sockets that answer pings, and the gateway's process stopped as a container is paused.
"""

import asyncio
import json
import signal
import time
from pathlib import Path

from gateway import Gateway, wait_until
from raw import CLOSE, PING, PONG, TEXT, RawWebSocket, frame

TIMEOUT_S = 2


async def stop_for(gateway: Gateway, seconds: float):
    """Stops the whole process for a while, as `docker pause` and a suspended machine do."""
    status = Path(f"/proc/{gateway.process.pid}/stat")
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        await wait_until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", what="stopped")
        # The pause itself: it has to be longer than the timeout.
        await asyncio.sleep(seconds)
    finally:
        gateway.process.send_signal(signal.SIGCONT)


async def answer_pings(client: RawWebSocket, until: float, wanted: int = 0) -> tuple[int, list[dict]]:
    """Answers every ping until then, or `wanted` of them; returns how many, and the messages but heartbeats."""
    pings, messages = 0, []
    while not wanted or pings < wanted:
        try:
            opcode, payload = await client.frame(patience_s=max(until - time.monotonic(), 0.01))
        except TimeoutError:
            break
        assert opcode != CLOSE, f"closed with {int.from_bytes(payload[:2])}: {payload[2:]!r}"
        if opcode == PING:
            pings += 1
            await client.send(frame(PONG, payload))
        elif opcode == TEXT and json.loads(payload)["type"] != "heartbeat":
            messages.append(json.loads(payload))
    return pings, messages


async def test_a_pause_of_the_whole_process_closes_no_client(start_gateway):
    gateway = await start_gateway(WEBSOCKET_HEARTBEAT_INTERVAL=1, WEBSOCKET_CONNECTION_TIMEOUT=TIMEOUT_S)
    async with RawWebSocket(gateway, "ann") as ann, RawWebSocket(gateway, "bob") as bob:
        for client in (ann, bob):
            pings, _ = await answer_pings(client, time.monotonic() + 5, wanted=1)
            assert pings == 1
        await stop_for(gateway, TIMEOUT_S * 2 + 1)
        end = time.monotonic() + TIMEOUT_S * 2
        sent = await gateway.send("bob")
        heard = await asyncio.gather(answer_pings(ann, end), answer_pings(bob, end))
        assert all(pings >= 2 for pings, _ in heard), heard
        assert sent["delivered_to"] == 1 and [message["type"] for message in heard[1][1]] == ["notification"]
        # A client that stays silent from now on is closed as usual.
        bob_task = asyncio.create_task(answer_pings(bob, time.monotonic() + TIMEOUT_S * 3))
        assert await ann.close_code(patience_s=TIMEOUT_S * 4) == 4408
        await bob_task


async def test_without_heartbeats_a_quiet_client_is_pinged_before_it_is_closed(start_gateway):
    gateway = await start_gateway(WEBSOCKET_HEARTBEAT_INTERVAL=0, WEBSOCKET_CONNECTION_TIMEOUT=1)
    async with RawWebSocket(gateway, "listener") as listener, RawWebSocket(gateway, "gone") as gone:
        task = asyncio.create_task(answer_pings(listener, time.monotonic() + 5))
        assert await gone.frame() == (PING, b""), "asked first, and without a heartbeat"
        assert await gone.close_code() == 4408
        pings, messages = await task
        assert pings >= 3 and not messages
    assert "websocket.heartbeat_interval" in gateway.log(), "the start says what it means"
