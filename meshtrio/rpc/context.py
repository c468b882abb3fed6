"""The call that a handler serves just now, for whatever it calls itself."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from meshtrio.errors import UsageError

if TYPE_CHECKING:
    from meshtrio.rpc.purerpc_compat import ServerContext

current_context: ContextVar[ServerContext | None] = ContextVar("meshtrio call", default=None)

PROPAGATED_KEYS = frozenset(
    {"traceparent", "tracestate", "baggage", "grpc-trace-bin", "grpc-tags-bin"}
)
"""Metadata that goes on to the calls a handler makes (W3C Trace Context and Baggage, and gRPC's
older forms of them)."""


def current_call() -> ServerContext:
    """The call whose handler runs this, in whatever task it has started.

    Raises UsageError outside of handlers.
    """
    request = current_context.get()
    if request is None:
        raise UsageError("current_call() is for handlers, and what they call; no call is served")
    return request
