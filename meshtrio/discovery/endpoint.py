"""Endpoints: the addresses at which a service is served, and why earlier ones are gone."""

from __future__ import annotations

from functools import lru_cache

import attrs

from meshtrio.util.address import Address
from meshtrio.util.backoff import Backoff
from meshtrio.util.record import FrozenRecord
from meshtrio.util.text import replace_surrogates
from meshtrio.util.tls_config import ClientTlsConfig

RECONNECT_BACKOFF = Backoff(initial=0.02, maximum=5.0, multiplier=1.6, jitter=0.2)
"""Delays between attempts to reach an endpoint: connections, and calls that it refused."""
LOCAL_RECONNECT_BACKOFF = attrs.evolve(RECONNECT_BACKOFF, maximum=0.5)
"""As `RECONNECT_BACKOFF`, for endpoints on this machine, where an attempt costs next to nothing."""
REGISTERED_RECONNECT_BACKOFF = attrs.evolve(RECONNECT_BACKOFF, maximum=120.0)
"""As `RECONNECT_BACKOFF`, for endpoints that programs or the config have registered, which may
never have existed. Source: gRPC's connection-backoff.md for multiplier, jitter and maximum; the
initial 20 ms find a server that has just been restarted."""
LOCAL_PRIORITY, REMOTE_PRIORITY, OTHER_ZONE_PRIORITY = 0, 1, 2
"""Priorities of endpoints: the lower number is called while any endpoint of it is ready."""
IDLE_PRIORITY_STEP = 2
"""Added to the priority of another node whose plugin is idle, and is started by the first call."""


class Endpoint(FrozenRecord):
    """One address that serves a service, for the lifetime of one server process."""

    id: str
    """Identifies the endpoint. A mesh never uses an id twice, so a restarted plugin is a new
    endpoint on the same address."""
    address: str
    """The address to connect to: `unix:/path/to/socket` or `tcp:host:port`."""
    instance: int = 0
    """The number of the plugin's instance; 0 for endpoints that the mesh does not run."""
    pid: int = 0
    """The process id of the plugin; 0 for endpoints that the mesh does not run."""
    weight: int = 1
    """The share of calls relative to other endpoints, if the load balancing policy is weighted."""
    priority: int = LOCAL_PRIORITY
    """The priority of the endpoint: `LOCAL_PRIORITY`, `REMOTE_PRIORITY`, `OTHER_ZONE_PRIORITY`, or
    another one: lower numbers are called first."""
    tls: ClientTlsConfig | None = None
    """The TLS files for connections to it; None for plaintext."""
    server_uid: int | None = None
    """The uid that the server of a Unix socket must run as, None for any. For a plugin it is the
    uid found when the plugin became ready; for a registration, the uid of the registrar unless
    that is the mesh's own user."""
    allow_root: bool = False
    """Whether root may serve it instead of `server_uid`: for addresses not given by a registry."""
    node: str = ""
    """The node that has registered it in etcd, or its key if a program has; "" for this mesh's."""
    is_gateway: bool = False
    """Whether the address is that of the node's gateway, which several services share."""

    @property
    def allowed_server_uids(self) -> frozenset[int] | None:
        """The uids that its server may run as; None for any."""
        if self.server_uid is None:
            return None
        return frozenset({self.server_uid, 0}) if self.allow_root else frozenset({self.server_uid})

    @property
    def is_registered(self) -> bool:
        """Whether a program or the config has registered it, so that it may not exist: the mesh
        does not run it, and it is not an address that a channel was opened to."""
        return not self.pid and self.id != self.address

    @property
    def is_idle_node(self) -> bool:
        """Whether it is the gateway of another node, which starts an idle plugin for a call."""
        return bool(self.node) and self.priority >= REMOTE_PRIORITY + IDLE_PRIORITY_STEP

    @property
    def reconnect_backoff(self) -> Backoff:
        """The delays between attempts to connect to it."""
        if self.is_registered and not self.node:
            return REGISTERED_RECONNECT_BACKOFF
        is_local = Address.parse(self.address).is_unix
        return LOCAL_RECONNECT_BACKOFF if is_local else RECONNECT_BACKOFF

    @property
    def connection_key(self) -> Endpoint:
        """What connections are shared for: this endpoint without what only concerns picking it.

        Connections to the gateway of a node are shared by all services that it has.
        """
        shared = {"id": self.address, "instance": 0} if self.is_gateway else {}
        return self.replace(weight=1, priority=LOCAL_PRIORITY, **shared)

    @property
    def stable_id(self) -> str:
        """An identifier that stays the same when the plugin is restarted."""
        if self.node and not self.is_gateway:
            return f"{self.node} instance {self.instance}"
        return f"instance {self.instance}" if self.pid else self.address


class ExitInfo(FrozenRecord):
    """Describes the end of an endpoint, and of the process behind it if the mesh ran one."""

    endpoint_id: str
    """The `Endpoint.id` of the endpoint that is gone."""
    reason: str
    """A sentence for people: why the endpoint is gone."""
    exit_status: int | None = None
    """The exit status of the process, None if it did not exit by itself or is unknown."""
    signal: int | None = None
    """The number of the signal that killed the process, None if none did."""
    stderr_tail: tuple[str, ...] = ()
    """The last lines that the process wrote to stderr, oldest first."""
    launch_id: str = ""
    """The launch id of the process (its `MESH_LAUNCH_ID`), "" if no mesh ran it."""

    @property
    def is_process_exit(self) -> bool:
        """Whether the process ended, rather than only its registration."""
        return self.exit_status is not None or self.signal is not None


class ServiceState(FrozenRecord):
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

    on_demand: bool = False
    """Whether a plugin is idle, or being started, and a call that waits for an endpoint has to be
    reported to its mesh, which starts it."""

    def without_other_nodes(self) -> ServiceState:
        """Return a copy with the endpoints of this mesh only."""
        return self.replace(endpoints=tuple(each for each in self.endpoints if not each.node))

    def without_idle_nodes(self) -> ServiceState:
        """Return a copy without other nodes that would start their plugin for a call."""
        kept = tuple(each for each in self.endpoints if not each.is_idle_node)
        return self.replace(endpoints=kept)


@lru_cache(256)
def canonical_target(name: str) -> str:
    """Return the target of a channel as telemetry shows it: a URI with scheme and path.

    Source: gRFC A66.
    """
    # A socket's path need not be UTF-8; metrics and channelz must be.
    name = replace_surrogates(name)
    if ":" not in name:
        return f"mesh:///{name}"
    try:
        where = Address.parse(name)
    except ValueError:
        return name  # Connecting to the endpoint reports what is wrong with it.
    # gRPC calls the resolver of a host and port "dns"; it asks the system, as we do.
    return f"unix://{where.path}" if where.path else f"dns:///{str(where).removeprefix('tcp:')}"
