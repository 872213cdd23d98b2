"""Sends and receives notifications: pip install httpx httpx-sse websockets

    client.py send USER EVENT_TYPE PAYLOAD      with ARA_API_KEY
    client.py websocket [CHANNEL...]            with ARA_TOKEN
    client.py sse                               with ARA_TOKEN

ARA_URL is the gateway's address. What is received is printed, one line a notification.
"""

import asyncio
import json
import os
import sys
import uuid

import httpx
import httpx_sse
import websockets

URL = os.environ.get("ARA_URL", "http://127.0.0.1:8081")
BEARER = {"Authorization": f"Bearer {os.environ.get('ARA_TOKEN')}"}


def handle(notification: dict):
    """Your code. It may see a notification twice: its id tells."""
    print(json.dumps(notification), flush=True)


def send(user: str, event_type: str, payload) -> dict:
    response = httpx.post(
        f"{URL}/api/v1/notifications/send",
        json={"target_user_id": user, "event_type": event_type, "payload": payload},
        # With the same key the request can be repeated after a failure: it is sent once.
        headers={"X-API-Key": os.environ["ARA_API_KEY"], "Idempotency-Key": str(uuid.uuid4())},
    )
    response.raise_for_status()
    return response.json()


async def receive_by_websocket(channels: list[str]):
    url = URL.replace("http", "ws", 1) + "/ws"
    # This loop connects again, each time a little later, until it succeeds.
    async for socket in websockets.connect(url, additional_headers=BEARER):
        try:
            if channels:
                await socket.send(json.dumps({"type": "Subscribe", "payload": {"channels": channels}}))
            async for text in socket:
                message = json.loads(text)
                if message["type"] == "notification":
                    handle(message)
                    await socket.send(json.dumps({"type": "Ack", "payload": {"notification_id": message["id"]}}))
                elif message["type"] == "shutdown":
                    await asyncio.sleep(message["reconnect_after_seconds"])
        except websockets.ConnectionClosed:
            pass


async def receive_by_sse():
    last_event_id, retry_s = "", 3.0
    async with httpx.AsyncClient(base_url=URL, headers=BEARER, timeout=httpx.Timeout(10, read=90)) as client:
        while True:
            try:
                resume = {"Last-Event-ID": last_event_id} if last_event_id else {}
                async with httpx_sse.aconnect_sse(client, "GET", "/sse", headers=resume) as source:
                    source.response.raise_for_status()
                    async for event in source.aiter_sse():
                        last_event_id = event.id or last_event_id
                        retry_s = event.retry / 1000 if event.retry is not None else retry_s
                        if event.event == "notification":
                            handle(json.loads(event.data))
                            await client.post("/api/v1/acks", json={"notification_ids": [event.id]})
            except httpx.TransportError as problem:
                print(f"connecting again: {problem!r}", file=sys.stderr)
            await asyncio.sleep(retry_s)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["send", user, event_type, payload]:
            print(json.dumps(send(user, event_type, json.loads(payload))))
        case ["websocket", *channels]:
            asyncio.run(receive_by_websocket(channels))
        case ["sse"]:
            asyncio.run(receive_by_sse())
        case _:
            sys.exit(__doc__)
