"""SIGHUP: what is live changes under connections and callers, what is not is named, and a fault changes nothing.

Property: no request with a valid key is refused and no client is disturbed by a reload, however slow its files are.
Why it matters: a reload that costs something is put off, and with it the key that ought to be taken back.
"""

import asyncio
import os
import signal
import time

import httpx
import pytest
import requests
from websockets.exceptions import InvalidStatus

from clients import WebSocket
from gateway import JWT_SECRET, Gateway, make_token, wait_until
from keys import FROM_FILE, audit, entry, hang_up, lines, reload, write
from test_http import assert_error

KEY = "reloads-0123456789"
FILE = {**FROM_FILE, "CORS_ORIGINS": None, "RUST_LOG": None, "JWT_SECRET": None}
JWT = f"[jwt]\nsecret = '{JWT_SECRET}'\n"
KEYS = entry("k", KEY, "read", "send", "admin")


async def start(start_gateway, config: str = "", **settings):
    return await start_gateway(**(FILE | settings), files={"config.toml": config + JWT + KEYS})


def get(gateway, path, key=KEY, **headers):
    return requests.get(gateway.url + path, headers={"X-API-Key": key, **headers}, timeout=5)


async def test_keys_are_rotated_under_callers_that_never_pause(start_gateway):
    old, new = "old-0123456789", "new-0123456789"
    of_old, of_new = entry("old", old, "send"), entry("new", new, "send")
    gateway = await start_gateway(**FROM_FILE, files={"config.toml": of_old})
    key, sent, is_over = old, {old: 0, new: 0}, False

    async def send():
        """One kept-alive connection that sends until the end; every answer must be 200."""
        async with httpx.AsyncClient(base_url=gateway.url, timeout=5, trust_env=False) as client:
            while not is_over:
                mine = key
                body = {"target_user_id": "u", "event_type": "e", "payload": {}}
                answer = await client.post("/api/v1/notifications/send", json=body, headers={"X-API-Key": mine})
                assert answer.status_code == 200, (mine, answer.text)
                sent[mine] += 1

    async with asyncio.TaskGroup() as callers:
        for _ in range(4):
            callers.create_task(send())
        for _ in range(2):
            await wait_until(lambda before=sent[old]: sent[old] > before + 20)
            await reload(gateway, of_old + of_new)  # both are valid
            key = new
            await wait_until(lambda before=sent[new]: sent[new] > before + 20)
            await reload(gateway, of_new)  # the old one is taken back
            assert_error(get(gateway, "/stats", old), 401)
            await wait_until(lambda before=sent[new]: sent[new] > before + 20)
            await reload(gateway, of_new + of_old)
            key = old
        is_over = True
    assert min(sent.values()) > 40, sent


async def test_a_fault_changes_nothing_and_every_one_is_named(start_gateway):
    gateway = await start(start_gateway)
    bad = ("[server]\nmax_connections = -1\ncors_origins = ['https://new.example']\nprot = 1\n"
           + entry("a b", "x", "write").replace("sha256 = ", f"sha256 = '{KEY}' #"))
    outcome = await reload(gateway, JWT + bad)
    assert (outcome["outcome"], outcome["faults"]) == ("refused", 5), outcome
    named = {line["key"]: line for line in lines(gateway, level="ERROR") if "key" in line}
    assert set(named) == {"server.max_connections", "server.prot", "api.keys[0].name", "api.keys[0].sha256",
                          "api.keys[0].scopes"}
    assert all(line["problem"] and line["fix"] and line["origin"].startswith("file, line ") for line in named.values())
    assert KEY not in gateway.log()
    assert get(gateway, "/stats").status_code == 200
    assert "access-control-allow-origin" not in get(gateway, "/stats", Origin="https://new.example").headers
    (gateway.folder / "config.toml").unlink()
    # Without the file the keys would go, and one be made up that nobody knows: that is a fault too.
    hang_up(gateway)
    await wait_until(lambda: len(audit(gateway, "reload")) == 2)
    assert get(gateway, "/stats").status_code == 200


async def test_what_needs_a_restart_is_named_and_the_rest_is_applied(start_gateway):
    gateway = await start(start_gateway)
    outcome = await reload(gateway, "[queue]\nenabled = true\n[server]\nshutdown_grace_seconds = 7\n"
                                    "max_connections = 9\n" + JWT + KEYS)
    # What the environment sets goes on winning.
    assert (outcome["keys"], outcome["needs_restart"]) == ("server.max_connections", "queue.enabled"), outcome
    warned = lines(gateway, level="WARN", keys="queue.enabled")
    assert len(warned) == 1 and "restart" in warned[0]["message"], warned
    stats = get(gateway, "/stats").json()
    assert (stats["connections"]["max"], stats["queue"]["enabled"]) == (9, False)


async def test_limits_change_under_their_connections_and_are_exact(start_gateway):
    def limits(total, user, subscriptions):
        return (f"[server]\nmax_connections = {total}\nmax_connections_per_user = {user}\n"
                f"max_subscriptions_per_connection = {subscriptions}\n")

    async def refused(gateway, user):
        with pytest.raises(InvalidStatus) as refusal:
            async with WebSocket(gateway, user):
                pass
        assert refusal.value.response.status_code == 429

    gateway = await start(start_gateway, limits(3, 2, 1))
    async with WebSocket(gateway, "a") as one, WebSocket(gateway, "a") as two:
        await refused(gateway, "a")
        await one.subscribe("c1")
        await one.send({"type": "Subscribe", "payload": {"channels": ["c2"]}})
        await one.error("SUBSCRIPTION_LIMIT")
        await reload(gateway, limits(4, 3, 2) + JWT + KEYS)
        await one.subscribe("c2")
        await one.send({"type": "Subscribe", "payload": {"channels": ["c3"]}})
        assert "2 subscriptions" in (await one.error("SUBSCRIPTION_LIMIT"))["message"]
        async with WebSocket(gateway, "a"):
            await refused(gateway, "a")
            async with WebSocket(gateway, "b"):
                await refused(gateway, "c")  # four in all
            # Lowered: whoever is there stays, and nobody comes.
            await wait_until(lambda: get(gateway, "/stats").json()["connections"]["total"] == 3)
            await reload(gateway, limits(1, 1, 1) + JWT + KEYS)
            await refused(gateway, "c")
            await refused(gateway, "a")
            for client in (one, two):
                await client.assert_nothing_waits()
        stream = requests.get(gateway.sse_url(make_token("d"), channels="c1,c2"), timeout=5)
        assert stream.status_code == 400 and "at most 1 channels" in stream.text


