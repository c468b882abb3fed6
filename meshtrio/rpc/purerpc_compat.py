"""The seam to purerpc 0.8.0: all that is known here of how its servicers and stubs are made.

Servicers: `servicer.service.methods[name]` is `(method_fn, signature)`, and `method_fn` takes
`(message or iterator, request=…)`. `.service` is built anew on every access, so it is read once.
Stubs: `Stub(channel)` makes a `Client(service, channel)`, and sets each method to what its
`get_method_stub(name, signature)` returns. That is a `ClientStub` around a partial that holds the
method and its types, or, for a channel of ours, what calls through it: purerpc's own wrappers yield
inside nurseries, so that leaving a loop early breaks trio, and raise a group for a single error.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import attrs
import purerpc
from purerpc.wrappers import ClientStub

from meshtrio.errors import ConnectionLostError, UsageError
from meshtrio.grpc.compression import IDENTITY
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.grpc.metadata import Metadata
from meshtrio.rpc.context import PROPAGATED_KEYS
from meshtrio.rpc.server_load import LoadRecorder
from meshtrio.rpc.stream import Stream
from meshtrio.transport.peer import Peer

S = TypeVar("S")

MetadataLike = Iterable[tuple[str, str | bytes]]
"""Pairs; bytes as the value of a key that ends in `-bin`, text as that of any other."""


class Message(Protocol):
    """What is used of a protobuf message."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name

    def ByteSize(self) -> int: ...  # noqa: N802 - protobuf's name


@attrs.frozen
class Method:
    """A gRPC method and how its messages become bytes and back."""

    service: str
    name: str
    request_type: Any
    response_type: Any
    client_streams: bool
    server_streams: bool
    path: str = attrs.field(init=False, eq=False, repr=False)

    @path.default
    def _path(self) -> str:
        return f"/{self.service}/{self.name}"


@attrs.frozen
class Handler:
    """A method together with what serves it: `function(message or iterator,
    request=ServerContext)`."""

    method: Method
    function: Callable[..., Any]
    is_counted: bool = True
    """As work of the server: see `LoadRecorder`."""


class ServerContext:
    """What a handler that declares a parameter `request` learns of its call.

    The names are those of purerpc's `RequestReceived`.
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

    def __init__(self, stream: Stream, headers: RequestHeaders) -> None:
        self._stream = stream
        self._headers = headers
        self.initial_metadata: MetadataLike = ()
        """To set: pairs that go out with the reply's head, which is sent with the first reply."""
        self.trailing_metadata: MetadataLike = ()
        """To set: pairs that go out with the status."""
        self.status_details = b""
        """To set: a serialized google.rpc.Status, to go out with a status other than OK."""
        self.compression = IDENTITY
        """To set before the first reply: "gzip". Not used where the caller does not take it."""
        self.compress = True
        """To set before any reply: False sends it as it is, in spite of `compression`."""

    @property
    def peer(self) -> Peer:
        """Who calls, as far as the kernel or TLS vouches for it."""
        return self._stream.peer

    @property
    def deadline(self) -> float:
        """When the caller stops waiting, by trio's clock; infinite where it did not say."""
        scope = self._stream.cancel_on_error
        return math.inf if scope is None else scope.deadline

    @property
    def cancellation_reason(self) -> str:
        """Why the call was ended from outside, "" while it was not."""
        failure = self._stream.error
        return "" if failure is None else str(failure.status.status_message)

    @property
    def is_client_disconnected(self) -> bool:
        """Whether the call was ended by the loss of its connection."""
        return isinstance(self._stream.error, ConnectionLostError)

    @property
    def propagated_metadata(self) -> Metadata:
        """What of its metadata goes on with the calls that its handler makes: trace and baggage."""
        return tuple(pair for pair in self._headers.metadata if pair[0] in PROPAGATED_KEYS)

    @property
    def stream_id(self) -> int:
        return self._stream.id

    @property
    def message_compressed(self) -> bool:
        """Whether the request message that was taken last had been compressed."""
        return self._stream.last_message_compressed

    @property
    def service_name(self) -> str:
        return self._headers.path.split("/")[1]

    @property
    def method_name(self) -> str:
        return self._headers.path.split("/")[2]

    @property
    def scheme(self) -> str:
        return self._headers.scheme

    @property
    def authority(self) -> str:
        return self._headers.authority

    @property
    def content_type(self) -> str:
        return self._headers.content_type

    @property
    def user_agent(self) -> str:
        return self._headers.user_agent

    @property
    def timeout(self) -> datetime.timedelta | None:
        """What was left of the caller's deadline when the call arrived."""
        seconds = self._headers.timeout
        return None if seconds is None else datetime.timedelta(seconds=seconds)

    @property
    def message_encoding(self) -> str:
        return self._headers.encoding

    @property
    def message_accept_encoding(self) -> tuple[str, ...]:
        return self._headers.accept_encoding

    @property
    def custom_metadata(self) -> Metadata:
        return self._headers.metadata


