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

from meshtrio.errors import unwrap
from meshtrio.policies.outlier import Verdict
from meshtrio.wire.heads import RequestHead, ResponseHead

if TYPE_CHECKING:
    from meshtrio.rpc.seam import Method, Request
    from meshtrio.rpc.stream import Stream

CANCELLED: int = purerpc.StatusCode.CANCELLED.value
UNKNOWN: int = purerpc.StatusCode.UNKNOWN.value
DEADLINE_EXCEEDED: int = purerpc.StatusCode.DEADLINE_EXCEEDED.value

Field = tuple[bytes, bytes]
"""A header field, encoded: its name and its value."""
Outcome = tuple[int, str]
"""A status: its code and its message."""
SUCCESS: Outcome = (0, "")


class AttemptKind(Enum):
    """Why an attempt is made, in the words of gRFC A96."""

    ORIGINAL = "original"
    RETRY = "retry"
    HEDGE = "hedge"
    TRANSPARENT_RETRY = "transparent_retry"


# To look a member of an Enum up costs more than all else that an attempt does with it.
ORIGINAL, TRANSPARENT_RETRY = AttemptKind.ORIGINAL, AttemptKind.TRANSPARENT_RETRY
RETRY, HEDGE = AttemptKind.RETRY, AttemptKind.HEDGE


class MessageWatch:
    """Is told of each message of a stream, if it makes itself the stream's `watch`."""

    __slots__ = ()

    def sent(self, message: bytes, wire_size: int) -> None:
        """A message goes out, of so many bytes once it is compressed."""

    def received(self, message: bytes, wire_size: int) -> None:
        """A message was taken that came as so many bytes."""

    def sent_all(self) -> None:
        """On a client: it has said that no message follows."""

    def received_all(self) -> None:
        """On a server: the client has said so, and all of its messages were taken."""

    def answered(self, head: ResponseHead) -> None:
        """On a client: the head of a response came, which is not the whole of it."""


class ServerWatch(MessageWatch):
    """Follows one call on a server."""

    __slots__ = ()

    def enter(self) -> None:
        """In the task of the handler, before it begins: for context variables."""

    def ended(self, outcome: Outcome) -> None:
        """It is over, with this status, whether or not the caller was there to be told."""


class ServerObserver:
    """Follows the calls of servers."""

    def begin(self, request: Request, method: Method, stream: Stream) -> ServerWatch:
        """A call has come for a handler."""
        raise NotImplementedError

    def refused(self, head: RequestHead, outcome: Outcome) -> None:
        """A call was answered at once, since no handler takes it."""


class Placed(Protocol):
    """An attempt that has its endpoint."""

    @property
    def address(self) -> str:
        """Of the endpoint."""

    @property
    def stream(self) -> Any:
        """A Stream."""


class AttemptWatch(MessageWatch):
    """Follows one attempt of a call."""

    __slots__ = ()

    follows: bool = False
    """It is told where the attempt goes, too: `asks` and `placed`, and so of its messages."""
    block: bytes = b""
    """Encoded header fields that are to go out with it."""
    keys: frozenset[str] = frozenset()
    """Of these fields, which are not taken from the call that its caller serves, then."""

    def asks(self, authority: str, fields: Sequence[Field], deadline: float) -> None:
        """Before it looks for an endpoint: what will be in its head, `block` and what all calls
        have aside, and when its caller's deadline is, by trio's clock."""

    def placed(self, attempt: Placed, *, waited: bool) -> None:
        """It has its endpoint, for which it had to wait or not."""

    def died(self, life: str) -> None:
        """The plugin's process ended during it: see `Departure.life`."""

    def finished(self, outcome: Outcome, stream: Stream | None) -> None:
        """It is over; `stream` is None where it never got an endpoint."""


class CallWatch:
    """Follows one call of a client."""

    __slots__ = ()

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        """An attempt begins, after so many that the server may have seen."""
        raise NotImplementedError

    def ended(self, outcome: Outcome | None) -> None:
        """It is over; None where its caller gave it up: its last attempt tells whether by deadline.
        Called once."""


class MethodObserver:
    """Follows the calls of one method of one stub."""

    def begin(self) -> CallWatch:
        raise NotImplementedError


class ClientObserver:
    """Follows the calls of channels."""

    def method(self, target: str, method: Method) -> MethodObserver:
        """A stub is made. `target`: "mesh:///plugin.echo", or for a channel to one address
        "unix:///path" or "dns:///host:port"."""
        raise NotImplementedError

    def judged(self, target: str, verdict: Verdict) -> None:
        """An endpoint was found to fail more than others."""


def outcome_of(exc: BaseException, deadline: float) -> Outcome:
    """The status of what ended with an exception and was to end by a time of trio's clock."""
    exc = unwrap(exc)
    if isinstance(exc, purerpc.RpcFailedError):
        return exc.status.status_code.value, str(exc.status.status_message)
    if isinstance(exc, Exception):
        return UNKNOWN, f"{type(exc).__name__} was raised"
    if trio.current_time() >= deadline:
        return DEADLINE_EXCEEDED, "the caller's deadline passed"
    return CANCELLED, "the caller gave the call up"


def outcome_of_call(exc: BaseException) -> Outcome | None:
    """The same for a call, None where its caller gave it up: see `CallWatch.ended`."""
    exc = unwrap(exc)
    return None if isinstance(exc, trio.Cancelled) else outcome_of(exc, math.inf)
