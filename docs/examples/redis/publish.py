"""Sends a notification through Redis: pip install redis

    publish.py USER EVENT_TYPE PAYLOAD

REDIS_URL is the server that the gateway listens to.
"""

import json
import os
import sys

import redis


def send(user: str, event_type: str, payload) -> int:
    message = {"type": "user", "target": user, "event": {"event_type": event_type, "payload": payload}}
    with redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1/")) as server:
        # How many gateways have it; 0 = none listens, and it is lost.
        return server.publish(f"notification:user:{user}", json.dumps(message))


if __name__ == "__main__":
    user, event_type, payload = sys.argv[1:]
    if send(user, event_type, json.loads(payload)) == 0:
        sys.exit("no gateway listens")
