"""Which request gets which response."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import purerpc
import trio

from meshtrio.dashboard import control_client
from meshtrio.dashboard.actions import act
from meshtrio.dashboard.guard import Guard
from meshtrio.dashboard.requests import (
    EVENT_STREAM,
    HttpError,
    Request,
    Response,
    json_response,
)
from meshtrio.dashboard.static_files import get_file
from meshtrio.dashboard.topics import make_topics
from meshtrio.dashboard.viewer_stream import check_query, run_stream

_NO_STORE = (("cache-control", "no-store"),)


class Routes:
    """Answers the requests of all connections."""

    def __init__(
        self,
        guard: Guard,
        stub: Any,
        nursery: trio.Nursery,
        describe_mesh: Callable[[], Mapping[str, Any]],
        *,
        control: bool,
    ) -> None:
        """Initialize it.

        Args:
            guard: Decides which requests are answered.
            stub: A stub of Control.
            nursery: For what is collected for several viewers.
            describe_mesh: Returns what the first message of each stream says of the mesh.
            control: Whether viewers may act.
        """
        self._guard = guard
        self._stub = stub
        self._nursery = nursery
        self._describe_mesh = describe_mesh
        self._control = control
        self._topics = make_topics()

    async def handle(self, request: Request) -> Response:
        """Return the response to a request. Raises HttpError."""
        admitted = self._guard.admit(request)
        if isinstance(admitted, Response):
            return admitted
        path = admitted.path
        if path.startswith("/api/actions/"):
            _require_method(admitted, "POST")
            return await self._act(path.removeprefix("/api/actions/"), admitted)
        _require_method(admitted, "GET", "HEAD")
        if path == "/":
            return get_file("index.html", admitted)
        if path.startswith("/assets/"):
            return get_file(path.removeprefix("/assets/"), admitted)
        if path == "/api/stream":
            return self._open_stream(admitted)
        if path.startswith("/api/"):
            return await self._read(path.removeprefix("/api/"), admitted)
        raise HttpError(404, "NOT_FOUND", f"there is nothing at {path[:100]!r}")

    async def _act(self, name: str, request: Request) -> Response:
        if not self._control:
            text = "viewers may not act on this mesh: set control = true in [mesh.dashboard]"
            raise HttpError(403, "PERMISSION_DENIED", text)
        return await act(self._stub, name, request)

    async def _read(self, name: str, request: Request) -> Response:
        try:
            value = await control_client.read(self._stub, name, request.query)
        except purerpc.RpcFailedError as exc:
            raise control_client.to_http_error(exc) from None
        response = json_response(value)
        return Response(200, response.content_type, response.body, _NO_STORE)

    def _open_stream(self, request: Request) -> Response:
        check_query(request.query)
        mesh = self._describe_mesh()
        parts = self._stub, self._topics, self._nursery, mesh, request.query
        stream = partial(run_stream, *parts)
        return Response(200, EVENT_STREAM, headers=_NO_STORE, stream=stream)


def _require_method(request: Request, *methods: str) -> None:
    if request.method not in methods:
        text = f"{request.path[:100]} takes {' and '.join(methods)}, not {request.method[:20]}"
        raise HttpError(405, "INVALID_ARGUMENT", text)
