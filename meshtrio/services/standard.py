"""A server with what every gRPC tool expects of one: health and reflection beside the services."""

from __future__ import annotations

from typing import Any

from meshtrio.rpc.seam import handlers_of
from meshtrio.rpc.server import Server
from meshtrio.services.health import HealthServicer
from meshtrio.services.reflection import reflection_servicers
from meshtrio.wire.limits import Limits


def standard_server(*servicers: Any, limits: Limits | None = None) -> tuple[Server, HealthServicer]:
    """Make the server, and its health to be turned off when it stops. Raises UsageError."""
    handlers = handlers_of(servicers)
    health = HealthServicer({handler.method.service for handler in handlers.values()})
    reflection = reflection_servicers({**handlers, **handlers_of([health])})
    return Server(*servicers, health, *reflection, limits=limits), health
