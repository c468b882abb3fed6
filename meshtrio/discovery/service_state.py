"""The state of one service in a registry."""

from __future__ import annotations

import attrs

from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.exit_info import ExitInfo


@attrs.frozen
class ServiceState:
    """An immutable snapshot of one service; a registry replaces it whole when it changes."""

    endpoints: tuple[Endpoint, ...] = ()
    """The endpoints that serve the service now, in the order of their registration."""
    exit_infos: tuple[ExitInfo, ...] = ()
    """Why earlier endpoints are gone, oldest first; the registry bounds the number."""
    service_config: str = ""
    """The service config in gRPC's JSON form, "" for the defaults."""
    unmanaged: bool = False
    """Whether no supervisor and no config is responsible for having endpoints, so that callers
    fail at once instead of waiting for one."""
