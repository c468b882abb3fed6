"""A server with what gRPC tools expect of one (health, reflection, channelz), and a mesh asks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshtrio.levels import ProcessLevel
from meshtrio.rpc.server import Admit, Forwarder, Server, ServerInterceptor
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.services.health import HealthServicer, OthersHealth
from meshtrio.wire.limits import Limits

if TYPE_CHECKING:
    from meshtrio.services.reflection import Others
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
    admit: Admit | None = None,
    others: Others | None = None,
    others_health: OthersHealth | None = None,
    metrics: Metrics | None = None,
    log_level: ProcessLevel | None = None,
) -> tuple[Server, HealthServicer]:
    """Make the server, and its health to be turned off when it stops. Raises UsageError.

    `forwarder` and `admit` as in `Server`; `others`: what reflection is to tell of beside, and
    `others_health`: what health is to answer for beside;
    `metrics`: what the process measures, to be told to its mesh; `log_level`: what a mesh may
    change by meshtrio.v1.Logging, which is not served without it.
    All but health is not even imported before somebody asks for it: every plugin starts sooner.
    """
    health = HealthServicer(others=others_health)
    server = Server(
        *servicers,
        health,
        limits=limits,
        timeouts=timeouts,
        interceptors=interceptors,
        forwarder=forwarder,
        admit=admit,
    )
    names = {handler.method.service for handler in server.handlers.values()}
    names |= {_LOAD, _TAP, _CHANNELZ}
    if metrics is not None:
        names.add(_METRICS)
        server.serve_when_called(_METRICS, partial(_metrics, server, metrics))
    if log_level is not None:
        names.add(_LOGGING)
        server.serve_when_called(_LOGGING, partial(_logging, log_level))
    health.names |= names
    for service, messages in _REFLECTION.items():
        server.serve_when_called(
            service, partial(_reflection, server, messages, names | set(_REFLECTION), others)
        )
    server.serve_when_called(_LOAD, partial(_load, server, health))
    server.serve_when_called(_TAP, partial(_tap, server, health))
    server.serve_when_called(_CHANNELZ, _channelz)
    return server, health


def _load(server: Server, health: HealthServicer) -> Any:
    from meshtrio.services.load import LoadServicer

    return LoadServicer(server.meter, health.stopped)


def _logging(level: ProcessLevel) -> Any:
    from meshtrio.services.log_level import LoggingServicer

    return LoggingServicer(level)


def _tap(server: Server, health: HealthServicer) -> Any:
    from meshtrio.services.tap import TapServicer

    return TapServicer(server, health.stopped)


def _metrics(server: Server, metrics: Metrics) -> Any:
    from meshtrio.services.metrics import MetricsServicer

    return MetricsServicer(metrics.families, server.meter)


def _channelz() -> Any:
    from meshtrio.services.channelz import ChannelzServicer

    return ChannelzServicer()


def _reflection(server: Server, messages: str, names: set[str], others: Others | None) -> Any:
    for described in ("load", "logging", "metrics", "tap", "channelz"):
        import_module(f"meshtrio.messages.{described}")  # to be described, they have to be known
    from meshtrio.services.reflection import ReflectionServicer

    return ReflectionServicer(import_module(messages), server.handlers.values(), names, others)
