"""Holds every HTTP answer and every message of the suite against `/openapi.json`, as the gateway serves it.

An undocumented path, status, header or shape fails the test that met it. Validators are compiled once for a run.
"""

import functools
import json

import httpx
import jsonschema_rs

# What frames a message (RFC 9112) or stands in every answer (RFC 9110), and so in no document.
OF_HTTP = {"connection", "content-length", "content-type", "date", "transfer-encoding"}
# What a proxy between puts its name into. The gateway sends neither: `test_http` looks at its own answers for them.
OF_PROXIES = {"server", "via"}
URI = "urn:openapi"


def pointer(*tokens: str) -> str:
    return "/" + "/".join(str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


class Document:
    def __init__(self, text: str):
        self.root = json.loads(text)
        self._registry = jsonschema_rs.Registry([(URI, self.root)], draft=jsonschema_rs.Draft202012)
        self.validator = functools.cache(self._compile)
        self.path_of = functools.lru_cache(maxsize=1024)(self._path_of)
        self.headers_of = functools.cache(self._headers_of)

    def _compile(self, at: str) -> jsonschema_rs.Draft202012Validator:
        # The pointer is a URI's fragment: what stands in braces is percent-encoded.
        at = at.replace("{", "%7B").replace("}", "%7D")
        return jsonschema_rs.Draft202012Validator({"$ref": f"{URI}#{at}"}, registry=self._registry,
                                                  validate_formats=True)

    def _path_of(self, path: str) -> str | None:
        """The path of the document that a request's path is at."""
        path = "/" + path.lstrip("/")
        if path in self.root["paths"]:
            return path
        segments = path.split("/")
        for known in self.root["paths"]:
            pattern = known.split("/")
            if len(pattern) == len(segments) and all(
                    wanted == segment or wanted.startswith("{") for wanted, segment in zip(pattern, segments)):
                return known
        return None

    def resolve(self, at: str) -> tuple[str, dict] | None:
        """Where a thing of the document stands, references followed."""
        value = self.root
        for token in at.split("/")[1:]:
            token = token.replace("~1", "/").replace("~0", "~")
            value = value[int(token)] if isinstance(value, list) else value.get(token)
            if value is None:
                return None
        return self.resolve(value["$ref"].removeprefix("#")) if "$ref" in value else (at, value)

    def _response_at(self, method: str, path: str, status: int) -> str | None:
        known = self.path_of(path)
        if method == "OPTIONS":
            return pointer("components", "responses", "Preflight") if status == 204 else None
        elsewhere = {404: "404-NOT_FOUND"} if known is None else {405: "405-METHOD_NOT_ALLOWED"}
        if status in elsewhere:
            return pointer("components", "responses", elsewhere[status])
        served = {"HEAD": "get"}.get(method, method.lower())
        if known is None or served not in self.root["paths"][known]:
            # What is answered for a head alone, as by every operation.
            known, served = "/openapi.json", "get"
            if status < 400:
                return None
        found = self.resolve(pointer("paths", known, served, "responses", status))
        return found and found[0]

    def _headers_of(self, response_at: str) -> dict[str, tuple[str, bool]]:
        """The documented headers: the place of their schema, and whether they are always there."""
        _, response = self.resolve(response_at)
        headers = {}
        for name in response.get("headers", {}):
            at, header = self.resolve(response_at + pointer("headers", name))
            headers[name.lower()] = (at + "/schema", header.get("required", False))
        return headers

    def check(self, method: str, path: str, status: int, headers, body: bytes | None):
        """Asserts that the answer is documented. `headers`: names in lower case; `body`: None where it was not read."""
        where = f"{method} {path} answered {status}"
        at = self._response_at(method, path, status)
        assert at, f"{where}: the document has no such answer"
        documented = self.headers_of(at)
        for name in set(headers) - OF_HTTP - OF_PROXIES:
            assert name in documented, f"{where}: the header `{name}` is not in the document"
        for name, (schema, is_required) in documented.items():
            if name in headers:
                self.validate(schema, headers[name], f"{where}, header `{name}`")
            else:
                assert not is_required, f"{where}: the header `{name}` is missing"
        content = self.resolve(at)[1].get("content", {})
        media_type = headers.get("content-type", "").split(";")[0]
        if not content:
            assert not media_type, f"{where}: a body of type {media_type} is not in the document"
        elif method != "HEAD":
            assert media_type in content, f"{where}: the type `{media_type}` is not in the document"
            if body is not None and media_type == "application/json":
                self.validate(at + pointer("content", media_type, "schema"), json.loads(body), where)

    def check_refusal(self, status: int, headers, body: bytes):
        """The same for a refusal whose request is not known: some operation documents it."""
        responses = self.root["components"]["responses"]
        names = [name for name in responses if name.startswith(f"{status}-")]
        fitting = [name for name in names if self.validator(
            pointer("components", "responses", name, "content", "application/json", "schema")).is_valid(json.loads(body))]
        assert fitting, f"{status} {body[:300]!r}: the document has no such refusal"
        known = {header for name in fitting for header in self.headers_of(pointer("components", "responses", name))}
        undocumented = set(headers) - OF_HTTP - OF_PROXIES - known
        assert not undocumented, f"{status}: {undocumented} are not in the document"

    def check_message(self, message):
        """Asserts that what a client has received is a message of the document."""
        self.validate(pointer("components", "schemas", "ServerMessage"), message, "a message")

    def validate(self, at: str, value, where: str):
        validator = self.validator(at)
        if not validator.is_valid(value):
            faults = [f"{pointer(*error.instance_path)}: {error.message}" for error in validator.iter_errors(value)]
            raise AssertionError(f"{where}, not as the document says: {'; '.join(faults)[:2000]}")


document: Document | None = None


async def learn(client: httpx.AsyncClient):
    """Reads the document of the gateway that this client calls, once for a run: there is one binary."""
    global document
    if document is None:
        response = await client.get("/openapi.json")
        assert response.status_code == 200, response.text
        document = Document(response.text)


async def check_response(response: httpx.Response):
    """A hook of httpx: holds each answer against the document."""
    if document is None:
        return
    is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
    if not is_stream:
        await response.aread()
    request = response.request
    path = request.url.raw_path.decode().split("?")[0]
    document.check(request.method, path, response.status_code, response.headers, None if is_stream else response.content)


HOOKS = {"response": [check_response]}
