"""Sends many notifications through Redis, a hundred in a message: pip install redis

    publish_batch.py [--stop-on-error] [--deduplicate] < NOTIFICATIONS

One notification a line: {"target": {"type": "user", "value": "anna"}, "event_type": "hello", "payload": {}}.
REDIS_URL is the server that the gateway listens to.
"""

import json
import os
import sys

import redis

ITEMS_MAX = 100
BYTES_MAX = 1024 * 1024


def messages(notifications: list[str], options: dict):
    """Batches of these notifications, none with too many or too long for a message."""
    head = '{"type":"batch","options":%s,"notifications":[' % json.dumps(options)
    batch, size = [], 0
    for notification in notifications:
        length = len(notification.encode()) + 1
        if batch and (len(batch) == ITEMS_MAX or len(head) + size + length + 2 > BYTES_MAX):
            yield f"{head}{','.join(batch)}]}}"
            batch, size = [], 0
        batch.append(notification)
        size += length
    if batch:
        yield f"{head}{','.join(batch)}]}}"


if __name__ == "__main__":
    options = {"stop_on_error": "--stop-on-error" in sys.argv, "deduplicate": "--deduplicate" in sys.argv}
    notifications = [line.strip() for line in sys.stdin if line.strip()]
    with redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1/")) as server:
        for message in messages(notifications, options):
            # Nobody answers: what is wrong with one is in the gateway's log and figures, and the others are sent.
            if server.publish("notification:broadcast", message) == 0:
                sys.exit("no gateway listens")
