"""Calls of meshtrio.v1.Control, and what becomes of their errors."""

from __future__ import annotations

from typing import Any

import purerpc

from meshtrio.client.channel import Channel
from meshtrio.client.multicallable import DynamicStub
from meshtrio.dashboard.query import make_request
from meshtrio.dashboard.requests_check import RefusedError
from meshtrio.messages import control

_SERVICE = control.DESCRIPTOR.services_by_name["Control"]
_HTTP_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 403,  # Of this process by the mesh, not of the viewer.
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class ControlClient:
    """Calls Control of the mesh."""

    def __init__(self, channel: Channel) -> None:
        self._stub = DynamicStub(channel, _SERVICE)

    def make_request(self, method: str, values: dict[str, Any], allowed: tuple[str, ...]) -> Any:
        """Make the request of a method; see `query.make_request`. Raises RefusedError."""
        return make_request(_SERVICE.methods_by_name[method].input_type, values, allowed)

    async def call(self, method: str, request: Any) -> Any:
        """Call a method with one reply. Raises RefusedError."""
        try:
            return await getattr(self._stub, method)(request)
        except purerpc.RpcFailedError as exc:
            raise to_refusal(exc) from None

    def open_stream(self, method: str, request: Any) -> Any:
        """Return the call of a method that streams replies, which raises RpcFailedError."""
        return getattr(self._stub, method)(request)


def to_refusal(exc: purerpc.RpcFailedError) -> RefusedError:
    """Return the answer to a request whose call has failed."""
    code = exc.status.status_code.name
    return RefusedError(_HTTP_STATUSES.get(code, 500), code, exc.status.status_message)
