"""A client of HTTP/1.1 on a plain stream, which sends what a test gives it, right or wrong."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio


@attrs.frozen
class Reply:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class RawClient:
    """One connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        """Send bytes; that the server has closed the connection meanwhile is no error."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self.stream.send_all(data)

    async def request(self, method: str, target: str, body: bytes = b"", **headers: str) -> Reply:
        """Make a request; `_` in the names of headers stands for `-`."""
        fields = {"host": "127.0.0.1", **headers}
        if body:
            fields["content_length"] = str(len(body))
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        head = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""])
        await self.send(head.encode("latin-1") + body)
        return await self.read_reply(has_body=method != "HEAD")

    async def read_reply(self, *, has_body: bool = True) -> Reply:
        """Read a response with a content-length, or of a stream the head."""
        head = (await self.read_until(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        size = int(headers.get("content-length", 0)) if has_body else 0
        while len(self._buffer) < size:
            await self._read()
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Reply(int(first.split()[1]), headers, body)

    async def read_event(self) -> tuple[str, Any]:
        """Read the next Server-Sent Event; returns its name and its data."""
        while True:
            block = await self.read_until(b"\n\n")
            at = block.find(b"event: ")
            if at >= 0:
                name, data = block[at:].rstrip().split(b"\n")
                return name.decode()[7:], json.loads(data[6:])

    async def read_event_of(self, name: str) -> Any:
        """Read events up to the next of this name; returns its data."""
        while True:
            found, data = await self.read_event()
            if found == name:
                return data

    async def read_until(self, end: bytes) -> bytes:
        """Read up to some bytes, these included."""
        while end not in self._buffer:
            await self._read()
        found, _, self._buffer = self._buffer.partition(end)
        return found + end

    async def read_rest(self) -> bytes:
        """Read until the server closes the connection."""
        with contextlib.suppress(trio.BrokenResourceError, EOFError):
            while True:
                await self._read()
        found, self._buffer = self._buffer, b""
        return found

    async def _read(self) -> None:
        data = await self.stream.receive_some(65536)
        if not data:
            raise EOFError
        self._buffer += data


@asynccontextmanager
async def http_connection(
    port: int, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[RawClient]:
    """Connect to a port of this machine for the block."""
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
    if context is not None:
        stream = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        yield RawClient(stream)
    finally:
        await trio.aclose_forcefully(stream)
