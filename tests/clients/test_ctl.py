"""`ara-gateway ctl` against a running gateway: what an operator types, and what comes of it.

Property: each command does what its call of the API does, prints JSON to programs and a table to people, and a failure is an exit
code with the reason.
"""

import asyncio
import json

import pytest

from clients import WebSocket
from conftest import gateway_module_fixture
from gateway import API_KEY, run_cli

gateway = gateway_module_fixture(QUEUE_ENABLED="true", ACK_ENABLED="true")


async def ctl(gateway, *words, code: int = 0, **environment):
    settings = {"ARA_URL": gateway.url, "ARA_API_KEY": API_KEY} | environment
    settings = {name: value for name, value in settings.items() if value is not None}
    done = await asyncio.to_thread(run_cli, "ctl", *words, cwd=gateway.folder, **settings)
    assert done.returncode == code, done.stdout + done.stderr
    assert API_KEY not in done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


async def as_json(gateway, *words, **environment):
    return json.loads(await ctl(gateway, *words, "--json", **environment))


async def test_connections_and_kick(gateway, user, channel):
    async with WebSocket(gateway, user) as client, WebSocket(gateway, f"{user}-b"):
        await client.subscribe(channel)
        listed = (await as_json(gateway, "connections", "--channel", channel))["connections"]
        assert [entry["connection_id"] for entry in listed] == [client.connected["connection_id"]]
        table = (await ctl(gateway, "connections", "--user", user)).splitlines()
        assert table[0].split()[:3] == ["CONNECTION_ID", "TENANT_ID", "USER_ID"] and len(table) == 2
        assert table[1].split()[:3] == [client.connected["connection_id"], "default", user]
        assert len((await ctl(gateway, "connections", "--limit", "1")).splitlines()) == 2
        assert (await as_json(gateway, "connections", "--transport", "sse")) == {"connections": []}
        assert await as_json(gateway, "kick", user, "--reason", "a b&c") == {"user_id": user, "disconnected": 1}
        assert await client.close_code() == 4403 and client.socket.close_reason == "a b&c"
        assert "USER_NOT_CONNECTED" in await ctl(gateway, "kick", user, code=1)


async def test_queue(gateway):
    user = "zoë/1"
    sent = (await gateway.send(user))["notification_id"]
    assert sent in await ctl(gateway, "queue", "show", user)
    assert (await as_json(gateway, "queue", "show", user, "--dead-letters"))["count"] == 0
    assert await as_json(gateway, "queue", "clear", user) == {"user_id": user, "cleared": 1}


async def test_templates(gateway):
    template = {"id": "greeting", "event_type": "hello", "payload_template": {"text": "Hello {{name}}"}}
    file = gateway.folder / "template.json"
    file.write_text(json.dumps(template))
    assert (await as_json(gateway, "templates", "put", str(file)))["id"] == "greeting"
    file.write_text(json.dumps(template | {"event_type": "good-day"}))
    assert (await as_json(gateway, "templates", "put", str(file)))["event_type"] == "good-day"
    assert "good-day" in await ctl(gateway, "templates", "list")
    assert (await as_json(gateway, "templates", "get", "greeting"))["payload_template"] == {"text": "Hello {{name}}"}
    shown = await as_json(gateway, "templates", "render", "greeting", '{"name":"Zoë"}')
    assert shown["payload"] == {"text": "Hello Zoë"}
    assert "MISSING_VARIABLE" in await ctl(gateway, "templates", "render", "greeting", code=1)
    assert await as_json(gateway, "templates", "delete", "greeting") == {}
    assert "TEMPLATE_NOT_FOUND" in await ctl(gateway, "templates", "get", "greeting", code=1)


async def test_drain(gateway, user):
    async with WebSocket(gateway, user) as client:
        begun = await as_json(gateway, "drain", "start", "--rate", "1000")
        assert begun["state"] == "draining" and begun["rate_per_second"] == 1000
        await client.expect("shutdown")
        assert "drained" in await ctl(gateway, "drain", "watch")
        assert "drained" in await ctl(gateway, "drain", "status")
    assert (await as_json(gateway, "drain", "stop"))["state"] == "off"


async def test_top(gateway, user):
    async with WebSocket(gateway, user):
        shown = await ctl(gateway, "top", "--once")
        assert "SHARD" in shown and "connections" in shown and "\x1b" not in shown
        assert "shards" in await as_json(gateway, "top", "--once")


@pytest.mark.parametrize(("words", "environment", "code", "told"), [
    (["top", "--once"], {"ARA_API_KEY": None}, 1, "ARA_API_KEY"),
    (["top", "--once"], {"ARA_API_KEY": "wrong-0123456789"}, 1, "the API key is not valid"),
    (["top", "--once"], {"ARA_URL": "http://127.0.0.1:1"}, 1, "no answer from http://127.0.0.1:1"),
    (["top", "--once"], {"ARA_URL": "https://127.0.0.1:1"}, 1, "http://"),
    (["top", "--once", "--api-key-file", "missing"], {}, 1, "missing cannot be read"),
    (["drain", "start"], {}, 2, "--rate"),
    (["drain", "start", "--rate", "1", "--seconds", "1"], {}, 2, "cannot be used with"),
    (["drain", "start", "--rate", "0"], {}, 1, "rate_per_second"),
    (["nonsense"], {}, 2, "nonsense"),
])
async def test_a_failure_says_why(gateway, words, environment, code, told):
    assert told in await ctl(gateway, *words, code=code, **environment)


async def test_the_key_may_be_in_a_file_and_the_tenant_is_sent(start_gateway):
    gateway = await start_gateway(TENANT_ENABLED="true")
    (gateway.folder / "key").write_text(f"{API_KEY}\n")
    words = ["queue", "show", "anna", "--api-key-file", "key"]
    assert "X-Tenant-ID" in await ctl(gateway, *words, code=1, ARA_API_KEY=None)
    assert (await as_json(gateway, *words, "--tenant", "red", ARA_API_KEY=None))["count"] == 0
