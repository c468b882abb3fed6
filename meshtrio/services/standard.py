"""Makes a server with the standard services: those of gRPC tools, and those that a mesh calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshtrio.http2.limits import Limits
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
_LOAD = "meshtrio.v1.Load"
_LOGGING = "meshtrio.v1.Logging"
_METRICS = "meshtrio.v1.Metrics"
_TAP = "meshtrio.v1.Tap"
_CHANNELZ = "grpc.channelz.v1.Channelz"


def standard_server(
    *servicers: Any,
    limits: Limits | None = None,
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

    All but health are imported at their first call, so that plugins start sooner.

    Args:
        servicers: The servicers of the application.
        limits: Limits of the server's connections.
        timeouts: Timeouts of the server's connections.
        interceptors: Interceptors of the server's calls.
        forwarder: Takes calls that are to be forwarded; see `Server`.
        admit: Returns why a call is denied, "" if it is permitted; see `Server`.
        get_proxied_sources: Returns what reflection describes in addition to the server's services.
        health_source: The health of services that the server does not serve itself.
        metrics: The metrics of the process; without it meshtrio.v1.Metrics is not served.
        log_level: The log level of the process; without it meshtrio.v1.Logging is not served.

    Returns:
        The server, and its health servicer for the graceful shutdown.

    Raises:
        UsageError: The servicers cannot be served.
    """
    health = HealthServicer(fallback=health_source)
    server = Server(
        *servicers,
        health,
        limits=limits,
        timeouts=timeouts,
        interceptors=interceptors,
        forwarder=forwarder,
        check_access=admit,
    )
    names = {handler.method.service for handler in server.handlers.values()}
    names |= {_LOAD, _TAP, _CHANNELZ}
    if metrics is not None:
        names.add(_METRICS)
        server.add_lazy_servicer(_METRICS, partial(_make_metrics_servicer, server, metrics))
    if log_level is not None:
        names.add(_LOGGING)
        server.add_lazy_servicer(_LOGGING, partial(_make_logging_servicer, log_level))
    health.service_names |= names
    for service, messages in _REFLECTION.items():
        server.add_lazy_servicer(
            service,
            partial(
                _make_reflection_servicer,
                server,
                messages,
                names | set(_REFLECTION),
                get_proxied_sources,
            ),
        )
    server.add_lazy_servicer(_LOAD, partial(_make_load_servicer, server, health))
    server.add_lazy_servicer(_TAP, partial(_make_tap_servicer, server, health))
    server.add_lazy_servicer(_CHANNELZ, _make_channelz_servicer)
    return server, health


def _make_load_servicer(server: Server, health: HealthServicer) -> Any:
    from meshtrio.services.load import LoadServicer

    return LoadServicer(server.load_recorder, health.shutdown_started)


def _make_logging_servicer(level: ProcessLogLevel) -> Any:
    from meshtrio.services.log_level import LoggingServicer

    return LoggingServicer(level)


def _make_tap_servicer(server: Server, health: HealthServicer) -> Any:
    from meshtrio.services.tap import TapServicer

    return TapServicer(server, health.shutdown_started)


def _make_metrics_servicer(server: Server, metrics: Metrics) -> Any:
    from meshtrio.services.metrics import MetricsServicer

    return MetricsServicer(metrics.collect, server.load_recorder)


def _make_channelz_servicer() -> Any:
    from meshtrio.services.channelz import ChannelzServicer

    return ChannelzServicer()


def _make_reflection_servicer(
    server: Server,
    messages: str,
    service_names: set[str],
    get_proxied_sources: GetReflectionSources | None,
) -> Any:
    for described in ("load", "logging", "metrics", "tap", "channelz"):
        import_module(f"meshtrio.messages.{described}")  # to be described, they have to be known
    from meshtrio.services.reflection import ReflectionServicer

    return ReflectionServicer(
        import_module(messages), server.handlers.values(), service_names, get_proxied_sources
    )
