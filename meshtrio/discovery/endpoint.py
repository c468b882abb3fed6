"""Where a service can be called, and what became of the places where it no longer can."""

from __future__ import annotations

import attrs

from meshtrio.util.address import Address, ClientTlsConfig
from meshtrio.util.backoff import Backoff
from meshtrio.util.text import replace_surrogates

RECONNECT_BACKOFF = Backoff(initial=0.02, maximum=5.0, multiplier=1.6, jitter=0.2)
"""Between attempts to reach an endpoint that refuses: connections, and calls it turned away."""
LOCAL_RECONNECT_BACKOFF = attrs.evolve(RECONNECT_BACKOFF, maximum=0.5)
"""The same on this machine, where it costs next to nothing."""
REGISTERED_RECONNECT_BACKOFF = attrs.evolve(RECONNECT_BACKOFF, maximum=120.0)
"""The same for endpoints that programs or the config have registered, which may never have been
there. Source: gRPC's connection-backoff.md for multiplier, jitter and maximum; that it begins at
20 ms finds what has just been restarted."""
LOCAL_PRIORITY, REMOTE_PRIORITY = 0, 1
"""Priorities: endpoints of the first are called while any of them is ready, then the others."""


@attrs.frozen
class Endpoint:
    """One place that serves a service, for as long as one process does.

    `id` is never used twice by a mesh, so a restarted plugin is a new endpoint on the same address.
    """

    id: str
    address: str
    """`unix:/path/to/socket` or `tcp:host:port`."""
    instance: int = 0
    pid: int = 0
    weight: int = 1
    """Of twice the weight, twice the calls, where the service's balancing goes by it."""
    priority: int = LOCAL_PRIORITY
    tls: ClientTlsConfig | None = None
    server_uid: int | None = None
    """The uid that its server has to run as, if it is a Unix socket: of a plugin, what the mesh
    found when it became ready; of a registration, the registrar if that is not the mesh's user. If
    it is None, any server is spoken to."""
    allow_root: bool = False
    """Root may serve it instead of `owner`: for addresses that a client knows by itself."""

    @property
    def allowed_server_uids(self) -> frozenset[int] | None:
        """The uids of which its server has to have one; None if any will do."""
        if self.server_uid is None:
            return None
        return frozenset({self.server_uid, 0}) if self.allow_root else frozenset({self.server_uid})

    @property
    def is_registered(self) -> bool:
        """Whether a registry lists it that does not know if anything listens there: the mesh does
        not run it, and it is no address that a channel was opened to."""
        return not self.pid and self.id != self.address

    @property
    def stable_id(self) -> str:
        """The same for the endpoint that takes its place when its plugin is started again."""
        return f"instance {self.instance}" if self.pid else self.address


@attrs.frozen
class ExitInfo:
    """Why an endpoint is gone: `reason` is a sentence, the rest what is known of an exit."""

    endpoint_id: str
    reason: str
    exit_status: int | None = None
    signal: int | None = None
    stderr_tail: tuple[str, ...] = ()
    launch_id: str = ""
    """The word of the process (MESH_LAUNCH_ID), where a mesh ran it."""

    @property
    def is_process_exit(self) -> bool:
        return self.exit_status is not None or self.signal is not None


@attrs.frozen
class ServiceState:
    """What a registry knows of one service at a moment."""

    endpoints: tuple[Endpoint, ...] = ()
    exit_infos: tuple[ExitInfo, ...] = ()
    """The latest ones, oldest first; bounded."""
    service_config: str = ""
    """gRPC's JSON form, "" for the defaults."""
    unmanaged: bool = False
    """Nobody sees to it that there are endpoints, so that callers do not wait for one."""


def canonical_target(name: str) -> str:
    """What telemetry calls a channel's service or address: the target in full, as gRPC writes it
    (gRFC A66: scheme://[authority]/path)."""
    name = replace_surrogates(
        name
    )  # a socket's path need not be UTF-8, and metrics and channelz have to be
    if ":" not in name:
        return f"mesh:///{name}"
    try:
        where = Address.parse(name)
    except ValueError:
        return name  # Its endpoint will say what is wrong with it.
    # What gRPC has for a host and a port is its resolver, which asks the system as we do.
    return f"unix://{where.path}" if where.path else f"dns:///{str(where).removeprefix('tcp:')}"
