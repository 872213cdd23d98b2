"""The document at /openapi.json is true: its examples work, and what it allows and forbids is what the gateway does.

That every answer of the suite is documented is checked wherever there is one, by `openapi.py`; here it is shown that
this check sees what it should. Client of the last test: schemathesis.
"""

import asyncio
import json
import os
import sys

import pytest
from schemathesis import openapi as schemathesis_openapi

import openapi
from clients import WebSocket
from gateway import HERE, make_token

FUZZ_EXAMPLES = int(os.environ.get("ARA_FUZZ_EXAMPLES", "10"))
FUZZ_S = 60 + 3 * FUZZ_EXAMPLES
STREAMS = ("/ws", "/sse")
SEND = "/api/v1/notifications/send"
COMMON = {"cache-control": "no-store", "vary": "Origin", "content-type": "application/json"}
RECEIPT = {"success": True, "notification_id": "01a2033e-2900-76b7-a914-5ca70f941d6e", "delivered_to": 2, "failed": 0,
           "queued": False, "timestamp": "2026-11-22T12:32:15.104Z"}


def operations(document: openapi.Document):
    for path, item in document.root["paths"].items():
        for method in item:
            yield method, path, item[method]


async def test_the_document_is_openapi_3_1_and_served_to_everybody(gateway):
    response = await gateway.client.get("/openapi.json")
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    assert response.json()["openapi"] == "3.1.0"
    schemathesis_openapi.from_dict(response.json()).validate()
    assert (await gateway.client.head("/openapi.json")).content == b""


async def test_every_example_fits_its_schema(gateway):
    document, seen = openapi.document, 0
    for method, path, operation in operations(document):
        contents = [openapi.pointer("paths", path, method, "requestBody", "content", "application/json")]
        contents += [openapi.pointer("paths", path, method, "responses", status, "content", "application/json")
                     for status in operation["responses"]]
        for at in contents:
            found = document.resolve(at)
            content = found[1] if found else {}
            examples = [example["value"] for example in content.get("examples", {}).values()]
            for example in examples + ([content["example"]] if "example" in content else []):
                document.validate(at + "/schema", example, f"the example of {at}")
                seen += 1
    assert seen > 20


def filled(document: openapi.Document, path: str, method: str) -> str:
    """The path with the examples of its parameters."""
    url = path
    for number, _ in enumerate(document.root["paths"][path][method]["parameters"]):
        _, parameter = document.resolve(openapi.pointer("paths", path, method, "parameters", number))
        if parameter["in"] == "path":
            url = url.replace("{%s}" % parameter["name"], parameter["example"])
    return url


# What makes what other examples need, and what takes it away.
FIRST = ["createTemplate"]
LAST = ["deleteTemplate", "disconnectUser", "startDrain", "stopDrain"]


async def test_every_example_works(start_gateway):
    """With the tenant, the user, and the channel of the examples there, and their template until it is deleted."""
    gateway = await start_gateway(QUEUE_ENABLED="true", ACK_ENABLED="true", TENANT_ENABLED="true")
    headers = gateway.headers("acme") | {"Authorization": f"Bearer {make_token('anna', tenant_id='acme')}"}
    async with WebSocket(gateway, "anna", claims={"tenant_id": "acme"}) as anna:
        await anna.subscribe("news")
        def place(each) -> int:
            name = each[2]["operationId"]
            return FIRST.index(name) - len(FIRST) if name in FIRST else LAST.index(name) + 1 if name in LAST else 0

        for method, path, operation in sorted(operations(openapi.document), key=place):
            if path in STREAMS:
                continue
            bodies = [None]
            if "requestBody" in operation:
                examples = operation["requestBody"]["content"]["application/json"]["examples"]
                bodies = [example["value"] for example in examples.values()]
            for body in bodies:
                response = await gateway.client.request(method, filled(openapi.document, path, method),
                                                        headers=headers, **({"json": body} if body else {}))
                assert response.is_success, f"{method} {path} {body}: {response.status_code} {response.text}"


