"""Bytes on a socket: what no well-behaved client library can be made to send."""

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct

import openapi
from gateway import Gateway, make_token

PATIENCE_S = 5.0

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class RawConnection:
    """A TCP connection that sends any bytes it is given."""

    def __init__(self, gateway: Gateway, receive_buffer: int | None = None, local_address: str | None = None):
        self.gateway = gateway
        self.local_address = local_address
        self.receive_buffer = receive_buffer

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        if self.receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        if self.local_address:
            self.socket.bind((self.local_address, 0))
        await loop.sock_connect(self.socket, ("127.0.0.1", self.gateway.port))
        self.buffer = b""
        return self

    async def __aexit__(self, *_):
        self.socket.close()

    async def send(self, data: bytes, patience_s: float = PATIENCE_S):
        async with asyncio.timeout(patience_s):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    async def receive(self, patience_s: float = PATIENCE_S) -> bytes:
        """Some bytes; nothing at the end of the stream. A reset counts as the end."""
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.get_running_loop().sock_recv(self.socket, 65536)
        except ConnectionResetError:
            return b""

    async def fill(self, patience_s: float = PATIENCE_S):
        data = await self.receive(patience_s)
        if not data:
            raise EOFError(f"the server closed; left in the buffer: {self.buffer[:200]!r}")
        self.buffer += data

    async def until(self, end: bytes, patience_s: float = PATIENCE_S) -> bytes:
        while end not in self.buffer:
            await self.fill(patience_s)
        head, self.buffer = self.buffer.split(end, 1)
        return head

    async def exactly(self, count: int, patience_s: float = PATIENCE_S) -> bytes:
        while len(self.buffer) < count:
            await self.fill(patience_s)
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    async def to_the_end(self, patience_s: float = PATIENCE_S) -> bytes:
        async with asyncio.timeout(patience_s):
            while data := await self.receive(patience_s):
                self.buffer += data
        data, self.buffer = self.buffer, b""
        return data

    # --- HTTP

    async def head(self, patience_s: float = PATIENCE_S) -> tuple[int, dict[str, str]]:
        lines = (await self.until(b"\r\n\r\n", patience_s)).decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        assert lines[0].startswith("HTTP/1.1 "), lines[0]
        return int(lines[0].split(" ")[1]), headers

    async def response(self, patience_s: float = PATIENCE_S) -> tuple[int, dict[str, str], bytes]:
        status, headers = await self.head(patience_s)
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int((await self.until(b"\r\n", patience_s)).split(b";")[0], 16):
                body += await self.exactly(size, patience_s)
                await self.exactly(2, patience_s)
            await self.until(b"\r\n", patience_s)
        else:
            body = await self.exactly(int(headers.get("content-length", "0")), patience_s)
        if status >= 400 and headers.get("content-type") == "application/json" and body:
            openapi.document.check_refusal(status, headers, body)
        return status, headers, body

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.gateway.port}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")

    def upgrade_request(self, token: str | None, **headers: str | None) -> bytes:
        key = base64.b64encode(os.urandom(16)).decode()
        fields = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Key": key,
                  "Sec_WebSocket_Version": "13"} | headers
        path = "/ws" + (f"?token={token}" if token else "")
        return self.request("GET", path, **{k: v for k, v in fields.items() if v is not None})


async def post_pipelined(gateway: Gateway, path: str, bodies, at_once: int = 200) -> list[dict]:
    """Posts many bodies over one connection, in order; returns their answers, all of which must be 200."""
    answers = []
    bodies = list(bodies)
    async with RawConnection(gateway) as connection:
        for start in range(0, len(bodies), at_once):
            chunk = [json.dumps(body).encode() for body in bodies[start:start + at_once]]
            requests = (connection.request("POST", path, body, **gateway.headers()) for body in chunk)
            await connection.send(b"".join(requests))
            for _ in chunk:
                status, _, answer = await connection.response()
                assert status == 200, answer
                answers.append(json.loads(answer))
    return answers


class Relay:
    """A TCP relay in front of the gateway whose connections a test can cut."""

    def __init__(self, gateway: Gateway):
        self.gateway = gateway
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        self.cut()

    def cut(self):
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def _accept(self, reader, writer):
        gateway_reader, gateway_writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        self.writers += [writer, gateway_writer]
        await asyncio.gather(self._copy(reader, gateway_writer), self._copy(gateway_reader, writer))

    @staticmethod
    async def _copy(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True,
          declared: int | None = None) -> bytes:
    """A WebSocket frame; `declared` writes another length into the header than the payload has."""
    length = len(payload) if declared is None else declared
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    bit = 0x80 if masked else 0
    if length < 126:
        head += bytes([bit | length])
    elif length < 1 << 16:
        head += bytes([bit | 126]) + struct.pack(">H", length)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", length)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def json_frame(message: dict) -> bytes:
    return frame(TEXT, json.dumps(message).encode())


class RawWebSocket(RawConnection):
    """A WebSocket client that may break every rule, and answers no ping by itself."""

    def __init__(self, gateway: Gateway, user: str, receive_buffer: int | None = None):
        super().__init__(gateway, receive_buffer)
        self.user = user

    async def __aenter__(self):
        await super().__aenter__()
        try:
            await self.send(self.upgrade_request(make_token(self.user)))
            status, _ = await self.head()
            assert status == 101, status
            assert (await self.message())["type"] == "connected"
        except BaseException:
            self.socket.close()
            raise
        return self

    async def frame(self, patience_s: float = PATIENCE_S) -> tuple[int, bytes]:
        first, second = await self.exactly(2, patience_s)
        assert not first & 0x70, "a reserved bit is set"
        assert first & 0x80, "the server fragments"
        assert not second & 0x80, "the server masks its frames"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", await self.exactly(2, patience_s))
        elif length == 127:
            (length,) = struct.unpack(">Q", await self.exactly(8, patience_s))
        return first & 0x0F, await self.exactly(length, patience_s)

    async def message(self, patience_s: float = PATIENCE_S) -> dict:
        """The next text message; pings and pongs are skipped."""
        while True:
            opcode, payload = await self.frame(patience_s)
            assert opcode in (TEXT, PING, PONG), (opcode, payload)
            if opcode == TEXT:
                return json.loads(payload)

    async def close_code(self, patience_s: float = PATIENCE_S) -> int | None:
        """Reads on to the server's close frame, then to the end of the stream."""
        async with asyncio.timeout(patience_s):
            while True:
                opcode, payload = await self.frame(patience_s)
                if opcode == CLOSE:
                    break
            code = struct.unpack(">H", payload[:2])[0] if payload else None
            if code is not None:
                payload[2:].decode()
            with contextlib.suppress(ConnectionError):
                await self.send(frame(CLOSE, payload[:2]))
            assert await self.to_the_end(patience_s) == b"", "bytes after the close frame"
        return code
