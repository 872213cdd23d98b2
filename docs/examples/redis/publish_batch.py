"""Sends several users a notification of their own with one message through Redis: pip install redis

    publish_batch.py EVENT_TYPE USER=PAYLOAD...

REDIS_URL is the server that the gateway listens to. A batch has at most 100 notifications; one that is not valid is
counted and logged by the gateway, and the others are sent.
"""

import json
import os
import sys

import redis


def notification(user: str, event_type: str, payload) -> dict:
    return {"target": {"type": "user", "value": user}, "event_type": event_type, "payload": payload}


def send(notifications: list[dict]) -> int:
    message = {"type": "batch", "notifications": notifications}
    with redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1/")) as server:
        # How many gateways have it; 0 = none listens, and it is lost.
        return server.publish("notification:broadcast", json.dumps(message))


if __name__ == "__main__":
    event_type, *given = sys.argv[1:]
    pairs = (text.partition("=") for text in given)
    if send([notification(user, event_type, json.loads(payload)) for user, _, payload in pairs]) == 0:
        sys.exit("no gateway listens")
