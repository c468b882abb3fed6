"""Servicers and stubs as purerpc 0.8.0 generates them; the only module that knows its internals.

Servicers: `servicer.service.methods[name]` is `(method_fn, signature)`, and `method_fn` takes
`(message or iterator, request=...)`. `.service` is rebuilt on every access, so it is read once.

Stubs: `Stub(channel)` makes a `Client(service, channel)` and sets each method to the result of
`get_method_stub(name, signature)`. For a `StubChannel` that is the channel's own callable, because
purerpc's wrappers yield inside nurseries (leaving a loop early breaks trio) and raise an
ExceptionGroup for a single error.

Errors: `RpcFailedError` gets the attributes that trailers add, with the values of an error that no
trailers came with, so that callers need not know which side has made an error.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from types import FunctionType, MethodType
from typing import Any

import purerpc

from meshtrio.rpc.method import Handler, MetadataLike, Method
from meshtrio.rpc.stats import LoadRecorder
from meshtrio.util.errors import UsageError

_log = logging.getLogger("meshtrio.rpc")


_ONE_PARAMETER = inspect.Signature(
    [inspect.Parameter("message", inspect.Parameter.POSITIONAL_ONLY)]
)


class Service(purerpc.Service):
    """A service, as generated servicers make it.

    purerpc finds the parameters of each handler by `inspect`, which takes most of the time of
    making a service; those of an ordinary method are known without.
    """

    def add_method(
        self,
        method_name: str,
        method_fn: Callable[..., Any],
        rpc_signature: Any,
        method_signature: inspect.Signature | None = None,
    ) -> None:
        """Add the handler of a method. Raises ValueError if it has other parameters."""
        if method_signature is None and _takes_one_argument(method_fn):
            method_signature = _ONE_PARAMETER
        super().add_method(method_name, method_fn, rpc_signature, method_signature)


def _takes_one_argument(handler: Callable[..., Any]) -> bool:
    """Whether a handler is a method of the form `def Method(self, message)`, without decorators."""
    if type(handler) is not MethodType or type(handler.__func__) is not FunctionType:
        return False
    code = handler.__func__.__code__
    others = code.co_kwonlyargcount, code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    # A decorator may leave `__wrapped__` or `__signature__`.
    return code.co_argcount == 2 and not any(others) and not vars(handler.__func__)


def _method_from_signature(service: str, name: str, signature: Any) -> Method:
    streams = [side == "STREAM" for side in signature.cardinality.name.split("_")]
    return Method(service, name, signature.request_type, signature.response_type, *streams)


def collect_handlers(servicers: Iterable[Any]) -> dict[str, Handler]:
    """Map the path of each method of some servicers to its handler.

    Raises:
        UsageError: An object is not a purerpc servicer, or two of them serve one service.
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


FoundHandler = Handler | str | None
"""The handler of a method, or why the servicer of its service cannot be made, which is the message
of the status that the call fails with; None if the method is unknown."""


class HandlerTable:
    """Finds handlers, and makes servicers that are needed for the first time."""

    def __init__(self, servicers: Iterable[Any]) -> None:
        self.handlers: dict[str, Handler] = collect_handlers(servicers)
        """The handlers of all servicers that were made, by path."""
        self._lazy_servicers: dict[str, Callable[[], Any]] = {}
        self._lazy_prefixes: tuple[str, ...] = ()
        """What the paths of their methods begin with."""

    def add_lazy_servicer(self, service: str, factory: Callable[[], Any]) -> None:
        """Serve a service by a servicer that is made when the service is first called.

        If the factory raises, the error is logged and the call fails with UNAVAILABLE; the next
        call tries again, because modules cannot be imported while file descriptors are exhausted.
        """
        self._lazy_servicers[service] = factory
        self._update_lazy_prefixes()

    def _update_lazy_prefixes(self) -> None:
        self._lazy_prefixes = tuple(f"/{service}/" for service in self._lazy_servicers)

    def find(self, path: str) -> FoundHandler:
        """Return the handler of a method; None if the method is unknown."""
        handler = self.handlers.get(path)
        if handler is None and path.startswith(self._lazy_prefixes):
            service = path[1:].partition("/")[0]
            return self._make_servicer(service) or self.handlers.get(path)
        return handler

    def _make_servicer(self, service: str) -> str | None:
        """Make the servicer of a service; return the reason if that fails."""
        try:
            self.handlers |= collect_handlers([self._lazy_servicers[service]()])
        except Exception as exc:
            error = exc.strerror if isinstance(exc, OSError) else None
            _log.error("%s cannot be served now: %s", service, exc, exc_info=None if error else exc)
            reason = error or "its servicer cannot be created; see the log of the process"
            return f"{service} is unavailable: {reason}; call again later"
        del self._lazy_servicers[service]
        self._update_lazy_prefixes()
        return None


class StubChannel:
    """Base of the channels that generated stubs can be made for: `EchoServiceStub(channel)`.

    The methods below have the names of grpcio's; stubs made by protoc-gen-meshtrio call them with
    the path of a method, its request type and its response type, see `meshtrio.stubs.Channel`.
    """

    def make_multicallable(self, method: Method) -> Any:
        """Return the callable that a stub offers for a method."""
        raise NotImplementedError

    def unary_unary(self, path: str, *types: Any) -> Any:
        """Return the callable of a unary method."""
        return self.make_multicallable(Method.from_path(path, types, False, False))

    def unary_stream(self, path: str, *types: Any) -> Any:
        """Return the callable of a server-streaming method."""
        return self.make_multicallable(Method.from_path(path, types, False, True))

    def stream_unary(self, path: str, *types: Any) -> Any:
        """Return the callable of a client-streaming method."""
        return self.make_multicallable(Method.from_path(path, types, True, False))

    def stream_stream(self, path: str, *types: Any) -> Any:
        """Return the callable of a bidirectional method."""
        return self.make_multicallable(Method.from_path(path, types, True, True))


_original_get_method_stub = purerpc.Client.get_method_stub
_original_rpc = purerpc.Client.rpc


def _get_method_stub(client: purerpc.Client, method_name: str, signature: Any) -> Any:
    """Replace `purerpc.Client.get_method_stub`, which still serves purerpc's own channels."""
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
    """Replace `purerpc.Client.rpc`, which starts a call without knowing its cardinality."""
    if not isinstance(client.channel, StubChannel):
        return await _original_rpc(client, method_name, request_type, response_type, metadata)
    method = Method(client.service_name, method_name, request_type, response_type, True, True)
    return await client.channel.make_multicallable(method)(metadata=metadata)


purerpc.Client.get_method_stub = _get_method_stub
purerpc.Client.rpc = _rpc
purerpc.RpcFailedError.trailing_metadata = ()
purerpc.RpcFailedError.status_details = b""
