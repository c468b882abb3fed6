"""Call tracers (gRFC A66): the interfaces through which telemetry observes calls.

On a client a `ClientTracer` returns a function for each method of a stub, which makes a
`ClientCallTracer` for each call, which makes an `AttemptTracer` for each attempt. On a server a
`ServerTracer` makes a `ServerCallTracer` for each call that has a handler.

All methods are called in place, in the middle of a call, and must not block. What they raise is
logged and does not fail the call, except for SystemExit and KeyboardInterrupt (`tracer_dispatch`).
What is not overridden observes nothing.
If no tracer is installed a call pays one comparison with None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

import trio

from meshtrio.grpc.headers import RequestHeaders
from meshtrio.grpc.status import CallStatus
from meshtrio.http2.hpack.decoder import HeaderField
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.method import Method
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer_dispatch import MessageTracer

if TYPE_CHECKING:
    from meshtrio.grpc.outlier_detection import Ejection


class AttemptKind(Enum):
    """The reason for an attempt, with the names of gRFC A96."""

    ORIGINAL = "original"
    RETRY = "retry"
    HEDGE = "hedge"
    TRANSPARENT_RETRY = "transparent_retry"


# Looking up a member of an Enum costs more than everything else that an attempt does with it.
ORIGINAL, RETRY, HEDGE, TRANSPARENT_RETRY = AttemptKind


class ServerCallTracer(MessageTracer):
    """Observes one call on a server."""

    __slots__ = ()

    def before_handler(self) -> None:
        """Prepare the handler's task, for instance its context variables."""

    def call_ended(self, status: CallStatus) -> None:
        """Report the end of the call with its status, whether or not the caller received it."""


class ServerTracer:
    """Observes the calls of servers."""

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> ServerCallTracer:
        """Return the tracer of a call that a handler is about to serve."""
        return NO_SERVER_CALL_TRACER

    def call_rejected(self, headers: RequestHeaders, status: CallStatus) -> None:
        """Report a call that was rejected before a handler started."""


class AttemptTracer(MessageTracer):
    """Observes one attempt of a call."""

    __slots__ = ()

    wants_pick_events: bool = False
    """Whether `before_pick` and `endpoint_picked` are called; messages can only be traced then."""
    extra_headers: bytes = b""
    """Encoded header fields to send with the attempt."""
    extra_header_keys: frozenset[str] = frozenset()
    """Keys of `extra_headers`; metadata with these keys is not propagated from a served call."""

    def before_pick(self, authority: str, fields: Sequence[HeaderField], deadline: float) -> None:
        """Report that the attempt starts looking for an endpoint.

        Args:
            authority: The `:authority` of the call.
            fields: The header fields of the request, without those that all calls have.
            deadline: The caller's deadline on trio's clock, in seconds.
        """

    def endpoint_picked(self, address: str, stream: Stream, was_delayed: bool) -> None:
        """Report the endpoint that was picked.

        Args:
            address: The address of the endpoint, `unix:/path` or `tcp:host:port`.
            stream: The stream of the attempt.
            was_delayed: Whether the pick had to wait for the endpoint.
        """

    def process_exited(self, launch_id: str) -> None:
        """Report that the plugin's process ended during the attempt, see `ExitInfo.launch_id`."""

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        """Report the end of the attempt; `stream` is None if no endpoint was picked."""


class ClientCallTracer:
    """Observes one call of a client."""

    __slots__ = ()

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        """Return the tracer of a new attempt.

        Args:
            kind: The reason for the attempt.
            previous_attempts: Number of earlier attempts that a server may have seen.
        """
        return NO_ATTEMPT_TRACER

    def call_ended(self, status: CallStatus | None) -> None:
        """Report the end of the call, once.

        `status` is None if the caller cancelled the call: the status of the last attempt says
        whether its deadline had passed.
        """


StartCall = Callable[[], ClientCallTracer]
"""Returns the tracer of a new call of one method of one stub."""


class ClientTracer:
    """Observes the calls of channels."""

    def trace_method(self, target: str, method: Method) -> StartCall | None:
        """Return what makes the tracers of calls of a method of a new stub; None to trace none.

        Args:
            target: The channel's target: "mesh:///plugin.echo", or "unix:///path" or
                "dns:///host:port" for a channel to one address.
            method: The method.
        """
        return None

    def outlier_ejected(self, target: str, ejection: Ejection) -> None:
        """Report an endpoint that outlier detection found to fail more than others."""


# What observes nothing has no state, so that all calls share it.
NO_SERVER_CALL_TRACER, NO_ATTEMPT_TRACER = ServerCallTracer(), AttemptTracer()


class Tracers:
    """The tracers that new channels and servers of a trio run use; None for none."""

    __slots__ = ("client", "server")

    def __init__(
        self, client: ClientTracer | None = None, server: ServerTracer | None = None
    ) -> None:
        self.client = client
        self.server = server


_NO_TRACERS = Tracers()
installed_tracers: trio.lowlevel.RunVar[Tracers] = trio.lowlevel.RunVar(
    "meshtrio tracers", _NO_TRACERS
)
"""The tracers of this trio run, which `composite_tracer.use_tracers` installs."""


def current_tracers() -> Tracers:
    """Return the tracers of this trio run; none outside of a run."""
    return installed_tracers.get() if trio.lowlevel.in_trio_run() else _NO_TRACERS
