"""A viewer of the dashboard of a mesh in the test's own trio run."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from meshtrio.runtime_dir.paths import dashboard_url_path
from tests.support.http_clients import RawClient, Reply, http_connection
from tests.support.in_process_mesh import RecordedMesh


class DashboardViewer:
    """What a browser does after its user has opened the URL."""

    def __init__(self, port: int, host: str, cookie: str, context: ssl.SSLContext | None) -> None:
        self.port = port
        self.cookie = cookie
        self.origin = f"{'https' if context else 'http'}://{host}"
        self._host = host
        self._context = context

    async def request(self, method: str, target: str, body: bytes = b"", **headers: str) -> Reply:
        """Make a request on a connection of its own, with the cookie."""
        fields = {"host": self._host, "cookie": self.cookie, **headers}
        async with http_connection(self.port, self._context) as client:
            return await client.request(method, target, body, **fields)

    async def get(self, name: str) -> Any:
        """Return a reply of the API."""
        reply = await self.request("GET", f"/api/{name}")
        assert reply.status == 200, reply
        return reply.json()

    async def act(self, name: str, body: bytes, **headers: str) -> Reply:
        """Ask for an action as the page does."""
        fields = {"origin": self.origin, "content_type": "application/json", **headers}
        return await self.request("POST", f"/api/actions/{name}", body, **fields)

    @asynccontextmanager
    async def stream(self, query: str) -> AsyncIterator[RawClient]:
        """Open a stream for the block."""
        async with http_connection(self.port, self._context) as client:
            reply = await client.request(
                "GET", f"/api/stream?{query}", host=self._host, cookie=self.cookie
            )
            assert reply.status == 200, reply
            assert reply.headers["content-type"] == "text/event-stream"
            yield client


def read_url(mesh: RecordedMesh) -> str:
    """Return the URL as `meshtrio dashboard` does."""
    return dashboard_url_path(Path(mesh.mesh.socket).parent).read_text()


async def log_in(mesh: RecordedMesh, context: ssl.SSLContext | None = None) -> DashboardViewer:
    """Open the URL of a mesh."""
    parts = urlsplit(read_url(mesh))
    assert parts.port is not None
    async with http_connection(parts.port, context) as client:
        reply = await client.request("GET", f"/?{parts.query}", host=parts.netloc)
    assert (reply.status, reply.headers["location"]) == (303, "/"), reply
    cookie = reply.headers["set-cookie"].partition(";")[0]
    return DashboardViewer(parts.port, parts.netloc, cookie, context)
