"""The echo server, which is the gateway's own framing and handshake, passes the Autobahn test suite.

Client: PyPI kosoku, all cases but those of permessage-deflate (12 and 13).
"""

import asyncio
import collections
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import base_environment, binary, free_port, wait_until

BAD = {"FAILED", "WRONG CODE", "UNCLEAN", "FAILED BY CLIENT", "UNIMPLEMENTED"}


def echo_binary() -> Path:
    return binary("ARA_ECHO_BIN", "release/examples/echo", "debug/examples/echo")


@pytest.fixture
async def echo_address(new_folder):
    path = echo_binary()
    assert path.exists(), f"there is no echo server at {path}: cargo build --example echo, or set ARA_ECHO_BIN"
    folder = new_folder("echo")
    folder.mkdir()
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen([str(path), "--port", str(free_port())], cwd=folder, env=base_environment(),
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        line = await wait_until(lambda: re.search(r"listening on (\S+)", log_path.read_text()), 10,
                                "`listening on` from the echo server")
        yield line.group(1)
        assert process.poll() is None, f"the echo server ended:\n{log_path.read_text()[-2000:]}"
    finally:
        process.kill()
        process.wait()


async def test_no_case_fails(echo_address, new_folder, capsys):
    out = new_folder("autobahn")
    program = Path(sys.executable).with_name("kosoku")
    process = await asyncio.create_subprocess_exec(
        str(program), echo_address, "-o", str(out), "-p", "4", "-x", "12.*", "-x", "13.*",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    (index,) = out.rglob("index.json")
    (results,) = json.loads(index.read_text()).values()
    behaviors = collections.defaultdict(list)
    for case, result in results.items():
        behaviors[result["behavior"]].append(case)
        if result.get("behaviorClose") not in (None, "OK", "INFORMATIONAL"):
            behaviors[f"close {result['behaviorClose']}"].append(case)
    with capsys.disabled():
        print("\nAutobahn:", {name: len(cases) for name, cases in behaviors.items()},
              "NON-STRICT:", sorted(behaviors["NON-STRICT"]) or "none")
    assert len(results) >= 300, f"only {len(results)} cases ran"
    failed = {name: cases for name, cases in behaviors.items() if name.removeprefix("close ") in BAD}
    assert not failed, failed
    assert process.returncode == 0, output.decode(errors="replace")[-2000:]
