"""Logging never blocks the gateway: the reader of its log may stall, go away or have no room, and it serves on.

Property: a line that nobody reads is dropped and counted; nothing waits for it, at no time from start to stop.
Why it matters: a log collector that fails must not cost every client its connection.
"""

import contextlib
import fcntl
import json
import os
import re
import signal
import socket

import pytest

from clients import WebSocket
from gateway import Gateway, free_port, wait_until

# As many lines as there are, from a part that would stop at once if it were made to wait: the router.
BUSY = {"REDIS_BACKOFF_INITIAL_DELAY_MS": 1, "REDIS_BACKOFF_MAX_DELAY_MS": 1,
        "REDIS_CIRCUIT_BREAKER_FAILURE_THRESHOLD": 10_000}
SMALLEST_PIPE = 4096


class Pipe:
    """What the gateway prints into; small, and read when the test says so."""

    def __init__(self):
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)

    def fill(self):
        os.set_blocking(self.writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writer, b"x" * 512)
        os.set_blocking(self.writer, True)

    def read(self) -> str:
        """What is there now."""
        os.set_blocking(self.reader, False)
        text = b""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.reader, 1 << 20):
                text += data
        return text.decode(errors="replace")

    def close(self, *names: str):
        for name in names or ("reader", "writer"):
            if getattr(self, name) is not None:
                os.close(getattr(self, name))
                setattr(self, name, None)


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.close()


async def dropped(gateway) -> int:
    return (await gateway.get_ok("/stats"))["log"]["dropped"]


async def assert_serves(gateway, user: str):
    async with WebSocket(gateway, user) as client:
        assert (await gateway.send(user))["delivered_to"] == 1
        await client.notification()


async def test_a_reader_that_is_gone_costs_lines_and_nothing_else(start_gateway, pipe, user):
    gateway = await start_gateway(output=pipe.writer)
    pipe.close()
    for number in range(1, 4):
        gateway.process.send_signal(signal.SIGHUP)
        await wait_until(lambda n=number: has_dropped(gateway, n), what="a counted line")
        await assert_serves(gateway, user)
    gateway.signal()
    assert await gateway.exit_code() == 0


async def has_dropped(gateway, least: int) -> bool:
    return await dropped(gateway) >= least


async def test_a_reader_that_is_gone_does_not_end_the_way_to_redis(start_gateway, pipe):
    redis = free_port()
    gateway = await start_gateway(output=pipe.writer, REDIS_URL=f"redis://127.0.0.1:{redis}", **BUSY)
    pipe.close()
    # Lines about attempts were not written, and yet further attempts are made.
    await wait_until(lambda: has_dropped(gateway, 3), what="a counted line")
    with socket.create_server(("127.0.0.1", redis)) as server:
        server.settimeout(10)
        server.accept()[0].close()


async def test_a_log_disk_without_room_costs_lines_and_nothing_else(start_gateway, user):
    with open("/dev/full", "wb", buffering=0) as full:
        gateway = await start_gateway(output=full.fileno())
        assert await dropped(gateway) >= 1
        await assert_serves(gateway, user)


@pytest.mark.parametrize("defaults", [True, False], ids=["configured", "development"])
async def test_a_reader_that_never_reads_delays_neither_start_nor_stop(new_folder, pipe, defaults):
    """Standard output, with the block for development, goes there as well."""
    pipe.fill()
    gateway = Gateway(new_folder(), defaults=defaults)
    try:
        await gateway.start(output=pipe.writer)
        gateway.signal()
        assert await gateway.exit_code(8) == 0
    finally:
        await gateway.client.aclose()
        gateway.kill()


async def test_a_reader_that_stalls_is_told_how_much_it_has_missed(start_gateway, pipe, user):
    redis = free_port()
    gateway = await start_gateway(output=pipe.writer, REDIS_URL=f"redis://127.0.0.1:{redis}", RUST_LOG_FORMAT="json",
                                  RUN_MODE="production",  # prints nothing but its log
                                  **BUSY)
    pipe.close("writer")
    # More than the pipe and the gateway hold.
    await wait_until(lambda: has_dropped(gateway, 100), 60, "dropped lines")
    await assert_serves(gateway, user)
    text = ""

    def said() -> list[int]:
        nonlocal text
        text += pipe.read()
        return [int(number) for number in re.findall(r'"dropped_lines":(\d+)', text)]

    await wait_until(said, 20, "a line about dropped lines")

    async def all_said() -> bool:
        return sum(said()) == await dropped(gateway)

    await wait_until(all_said, 20, "the whole count")
    # From then on lines are written as before.
    gateway.process.send_signal(signal.SIGHUP)
    await wait_until(lambda: said() and "SIGHUP" in text, what="a later line")
    lines = [json.loads(line) for line in text[:text.rindex("\n")].splitlines()]
    assert len(lines) > 1000, "what was kept comes once somebody reads"
    for note in (line for line in lines if "dropped_lines" in line):
        assert note["level"] == "WARN" and "were dropped" in note["message"] and note["timestamp"], note


async def test_the_last_line_of_a_process_comes_out(start_gateway, pipe):
    gateway = await start_gateway(output=pipe.writer)
    pipe.read()
    gateway.signal()
    assert await gateway.exit_code() == 0
    assert pipe.read().splitlines()[-1].endswith("stopped")