def _method_from_signature(service: str, name: str, signature: Any) -> Method:
    cardinality = signature.cardinality
    streams_in = (purerpc.Cardinality.STREAM_UNARY, purerpc.Cardinality.STREAM_STREAM)
    streams_out = (purerpc.Cardinality.UNARY_STREAM, purerpc.Cardinality.STREAM_STREAM)
    return Method(
        service=service,
        name=name,
        request_type=signature.request_type,
        response_type=signature.response_type,
        client_streams=cardinality in streams_in,
        server_streams=cardinality in streams_out,
    )


def collect_handlers(servicers: Iterable[Any]) -> dict[str, Handler]:
    """Map each method's path to its handler.

    Raises UsageError for what is no purerpc servicer and for a service that is served twice.
    """
    handlers: dict[str, Handler] = {}
    names: set[str] = set()
    for servicer in servicers:
        service = getattr(servicer, "service", servicer)
        if not isinstance(service, purerpc.Service):
            what = f"{servicer!r} is not a servicer: it has no `service` made by purerpc"
            hint = " (was the class given instead of an instance?)"
            raise UsageError(what + (hint if isinstance(servicer, type) else ""))
        if service.name in names:
            raise UsageError(f"two servicers serve {service.name}")
        names.add(service.name)
        for name, (function, signature) in service.methods.items():
            method = _method_from_signature(service.name, name, signature)
            handlers[method.path] = Handler(method, function, LoadRecorder.is_counted(service.name))
    return handlers


class StubChannel:
    """A channel that stubs of purerpc can be made for: `EchoStub(channel)`."""

    def make_multicallable(self, method: Method) -> Callable[..., Any]:
        """Return what a stub calls a method by."""
        raise NotImplementedError


_original_get_method_stub = purerpc.Client.get_method_stub
_original_rpc = purerpc.Client.rpc


def _get_method_stub(client: purerpc.Client, method_name: str, signature: Any) -> Any:
    """Stand in for `purerpc.Client.get_method_stub`; channels of purerpc are left to it."""
    if isinstance(client.channel, StubChannel):
        return client.channel.make_multicallable(
            _method_from_signature(client.service_name, method_name, signature)
        )
    return _original_get_method_stub(client, method_name, signature)


async def _rpc(
    client: purerpc.Client,
    method_name: str,
    request_type: Any,
    response_type: Any,
    metadata: MetadataLike | None = None,
) -> Any:
    """Stand in for `purerpc.Client.rpc`, which starts a call whose cardinality it does not know."""
    if not isinstance(client.channel, StubChannel):
        return await _original_rpc(client, method_name, request_type, response_type, metadata)
    method = Method(client.service_name, method_name, request_type, response_type, True, True)
    return await client.channel.make_multicallable(method)(metadata=metadata)


purerpc.Client.get_method_stub = _get_method_stub
purerpc.Client.rpc = _rpc


def iter_stub_methods(stub: Any) -> Iterator[tuple[str, Method]]:
    """Yield the name and the method of each call that a generated stub offers.

    Raises UsageError for an object that was not generated by protoc-gen-purerpc.
    """
    found = False
    for name, value in vars(stub).items():
        if isinstance(value, ClientStub):
            found = True
            yield name, _method_from_stub(value)
    if not found and not isinstance(getattr(stub, "_client", None), purerpc.Client):
        raise UsageError(f"{type(stub).__qualname__} is not a stub made by protoc-gen-purerpc")


def _method_from_stub(value: ClientStub) -> Method:
    partial = value._stream_fn
    name, request_type, response_type = partial.args
    kind = type(value).__name__.removeprefix("ClientStub")
    return Method(
        service=partial.func.__self__.service_name,
        name=name,
        request_type=request_type,
        response_type=response_type,
        client_streams=kind.startswith("Stream"),
        server_streams=kind.endswith("Stream"),
    )
