"""A server with what every gRPC tool expects of one: health and reflection beside the services."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from meshtrio.rpc.server import Server, ServerInterceptor
from meshtrio.services.health import HealthServicer
from meshtrio.wire.limits import Limits

_REFLECTION = {
    "grpc.reflection.v1.ServerReflection": "meshtrio.messages.reflection_v1",
    "grpc.reflection.v1alpha.ServerReflection": "meshtrio.messages.reflection_v1alpha",
}


def standard_server(
    *servicers: Any,
    limits: Limits | None = None,
    interceptors: Sequence[ServerInterceptor] = (),
) -> tuple[Server, HealthServicer]:
    """Make the server, and its health to be turned off when it stops. Raises UsageError.

    Reflection is not even imported before somebody asks for it: every plugin starts sooner.
    """
    health = HealthServicer()
    server = Server(*servicers, health, limits=limits, interceptors=interceptors)
    names = {handler.method.service for handler in server.handlers.values()}
    health.names |= names
    for service, messages in _REFLECTION.items():
        server.serve_when_called(
            service, partial(_reflection, server, messages, names | set(_REFLECTION))
        )
    return server, health


def _reflection(server: Server, messages: str, names: set[str]) -> Any:
    from meshtrio.services.reflection import ReflectionServicer

    return ReflectionServicer(import_module(messages), server.handlers.values(), names)
