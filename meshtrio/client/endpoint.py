"""Where a service can be called, and what became of the places where it no longer can."""

from __future__ import annotations

import socket

import attrs
import trio

from meshtrio.address import Address, TlsFiles
from meshtrio.backoff import Backoff
from meshtrio.texts import whole

RECONNECT = Backoff(initial=0.02, maximum=5.0, multiplier=1.6, jitter=0.2)
"""Between attempts to reach an endpoint that refuses: connections, and calls it turned away."""
RECONNECT_LOCAL = attrs.evolve(RECONNECT, maximum=0.5)
"""The same on this machine, where it costs next to nothing."""
RECONNECT_REGISTERED = attrs.evolve(RECONNECT, maximum=120.0)
"""The same for endpoints that programs or the config have registered, which may never have been
there. Source: gRPC's connection-backoff.md for multiplier, jitter and maximum; that it begins at
20 ms finds what has just been restarted."""
LOCAL, REMOTE = 0, 1
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
    priority: int = LOCAL
    tls: TlsFiles | None = None
    owner: int | None = None
    """The uid its server has to have, where somebody else than the mesh's user registered it."""

    @property
    def is_registered(self) -> bool:
        """Whether a registry lists it that does not know if anything listens there: the mesh does
        not run it, and it is no address that a channel was opened to."""
        return not self.pid and self.id != self.address

    @property
    def identity(self) -> str:
        """The same for the endpoint that takes its place when its plugin is started again."""
        return f"instance {self.instance}" if self.pid else self.address


@attrs.frozen
class Departure:
    """Why an endpoint is gone: `reason` is a sentence, the rest what is known of an exit."""

    endpoint_id: str
    reason: str
    exit_status: int | None = None
    signal: int | None = None
    stderr_tail: tuple[str, ...] = ()
    life: str = ""
    """The word of the process (MESH_LIFE), where a mesh ran it."""

    @property
    def died(self) -> bool:
        return self.exit_status is not None or self.signal is not None


@attrs.frozen
class ServiceState:
    """What a registry knows of one service at a moment."""

    endpoints: tuple[Endpoint, ...] = ()
    departures: tuple[Departure, ...] = ()
    """The latest ones, oldest first; bounded."""
    service_config: str = ""
    """gRPC's JSON form, "" for the defaults."""
    unattended: bool = False
    """Nobody sees to it that there are endpoints, so that callers do not wait for one."""


def host_of(address: str) -> str | None:
    """The host of a TCP address, None for a Unix socket."""
    return Address.parse(address).host or None


def target_of(name: str) -> str:
    """What telemetry calls a channel's service or address: the target in full, as gRPC writes it
    (gRFC A66: scheme://[authority]/path)."""
    name = whole(name)  # a socket's path need not be UTF-8, and metrics and channelz have to be
    if ":" not in name:
        return f"mesh:///{name}"
    try:
        where = Address.parse(name)
    except ValueError:
        return name  # Its endpoint will say what is wrong with it.
    # What gRPC has for a host and a port is its resolver, which asks the system as we do.
    return f"unix://{where.path}" if where.path else f"dns:///{str(where).removeprefix('tcp:')}"


async def connect(address: str) -> socket.socket:
    """Connect to an endpoint's address, giving a non-blocking socket the caller owns.

    Raises OSError where nothing listens, ValueError for an address of another form.
    """
    where = Address.parse(address)
    if where.path:
        return await _connect_unix(where.path)
    try:
        stream = await trio.open_tcp_stream(where.host, where.port)
    except OSError as exc:
        raise OSError(exc.errno, _why(exc)) from None
    return socket.socket(fileno=stream.socket.detach())


def _why(exc: OSError) -> str:
    """What all attempts of trio's to connect have failed with, which it only says that they did."""
    group = exc.__cause__
    if isinstance(group, BaseExceptionGroup):
        reasons = {getattr(each, "strerror", None) or str(each) for each in group.exceptions}
        return "; ".join(sorted(reasons))
    return exc.strerror or str(exc)


async def _connect_unix(path: str) -> socket.socket:
    """Never waits: a listener whose backlog is full gives EAGAIN, and is tried again later.

    trio's own connect takes that for "in progress" and gives a socket that is not connected.
    """
    await trio.lowlevel.checkpoint()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
