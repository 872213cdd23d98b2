"""Fixtures of the client suite: gateways that run, and their logs beside a failure."""

import functools
import http.server
import itertools
import shutil
import threading

import pytest
import pytest_asyncio

from durable import Store
from gateway import HERE, Gateway, gateway_binary

LOG_TAIL_BYTES = 12_000
folder_numbers = itertools.count()


def pytest_configure(config):
    if not config.option.collectonly and not gateway_binary().exists():
        raise pytest.UsageError(
            f"there is no gateway at {gateway_binary()}: build it (cargo build --release) or set ARA_GATEWAY_BIN"
        )


@pytest.fixture(scope="session")
def new_folder(tmp_path_factory):
    """Makes paths of folders that do not exist yet, one for each process."""
    root = tmp_path_factory.mktemp("run")
    return lambda name="gateway": root / f"{name}-{next(folder_numbers)}"


def gateway_module_fixture(**environment):
    """A fixture: one gateway with this configuration for all tests of a module."""

    async def gateway(new_folder):
        gateway = Gateway(new_folder(), **environment)
        try:
            await gateway.start()
            yield gateway
            await gateway.stop()
        finally:
            gateway.kill()

    return pytest_asyncio.fixture(scope="module")(gateway)


# The gateway most tests share: two shards, tenants off, Redis off, one allowed origin.
gateway = gateway_module_fixture()


@pytest_asyncio.fixture
async def start_gateway(new_folder):
    """Starts gateways with a configuration of the test's own; each must stop cleanly afterwards."""
    mine = []

    async def start(*, wait_for: str | None = "/health/ready", output: int | None = None, **settings) -> Gateway:
        gateway = Gateway(new_folder(), **settings)
        mine.append(gateway)
        return await gateway.start(wait_for, output)

    try:
        yield start
        for gateway in mine:
            await gateway.stop()
    finally:
        for gateway in mine:
            gateway.kill()


@pytest_asyncio.fixture
async def new_store(new_folder):
    """Makes queue directories; the gateway that runs on one at the end must stop cleanly."""
    mine = []

    def new(**settings) -> Store:
        mine.append(Store(new_folder, **settings))
        return mine[-1]

    try:
        yield new
        for store in mine:
            await store.stop()
    finally:
        for store in mine:
            await store.kill()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def pages():
    """A web server of the test's own: another port, so another origin than the gateway's."""
    handler = functools.partial(QuietHandler, directory=str(HERE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def user():
    """A user id that no other test has."""
    return f"user-{next(folder_numbers)}"


@pytest.fixture
def channel():
    """A channel name that no other test has."""
    return f"channel-{next(folder_numbers)}"


def need(tool: str) -> str:
    """The tool's path. A missing tool fails the test, since a skipped client would prove nothing."""
    path = shutil.which(tool)
    if path is None:
        pytest.fail(f"{tool} is not installed: run scripts/install-test-tools")
    return path


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    for gateway in Gateway.started:
        gateway.log_offset = gateway.log_path.stat().st_size if gateway.log_path.exists() else 0
    item.first_new_gateway = len(Gateway.started)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for index, gateway in enumerate(Gateway.started):
            text = gateway.log(since=gateway.log_offset)
            if text and (gateway.running or index >= item.first_new_gateway):
                report.sections.append((f"gateway log {gateway.log_path}", text[-LOG_TAIL_BYTES:]))
    return report
