"""Makes a server with the standard services: those of gRPC tools, and those that a mesh calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshtrio.http2.limits import Limits
from meshtrio.rpc.budget_settings import BudgetSettings
from meshtrio.rpc.server import Server
from meshtrio.rpc.server_call import ServerInterceptor
from meshtrio.rpc.server_connection import AccessCheck, Forwarder
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.services.health import HealthServicer, HealthSource
from meshtrio.util.log_level import ProcessLogLevel

if TYPE_CHECKING:
    from meshtrio.services.reflection import GetReflectionSources
    from meshtrio.telemetry.metrics import Metrics

_REFLECTION = {
    "grpc.reflection.v1.ServerReflection": "meshtrio.messages.reflection_v1",
    "grpc.reflection.v1alpha.ServerReflection": "meshtrio.messages.reflection_v1alpha",
}


def standard_server(
    *servicers: Any,
    limits: Limits | None = None,
    budget_settings: BudgetSettings | None = None,
    timeouts: Timeouts | None = None,
    interceptors: Sequence[ServerInterceptor] = (),
    forwarder: Forwarder | None = None,
    admit: AccessCheck | None = None,
    get_proxied_sources: GetReflectionSources | None = None,
    health_source: HealthSource | None = None,
    metrics: Metrics | None = None,
    log_level: ProcessLogLevel | None = None,
) -> tuple[Server, HealthServicer]:
    """Make a server with health, reflection, channelz, load and tap services.

    All but health are imported at their first call, so that plugins start sooner. The arguments are
    those of `Server`, and: `get_proxied_sources` returns what reflection describes in addition to
    the server's services, `health_source` has the health of those that it does not serve itself.
    Without `metrics` or `log_level`, meshtrio.v1.Metrics or Logging is not served.

    Returns the server, and its health servicer for the graceful shutdown. Raises UsageError if the
    servicers cannot be served.
    """
    health = HealthServicer(fallback=health_source)
    server = Server(
        *servicers,
        health,
        limits=limits,
        budget_settings=budget_settings,
        timeouts=timeouts,
        interceptors=interceptors,
        forwarder=forwarder,
        check_access=admit,
    )
    recorder, stopping = server.load_recorder, health.shutdown_started
    lazy: dict[str, Callable[[], Any]] = {
        "meshtrio.v1.Load": _lazy("load.LoadServicer", recorder, stopping),
        "meshtrio.v1.Tap": _lazy("tap.TapServicer", server, stopping),
        "grpc.channelz.v1.Channelz": _lazy("channelz.ChannelzServicer"),
    }
    if metrics is not None:
        lazy["meshtrio.v1.Metrics"] = _lazy("metrics.MetricsServicer", metrics.collect, recorder)
    if log_level is not None:
        lazy["meshtrio.v1.Logging"] = _lazy("log_level.LoggingServicer", log_level)
    handlers = server.handler_table.handlers
    health.service_names |= {each.method.service for each in handlers.values()} | {*lazy}
    names = health.service_names - {""} | {*_REFLECTION}
    for service, messages in _REFLECTION.items():
        lazy[service] = partial(_make_reflection, server, messages, names, get_proxied_sources)
    for service, make in lazy.items():
        server.handler_table.add_lazy_servicer(service, make)
    return server, health


def _lazy(name: str, *args: Any) -> Callable[[], Any]:
    """Return a function that imports the class of a servicer, and makes one."""
    module, _, kind = name.partition(".")
    return lambda: getattr(import_module(f"meshtrio.services.{module}"), kind)(*args)


def _make_reflection(
    server: Server,
    messages: str,
    service_names: set[str],
    get_proxied_sources: GetReflectionSources | None,
) -> Any:
    for described in ("load", "logging", "metrics", "tap", "channelz"):
        import_module(f"meshtrio.messages.{described}")  # to be described, they have to be known
    from meshtrio.services.reflection import ReflectionServicer

    module, handlers = import_module(messages), server.handler_table.handlers.values()
    return ReflectionServicer(module, handlers, service_names, get_proxied_sources)
