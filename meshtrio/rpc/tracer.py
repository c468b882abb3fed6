"""Who wants to know of calls: telemetry is told here. Where nobody does, a call pays nothing.

The names follow the call tracers of gRFC A66. All of it is called in place, from the middle of a
call: it must not wait. What it raises is logged, and costs the call nothing (`rpc/tracing`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import purerpc
import trio

from meshtrio.errors import unwrap_exception_group
from meshtrio.grpc.headers import RequestHeaders, ResponseHeaders
from meshtrio.grpc.outlier_detection import Ejection
from meshtrio.grpc.status import CallStatus
from meshtrio.http2.hpack.decoder import HeaderField

if TYPE_CHECKING:
    from meshtrio.rpc.purerpc_compat import Method, ServerContext
    from meshtrio.rpc.stream import Stream

CANCELLED: int = purerpc.StatusCode.CANCELLED.value
UNKNOWN: int = purerpc.StatusCode.UNKNOWN.value
DEADLINE_EXCEEDED: int = purerpc.StatusCode.DEADLINE_EXCEEDED.value


class AttemptKind(Enum):
    """Why an attempt is made, in the words of gRFC A96."""

    ORIGINAL = "original"
    RETRY = "retry"
    HEDGE = "hedge"
    TRANSPARENT_RETRY = "transparent_retry"


# To look a member of an Enum up costs more than all else that an attempt does with it.
ORIGINAL, TRANSPARENT_RETRY = AttemptKind.ORIGINAL, AttemptKind.TRANSPARENT_RETRY
RETRY, HEDGE = AttemptKind.RETRY, AttemptKind.HEDGE


class MessageTracer:
    """Is told of each message of a stream, if it makes itself the stream's `watch`."""

    __slots__ = ()

    def message_sent(self, message: bytes, wire_size: int) -> None:
        """A message goes out, of so many bytes once it is compressed."""

    def message_received(self, message: bytes, wire_size: int) -> None:
        """A message was taken that came as so many bytes."""

    def half_closed(self) -> None:
        """On a client: it has said that no message follows."""

    def half_close_received(self) -> None:
        """On a server: the client has said so, and all of its messages were taken."""

    def headers_received(self, headers: ResponseHeaders) -> None:
        """On a client: the head of a response came, which is not the whole of it."""


class ServerCallTracer(MessageTracer):
    """Follows one call on a server."""

    __slots__ = ()

    def before_handler(self) -> None:
        """In the task of the handler, before it begins: for context variables."""

    def call_ended(self, status: CallStatus) -> None:
        """It is over, with this status, whether or not the caller was there to be told."""


class ServerTracer:
    """Follows the calls of servers."""

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> ServerCallTracer:
        """A call has come for a handler."""
        raise NotImplementedError

    def call_rejected(self, headers: RequestHeaders, status: CallStatus) -> None:
        """A call was answered at once, since no handler takes it."""


class PickedAttempt(Protocol):
    """An attempt that has its endpoint."""

    @property
    def address(self) -> str:
        """Of the endpoint."""

    @property
    def stream(self) -> Any:
        """A Stream."""


class AttemptTracer(MessageTracer):
    """Follows one attempt of a call."""

    __slots__ = ()

    wants_pick_events: bool = False
    """It is told where the attempt goes, too: `asks` and `placed`, and so of its messages."""
    extra_headers: bytes = b""
    """Encoded header fields that are to go out with it."""
    extra_header_keys: frozenset[str] = frozenset()
    """Of these fields, which are not taken from the call that its caller serves, then."""

    def before_pick(self, authority: str, fields: Sequence[HeaderField], deadline: float) -> None:
        """Before it looks for an endpoint: what will be in its head, `block` and what all calls
        have aside, and when its caller's deadline is, by trio's clock."""

    def endpoint_picked(self, attempt: PickedAttempt, *, was_delayed: bool) -> None:
        """It has its endpoint, for which it had to wait or not."""

    def process_exited(self, launch_id: str) -> None:
        """The plugin's process ended during it: see `ExitInfo.life`."""

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        """It is over; `stream` is None where it never got an endpoint."""


class ClientCallTracer:
    """Follows one call of a client."""

    __slots__ = ()

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        """An attempt begins, after so many that the server may have seen."""
        raise NotImplementedError

    def call_ended(self, status: CallStatus | None) -> None:
        """It is over; None where its caller gave it up: its last attempt tells whether by deadline.
        Called once."""


class MethodTracer:
    """Follows the calls of one method of one stub."""

    def start_call(self) -> ClientCallTracer:
        raise NotImplementedError


class ClientTracer:
    """Follows the calls of channels."""

    def trace_method(self, target: str, method: Method) -> MethodTracer:
        """A stub is made. `target`: "mesh:///plugin.echo", or for a channel to one address
        "unix:///path" or "dns:///host:port"."""
        raise NotImplementedError

    def outlier_ejected(self, target: str, ejection: Ejection) -> None:
        """An endpoint was found to fail more than others."""


def attempt_status_for(exc: BaseException, deadline: float) -> CallStatus:
    """The status of what ended with an exception and was to end by a time of trio's clock."""
    exc = unwrap_exception_group(exc)
    if isinstance(exc, purerpc.RpcFailedError):
        return exc.status.status_code.value, str(exc.status.status_message)
    if isinstance(exc, Exception):
        return UNKNOWN, f"{type(exc).__name__} was raised"
    if trio.current_time() >= deadline:
        return DEADLINE_EXCEEDED, "the caller's deadline passed"
    return CANCELLED, "the caller gave the call up"


def call_status_for(exc: BaseException) -> CallStatus | None:
    """The same for a call, None where its caller gave it up: see `ClientCallTracer.ended`."""
    exc = unwrap_exception_group(exc)
    return None if isinstance(exc, trio.Cancelled) else attempt_status_for(exc, math.inf)
