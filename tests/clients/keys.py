"""API keys of the configuration, the configuration changed under a running gateway, and the audit log.

The gateways here log JSON, have no API_KEY, and read a config.toml that the test writes.
"""

import hashlib
import json
import os
import signal

from gateway import Gateway, wait_until

# What the environment sets cannot change: these come from the file.
FROM_FILE = {"API_KEY": None, "RUST_LOG_FORMAT": "json"}


def entry(name: str, secret: str, *scopes: str, tenant: str | None = None, not_after: str | None = None) -> str:
    """One [[api.keys]] table."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    lines = ["[[api.keys]]", f'name = "{name}"', f'sha256 = "{digest}"', f"scopes = {json.dumps(list(scopes))}"]
    lines += [f'tenant = "{tenant}"'] if tenant else []
    lines += [f"not_after = {not_after}"] if not_after else []
    return "\n".join(lines) + "\n"


def lines(gateway: Gateway, **wanted) -> list[dict]:
    """The log's lines that have all these fields."""
    parsed = [json.loads(line) for line in gateway.log().splitlines() if line.startswith("{")]
    return [line for line in parsed if all(line.get(key) == value for key, value in wanted.items())]


def audit(gateway: Gateway, event: str, **wanted) -> list[dict]:
    return lines(gateway, target="audit", event=event, **wanted)


def write(gateway: Gateway, text: str):
    """Replaces the configuration at once, as a deployment does."""
    new = gateway.folder / "config.toml.new"
    new.write_text(text)
    os.replace(new, gateway.folder / "config.toml")


def hang_up(gateway: Gateway):
    gateway.process.send_signal(signal.SIGHUP)


async def reload(gateway: Gateway, text: str) -> dict:
    """Writes the configuration, sends SIGHUP, and returns what the audit log says came of it."""
    before = len(audit(gateway, "reload"))
    write(gateway, text)
    hang_up(gateway)
    await wait_until(lambda: len(audit(gateway, "reload")) > before, what="a reload")
    return audit(gateway, "reload")[before]