async def test_pages_tokens_and_messages_keep_the_new_rules(start_gateway):
    gateway = await start(start_gateway)
    page = "https://new.example"
    secret = "another-secret-of-clients-0123456789-0123456789"
    with pytest.raises(InvalidStatus):
        async with WebSocket(gateway, "u", origin=page):
            pass
    async with WebSocket(gateway, "u") as before:
        config = f"[server]\ncors_origins = ['{page}']\n[websocket]\nmax_message_bytes = 128\n[jwt]\nsecret = '{secret}'\n"
        outcome = await reload(gateway, config + KEYS)
        assert outcome["keys"] == "server.cors_origins, websocket.max_message_bytes, jwt.secret", outcome
        assert secret not in gateway.log()
        async with WebSocket(gateway, "u", token=make_token("u", secret=secret), origin=page):
            pass
        with pytest.raises(InvalidStatus) as refusal:
            async with WebSocket(gateway, "u"):
                pass
        assert refusal.value.response.status_code == 401
        assert get(gateway, "/stats", Origin=page).headers["access-control-allow-origin"] == page
        # Who was there stays, and is held against the new size.
        await before.assert_nothing_waits()
        await before.send({"type": "Ping", "padding": "x" * 200})
        assert await before.close_code() == 1009


async def test_the_log_filter_changes(start_gateway):
    gateway = await start(start_gateway)
    await reload(gateway, "[log]\nfilter = 'error,audit=info'\n" + JWT + KEYS)
    # In effect from the first line on.
    assert not lines(gateway, target="ara_gateway::boot::reloads", level="INFO")
    await reload(gateway, JWT + KEYS)
    assert len(lines(gateway, target="ara_gateway::boot::reloads", level="INFO")) == 1


async def test_signals_within_a_moment_are_one_and_later_ones_are_served_after(start_gateway):
    gateway = await start(start_gateway)
    begun = time.monotonic()
    for _ in range(12):
        hang_up(gateway)
        await asyncio.sleep(0.005)
    took = time.monotonic() - begun
    await wait_until(lambda: audit(gateway, "reload"))
    # A file that is not there yet holds the second reload, and with it the third.
    pipe = gateway.folder / "config.toml.new"
    os.mkfifo(pipe)
    os.replace(pipe, gateway.folder / "config.toml")
    hang_up(gateway)
    with (gateway.folder / "config.toml").open("w") as writer:  # returns once it is being read
        first = len(audit(gateway, "reload"))
        assert first <= 1 + took / 0.1, f"{first} reloads in {took} s"
        write(gateway, "[server]\nmax_connections = 5\n" + JWT + KEYS)
        hang_up(gateway)
        writer.write(JWT + KEYS)
    await wait_until(lambda: len(audit(gateway, "reload")) == first + 2)
    assert [line.get("keys") for line in audit(gateway, "reload")[first:]] == [None, "server.max_connections"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_neither_clients_nor_a_stop_wait_for_a_file_that_does_not_come(start_gateway, number):
    gateway = await start(start_gateway)
    async with WebSocket(gateway, "u") as client:
        pipe = gateway.folder / "config.toml.new"
        os.mkfifo(pipe)
        os.replace(pipe, gateway.folder / "config.toml")
        hang_up(gateway)
        writer = await asyncio.to_thread(os.open, gateway.folder / "config.toml", os.O_WRONLY)
        body = {"target_user_id": "u", "event_type": "e", "payload": {}}
        for _ in range(20):
            answer = requests.post(gateway.url + "/api/v1/notifications/send", json=body, headers={"X-API-Key": KEY},
                                   timeout=2)
            assert answer.json()["delivered_to"] == 1
            await client.notification()
        gateway.signal(number)
        assert (await client.expect("shutdown"))["reason"]
        await client.socket.close()
    assert await gateway.exit_code() == 0
    os.close(writer)
    assert not audit(gateway, "reload")


async def test_a_signal_during_the_start_is_served_when_the_gateway_is_ready(new_folder):
    gateway = Gateway(new_folder(), **FILE)
    gateway.folder.mkdir()
    os.mkfifo(gateway.folder / "config.toml")
    try:
        gateway.spawn()
        # Opened once the gateway reads it: then its handlers are there.
        writer = await asyncio.to_thread(os.open, gateway.folder / "config.toml", os.O_WRONLY)
        hang_up(gateway)
        write(gateway, "[server]\nmax_connections = 5\n" + JWT + KEYS)
        os.write(writer, (JWT + KEYS).encode())
        os.close(writer)
        await wait_until(lambda: audit(gateway, "reload"))
        assert audit(gateway, "reload")[0]["keys"] == "server.max_connections"
        assert get(gateway, "/stats").json()["connections"]["max"] == 5
        await gateway.stop()
    finally:
        gateway.kill()
