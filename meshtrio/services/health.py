"""The grpc.health.v1.Health servicer of one server.

Source: grpc/doc/health-checking.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import purerpc
import trio

if TYPE_CHECKING:  # Making a Protocol would delay the start of plugins.

    class HealthSource(Protocol):
        """The health of services that a server forwards calls to."""

        async def is_serving(self, name: str) -> bool | None:
            """Return whether a service is SERVING; None if it is unknown."""

        async def wait_for_change(self, name: str) -> None:
            """Wait until the health of a service may have changed."""


class HealthServicer:
    """Reports the server ("") and its services as SERVING until `shutdown_started` is set.

    The health of other services comes from `fallback`.
    """

    def __init__(
        self, fallback: HealthSource | None = None, shutdown_started: trio.Event | None = None
    ) -> None:
        # The runtime of protobuf takes long to import, and a program's own protos need it as well.
        from meshtrio.messages import health
        from meshtrio.rpc.protobuf_descriptors import service_from_descriptor

        self._response_type = health.HealthCheckResponse
        self._fallback = fallback
        self.service_names = {""}
        """Names of the services that this server serves; "" is the server itself."""
        self.service = service_from_descriptor(health.DESCRIPTOR.services_by_name["Health"], self)
        self.shutdown_started = trio.Event() if shutdown_started is None else shutdown_started
        """Set when the graceful shutdown of the server begins."""

    async def Check(self, request: Any) -> Any:  # noqa: N802 - the method's name
        """Raise NotFoundError for an unknown service."""
        status = await self._get_status(request.service)
        if status == self._response_type.SERVICE_UNKNOWN:
            raise purerpc.NotFoundError(f"unknown service {request.service!r}")
        return self._response_type(status=status)

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802
        last = None
        while not self.shutdown_started.is_set():
            status = await self._get_status(request.service)
            if status != last:
                last = status
                yield self._response_type(status=status)
            await self._wait_for_change(request.service)
        if last != self._response_type.NOT_SERVING:
            yield self._response_type(status=self._response_type.NOT_SERVING)
        # An open watch would delay the drain.
        raise purerpc.UnavailableError("the server is shutting down")

    async def _get_status(self, name: str) -> Any:
        serving: bool | None = name in self.service_names or None
        if serving is None and self._fallback is not None:
            serving = await self._fallback.is_serving(name)
        if serving is None:
            return self._response_type.SERVICE_UNKNOWN
        is_serving = serving and not self.shutdown_started.is_set()
        return self._response_type.SERVING if is_serving else self._response_type.NOT_SERVING

    async def _wait_for_change(self, name: str) -> None:
        """Wait until the shutdown begins, or the health of a service may have changed."""
        if name in self.service_names or self._fallback is None:
            await self.shutdown_started.wait()
            return
        from trio_util import wait_any  # Plugins, which have no fallback, need not import it.

        wait_for_fallback = partial(self._fallback.wait_for_change, name)
        await wait_any(self.shutdown_started.wait, wait_for_fallback)
