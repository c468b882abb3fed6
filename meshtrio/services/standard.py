"""Adds the standard services to a server: those of gRPC tools, and those that a mesh calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshtrio.rpc.server import Server
from meshtrio.services.health import HealthServicer
from meshtrio.util.log_level import ProcessLogLevel

if TYPE_CHECKING:
    from meshtrio.services.reflection import GetReflectionSources
    from meshtrio.telemetry.metrics import Metrics

_REFLECTION = {
    "grpc.reflection.v1.ServerReflection": "reflection_v1",
    "grpc.reflection.v1alpha.ServerReflection": "reflection_v1alpha",
}


def add_standard_services(
    server: Server,
    health: HealthServicer,
    *,
    get_proxied_sources: GetReflectionSources | None = None,
    metrics: Metrics | None = None,
    log_level: ProcessLogLevel | None = None,
) -> None:
    """Add reflection, channelz, load and tap services to a server that serves `health`.

    They are imported at their first call, so that plugins start sooner. `get_proxied_sources`
    returns what reflection describes in addition to the server's services. Without `metrics` or
    `log_level`, meshtrio.v1.Metrics or Logging is not served.
    """
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
    for service, version in _REFLECTION.items():
        lazy[service] = partial(_make_reflection, server, version, names, get_proxied_sources)
    for service, make in lazy.items():
        server.handler_table.add_lazy_servicer(service, make)


def _lazy(name: str, *args: Any) -> Callable[[], Any]:
    """Return a function that imports the class of a servicer, and makes one."""
    module, _, kind = name.partition(".")
    return lambda: getattr(import_module(f"meshtrio.services.{module}"), kind)(*args)


def _make_reflection(
    server: Server,
    version: str,
    service_names: set[str],
    get_proxied_sources: GetReflectionSources | None,
) -> Any:
    # To be described, the others have to be known.
    from meshtrio import messages
    from meshtrio.messages import channelz, load, logging, metrics, tap  # noqa: F401
    from meshtrio.services.reflection import ReflectionServicer

    module, handlers = getattr(messages, version), server.handler_table.handlers.values()
    return ReflectionServicer(module, handlers, service_names, get_proxied_sources)
