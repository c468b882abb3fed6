"""The context of a call that a handler serves, and the handler's access to it."""

from __future__ import annotations

import datetime
import math
from contextvars import ContextVar

from meshtrio.errors import ConnectionLostError
from meshtrio.grpc.framing import IDENTITY
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.grpc.metadata import Metadata
from meshtrio.rpc.method import MetadataLike
from meshtrio.rpc.stream import Stream
from meshtrio.transport.peer import Peer
from meshtrio.util.errors import UsageError
from meshtrio.util.no_public_constructor import NoPublicConstructor

PROPAGATED_KEYS = frozenset(
    {"traceparent", "tracestate", "baggage", "grpc-trace-bin", "grpc-tags-bin"}
)
"""Metadata keys that are copied to the calls a handler makes (W3C Trace Context and Baggage, and
gRPC's older forms of them)."""


class ServerContext(metaclass=NoPublicConstructor):
    """The context of one call on a server.

    Handlers that declare a parameter `request` receive it, and `plugin.current_call()` returns it.
    Its names are those of purerpc's `RequestReceived`.
    """

    __slots__ = (
        "_headers",
        "_stream",
        "compress",
        "compression",
        "initial_metadata",
        "status_details",
        "trailing_metadata",
    )

    _made_by = "handlers receive it as `request`, and `plugin.current_call()` returns it"

    def __init__(self, stream: Stream, headers: RequestHeaders) -> None:
        self._stream = stream
        self._headers = headers
        self.initial_metadata: MetadataLike = ()
        """Metadata to send with the response headers; set it before the first reply."""
        self.trailing_metadata: MetadataLike = ()
        """Metadata to send with the status; set it before the handler ends."""
        self.status_details = b""
        """A serialized google.rpc.Status to send with a status other than OK."""
        self.compression = IDENTITY
        """Encoding of the replies, "identity" or "gzip"; set it before the first reply.

        Replies stay uncompressed if the caller does not accept the encoding.
        """
        self.compress = True
        """Whether the next reply is compressed if `compression` names an encoding."""

    def __repr__(self) -> str:
        state = "over" if self._stream.account is None else "under way"
        if self._stream.error:
            state = f"cancelled: {self.cancellation_reason}"
        return f"<ServerContext {self._headers.path} from {self.peer}: {state}>"

    @property
    def peer(self) -> Peer:
        """The caller, as the kernel (SO_PEERCRED) or TLS identifies it."""
        return self._stream.peer

    @property
    def deadline(self) -> float:
        """The caller's deadline on trio's clock, in seconds; infinite if it has none."""
        scope = self._stream.cancel_on_error
        return math.inf if scope is None else scope.deadline

    @property
    def cancellation_reason(self) -> str:
        """The reason for which the call was cancelled from outside; "" while it is not."""
        error = self._stream.error
        return "" if error is None else str(error.status.status_message)

    @property
    def is_client_disconnected(self) -> bool:
        """Whether the call was cancelled because its connection was lost."""
        return isinstance(self._stream.error, ConnectionLostError)

    @property
    def propagated_metadata(self) -> Metadata:
        """The metadata that the handler's own calls inherit: trace context and baggage."""
        return tuple(pair for pair in self._headers.metadata if pair[0] in PROPAGATED_KEYS)

    @property
    def stream_id(self) -> int:
        """The HTTP/2 stream identifier of the call."""
        return self._stream.id

    @property
    def message_compressed(self) -> bool:
        """Whether the request message that was received last was compressed."""
        return self._stream.last_message_compressed

    @property
    def service_name(self) -> str:
        """The full name of the service, `package.Service`."""
        return self._headers.path.split("/")[1]

    @property
    def method_name(self) -> str:
        """The name of the method within its service."""
        return self._headers.path.split("/")[2]

    @property
    def scheme(self) -> str:
        """The `:scheme` of the request, "http" or "https"."""
        return self._headers.scheme

    @property
    def authority(self) -> str:
        """The `:authority` of the request."""
        return self._headers.authority

    @property
    def content_type(self) -> str:
        """The `content-type` of the request."""
        return self._headers.content_type

    @property
    def user_agent(self) -> str:
        """The `user-agent` of the request."""
        return self._headers.user_agent

    @property
    def timeout(self) -> datetime.timedelta | None:
        """The `grpc-timeout` of the request; None if the caller has no deadline."""
        seconds = self._headers.timeout
        return None if seconds is None else datetime.timedelta(seconds=seconds)

    @property
    def message_encoding(self) -> str:
        """The `grpc-encoding` of the request messages."""
        return self._headers.encoding

    @property
    def message_accept_encoding(self) -> tuple[str, ...]:
        """The encodings of replies that the caller accepts."""
        return self._headers.accept_encoding

    @property
    def custom_metadata(self) -> Metadata:
        """The metadata that the caller sent."""
        return self._headers.metadata


current_context: ContextVar[ServerContext | None] = ContextVar("meshtrio call", default=None)
"""The context of the call that the current task serves."""


def current_call() -> ServerContext:
    """Return the context of the call whose handler runs the current task.

    Tasks that a handler starts inherit it.

    Raises:
        UsageError: No handler runs the current task.
    """
    context = current_context.get()
    if context is None:
        text = "current_call() is for handlers and the tasks they start"
        raise UsageError(f"{text}; no call is being served")
    return context
