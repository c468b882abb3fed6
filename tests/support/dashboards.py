"""Dashboards of meshes under `serve`, for browsers and for HTTP clients."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from tests.support.mesh_processes import MeshProcess, serve_mesh
from tests.support.ports import find_free_port


def dashboard_table(*, port: int | None = None, **settings: Any) -> str:
    """Return a [mesh.dashboard] table that listens on a free port of 127.0.0.1."""
    listen = f"127.0.0.1:{port or find_free_port()}"
    lines = [f'listen = "{listen}"', *(f"{k} = {json.dumps(v)}" for k, v in settings.items())]
    return "\n".join(["[mesh.dashboard]", *lines, ""])


@attrs.frozen
class Dashboard:
    """The dashboard of a mesh that runs."""

    mesh: MeshProcess
    url: str
    """With the token."""

    @property
    def origin(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def log_in(self) -> str:
        """Return the cookie that a browser gets for the token, as its header has it."""
        parts = urlsplit(self.url)
        reply = self.request("GET", f"{parts.path}?{parts.query}")
        assert reply.status == 303, reply
        return reply.headers["set-cookie"].partition(";")[0]

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> HttpReply:
        """Make one request, with these headers; `_` in their names stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, names)
            response = connection.getresponse()
            content = response.read()
            found = {name.lower(): value for name, value in response.getheaders()}
            return HttpReply(response.status, found, content)
        finally:
            connection.close()

    def get_json(self, name: str, cookie: str) -> Any:
        """Return a reply of the API."""
        reply = self.request("GET", f"/api/{name}", cookie=cookie)
        assert reply.status == 200, reply
        return json.loads(reply.body)

    def count_connections(self) -> int:
        """Count the connections to the dashboard that are established, on the mesh's side."""
        local = f"0100007F:{self.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1] == local and row[3] == "01" for row in rows)


@attrs.frozen
class HttpReply:
    status: int
    headers: dict[str, str]
    body: bytes


@contextmanager
def serve_dashboard(folder: Path, config: str, *, min_ready: int = 0) -> Iterator[Dashboard]:
    """Serve a config with a [mesh.dashboard] table for the block."""
    with serve_mesh(folder, config, min_ready=min_ready) as mesh:
        yield find_dashboard(mesh)


def find_dashboard(mesh: MeshProcess) -> Dashboard:
    """Find the dashboard of a mesh as a user does."""
    done = mesh.run_command("dashboard", "--json")
    assert done.returncode == 0, f"{done.stderr}\n{mesh.log}"
    return Dashboard(mesh, json.loads(done.stdout)["url"])


class EventStream:
    """A viewer without a browser, which reads Server-Sent Events."""

    def __init__(self, dashboard: Dashboard, cookie: str, query: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=60)
        headers = {"Cookie": cookie, "Accept": "text/event-stream"}
        self._connection.request("GET", f"/api/stream?{query}", headers=headers)
        # The connection forgets it once it has handed it to the response.
        self._socket: socket.socket = self._connection.sock
        self._response = self._connection.getresponse()
        self.status = self._response.status

    def wait_for(self, event: str) -> Any:
        """Return the data of the next event of this kind."""
        wanted = f"event: {event}".encode()
        while line := self._response.readline():
            if line.rstrip() == wanted:
                return json.loads(self._response.readline().partition(b":")[2])
        raise AssertionError(f"the stream ended without {event!r}")

    def drain(self) -> None:
        """Read all that comes, until `interrupt` is called by another thread."""
        with suppress(http.client.IncompleteRead):
            while self._response.read1(1 << 16):
                pass

    def interrupt(self) -> None:
        """End the connection, and so `drain`."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._response.close()
        self._connection.close()
