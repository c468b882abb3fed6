"""grpc.health.v1.Health for the services of one server (grpc/doc/health-checking.md)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

import purerpc
import trio

from meshtrio.messages import health
from meshtrio.rpc.dynamic import service_of

_DESCRIPTOR = health.DESCRIPTOR.services_by_name["Health"]
_Reply = health.HealthCheckResponse


class OthersHealth(Protocol):
    """The health of services that a server does not serve itself, but passes calls on to."""

    async def is_serving(self, name: str) -> bool | None:
        """Whether a service serves; None if it is not known."""

    async def changed(self, name: str) -> None:
        """Wait until that may be different."""


class HealthServicer:
    """Everything serves until `stop_serving`: the server as a whole ("") and each service.

    Of services that the server does not serve itself it answers what `others` says.
    """

    def __init__(self, services: Iterable[str] = (), others: OthersHealth | None = None) -> None:
        self._others = others
        self.names = {"", *services}
        self.service = service_of(_DESCRIPTOR, self)
        self.stopped = trio.Event()
        """Set when the server is about to stop."""

    def stop_serving(self) -> None:
        """Say NOT_SERVING from now on."""
        self.stopped.set()

    async def Check(self, request: Any) -> Any:  # noqa: N802 - the method's name
        """Raises NotFoundError for a service that is not served here."""
        if request.service in self.names:
            return self._reply()
        status = await self._status_of_other(request.service)
        if status == _Reply.SERVICE_UNKNOWN:
            raise purerpc.NotFoundError(f"service {request.service!r} is not served here")
        return _Reply(status=status)

    async def _status_of_other(self, name: str) -> Any:
        serving = None if self._others is None else await self._others.is_serving(name)
        if serving is None:
            return _Reply.SERVICE_UNKNOWN
        return _Reply.SERVING if serving and not self.stopped.is_set() else _Reply.NOT_SERVING

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802
        last = None
        while request.service not in self.names and not self.stopped.is_set():
            status = await self._status_of_other(request.service)
            if status != last:
                last = status
                yield _Reply(status=status)
            if self._others is None:
                await self.stopped.wait()
            else:
                await self._others.changed(request.service)
        if not self.stopped.is_set():
            yield self._reply()
            await self.stopped.wait()
        yield self._reply()
        # A watch that went on would hold up the drain which this announces.
        raise purerpc.UnavailableError("the server is shutting down")

    def _reply(self) -> Any:
        stopped = self.stopped.is_set()
        return _Reply(status=_Reply.NOT_SERVING if stopped else _Reply.SERVING)
