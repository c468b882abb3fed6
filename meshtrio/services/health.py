"""The grpc.health.v1.Health servicer of one server.

Source: grpc/doc/health-checking.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

import purerpc
import trio

from meshtrio.messages import health
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor

_DESCRIPTOR = health.DESCRIPTOR.services_by_name["Health"]
_Response = health.HealthCheckResponse


class HealthSource(Protocol):
    """The health of services that a server forwards calls to."""

    async def is_serving(self, name: str) -> bool | None:
        """Return whether a service is SERVING; None if it is unknown."""

    async def wait_for_change(self, name: str) -> None:
        """Wait until the health of a service may have changed."""


class HealthServicer:
    """Reports the server ("") and its services as SERVING until `enter_graceful_shutdown`.

    The health of other services comes from `fallback`.
    """

    def __init__(self, services: Iterable[str] = (), fallback: HealthSource | None = None) -> None:
        self._fallback = fallback
        self.service_names = {"", *services}
        """Names of the services that this server serves."""
        self.service = service_from_descriptor(_DESCRIPTOR, self)
        self.shutdown_started = trio.Event()
        """Set when the graceful shutdown of the server begins."""

    def enter_graceful_shutdown(self) -> None:
        """Report NOT_SERVING from now on."""
        self.shutdown_started.set()

    async def Check(self, request: Any) -> Any:  # noqa: N802 - the method's name
        """Raise NotFoundError for an unknown service."""
        if request.service in self.service_names:
            return self._make_response()
        status = await self._get_fallback_status(request.service)
        if status == _Response.SERVICE_UNKNOWN:
            raise purerpc.NotFoundError(f"unknown service {request.service!r}")
        return _Response(status=status)

    async def _get_fallback_status(self, name: str) -> Any:
        serving = None if self._fallback is None else await self._fallback.is_serving(name)
        if serving is None:
            return _Response.SERVICE_UNKNOWN
        is_serving = serving and not self.shutdown_started.is_set()
        return _Response.SERVING if is_serving else _Response.NOT_SERVING

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802
        last = None
        while request.service not in self.service_names and not self.shutdown_started.is_set():
            status = await self._get_fallback_status(request.service)
            if status != last:
                last = status
                yield _Response(status=status)
            if self._fallback is None:
                await self.shutdown_started.wait()
            else:
                await self._fallback.wait_for_change(request.service)
        if not self.shutdown_started.is_set():
            yield self._make_response()
            await self.shutdown_started.wait()
        yield self._make_response()
        # An open watch would delay the drain.
        raise purerpc.UnavailableError("the server is shutting down")

    def _make_response(self) -> Any:
        stopped = self.shutdown_started.is_set()
        return _Response(status=_Response.NOT_SERVING if stopped else _Response.SERVING)