@pytest.mark.parametrize("method, path, status, headers, body, fault", [
    ("POST", SEND, 200, {}, RECEIPT, None),
    ("POST", "/" + SEND, 200, {"idempotent-replayed": "true"}, RECEIPT, None),
    ("GET", "/api/v1/users/a%2Fb/queue", 200, {}, {"user_id": "a/b", "count": 0, "notifications": []}, None),
    ("GET", "/no/such", 404, {}, {"error": {"code": "NOT_FOUND", "message": "m"}}, None),
    ("PUT", SEND, 405, {"allow": "POST, OPTIONS"}, {"error": {"code": "METHOD_NOT_ALLOWED", "message": "m"}}, None),
    ("GET", "/no/such", 200, {}, {}, "no such answer"),
    ("PUT", SEND, 200, {}, RECEIPT, "no such answer"),
    ("POST", SEND, 201, {}, RECEIPT, "no such answer"),
    ("POST", SEND, 200, {"x-new": "1"}, RECEIPT, "`x-new` is not in the document"),
    ("POST", SEND, 200, {"cache-control": "public"}, RECEIPT, "`cache-control`"),
    ("POST", SEND, 200, {"content-type": "text/plain"}, RECEIPT, "the type `text/plain`"),
    ("POST", SEND, 200, {}, RECEIPT | {"new": 1}, "new"),
    ("POST", SEND, 200, {}, RECEIPT | {"delivered_to": -1}, "/delivered_to"),
    ("POST", SEND, 200, {}, RECEIPT | {"timestamp": "yesterday"}, "/timestamp"),
    ("POST", SEND, 200, {}, {"success": True}, "notification_id"),
    ("PUT", SEND, 405, {}, {"error": {"code": "METHOD_NOT_ALLOWED", "message": "m"}}, "`allow` is missing"),
    ("POST", SEND, 409, {}, {"error": {"code": "NOT_FOUND", "message": "m"}}, "/error/code"),
    ("POST", SEND, 400, {}, {"error": {"code": "VALIDATION_ERROR", "message": "m", "details": {"at": 1}}}, "details"),
])
async def test_an_answer_that_is_not_documented_is_found(gateway, method, path, status, headers, body, fault):
    def check():
        openapi.document.check(method, path, status, COMMON | headers, json.dumps(body).encode())

    if fault is None:
        return check()
    with pytest.raises(AssertionError) as caught:
        check()
    assert fault in str(caught.value), caught.value


async def test_schemathesis_finds_no_undocumented_answer(start_gateway, new_folder):
    """Cases by the thousand, valid and not: none is answered 5xx, or otherwise than the document says."""
    gateway = await start_gateway(TENANT_ENABLED="true", QUEUE_ENABLED="true", ACK_ENABLED="true")
    folder = new_folder("schemathesis")
    folder.mkdir()
    token = make_token("anna", tenant_id="default")
    headers = gateway.headers() | {"Authorization": f"Bearer {token}"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run", f"{gateway.url}/openapi.json",
        "--max-examples", str(FUZZ_EXAMPLES), "--no-color",
        *(word for name, value in headers.items() for word in ("--header", f"{name}: {value}")),
        cwd=folder, env=os.environ | {"PYTHONPATH": str(HERE)},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    try:
        async with asyncio.timeout(FUZZ_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = "\n".join(line[:1000] for line in output.decode(errors="replace").splitlines())
    assert process.returncode == 0, text[-20_000:]
    # schemathesis leaves out what serves the document.
    tested = [path for _, path, operation in operations(openapi.document)
              if path not in (*STREAMS, "/openapi.json") and operation["operationId"] != "startDrain"]
    assert f"Tested: {len(tested)}" in text, text
    stats = await gateway.get_ok("/stats")
    assert stats["tasks"]["panicked"] == 0, stats["tasks"]
