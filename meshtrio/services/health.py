"""grpc.health.v1.Health for the services of one server (grpc/doc/health-checking.md)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import purerpc
import trio

from meshtrio.messages import health
from meshtrio.rpc.dynamic import service_of

_DESCRIPTOR = health.DESCRIPTOR.services_by_name["Health"]
_Reply = health.HealthCheckResponse


class HealthServicer:
    """Everything serves until `stop_serving`: the server as a whole ("") and each service."""

    def __init__(self, services: Iterable[str] = ()) -> None:
        self.names = {"", *services}
        self.service = service_of(_DESCRIPTOR, self)
        self.stopped = trio.Event()
        """Set when the server is about to stop."""

    def stop_serving(self) -> None:
        """Say NOT_SERVING from now on."""
        self.stopped.set()

    async def Check(self, request: Any) -> Any:  # noqa: N802 - the method's name
        """Raises NotFoundError for a service that is not served here."""
        if request.service not in self.names:
            raise purerpc.NotFoundError(f"service {request.service!r} is not served here")
        return self._reply()

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802
        if request.service not in self.names:
            yield _Reply(status=_Reply.SERVICE_UNKNOWN)
            await trio.sleep_forever()
        if not self.stopped.is_set():
            yield self._reply()
            await self.stopped.wait()
        yield self._reply()
        # A watch that went on would hold up the drain which this announces.
        raise purerpc.UnavailableError("the server is shutting down")

    def _reply(self) -> Any:
        stopped = self.stopped.is_set()
        return _Reply(status=_Reply.NOT_SERVING if stopped else _Reply.SERVING)
