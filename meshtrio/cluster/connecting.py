"""Channels to services of nodes, from programs that have no mesh on their host."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from meshtrio import contract
from meshtrio.client import remote_mesh
from meshtrio.client.channel import Channel, ChannelOptions
from meshtrio.util.concurrency import require_trio
from meshtrio.util.errors import UsageError

if TYPE_CHECKING:
    from meshtrio.config import DiscoveryConfig

DISCOVERY_VARIABLE = "MESH_DISCOVERY"
"""Where programs find services that have no mesh on their host: see `connect`."""


@asynccontextmanager
async def connect(
    service: str,
    *,
    mesh_socket: Path | str | None = None,
    discovery: DiscoveryConfig | Path | str | None = None,
    **options: Unpack[ChannelOptions],
) -> AsyncIterator[Channel]:
    """Open a channel to a service, for the block: by the mesh on this host, or by etcd.

    The mesh, or etcd, only reports the endpoints: calls go straight to the plugins, or to the
    gateways of their nodes, and continue to work after the mesh or etcd has ended.

    Args:
        service: Name of the service: `plugin.<name>`, or one that is registered.
        mesh_socket: The path of the mesh socket. Defaults to the environment's MESH_SOCKET, else
            `mesh.sock` in the default runtime directory, which must belong to the same user or
            root.
        discovery: Where to find the service without a mesh on this host: the URL
            `etcd://host:port,host:port/prefix`, the path of a file with a [mesh.discovery] table,
            or a `DiscoveryConfig`. Defaults to the environment's MESH_DISCOVERY if neither
            `mesh_socket` nor MESH_SOCKET is set.
        options: See `ChannelOptions`.

    Yields:
        A channel, whose calls end with the block.

    Raises:
        NoMeshError: No mesh answers.
        UntrustedMeshError: Another user serves, or could serve, in the mesh's place.
        NotFoundError: The mesh, or etcd, does not know the service.
        ConfigError: The service config, or the file, is malformed.
        EtcdError: etcd cannot be reached, or refuses.
        UsageError: A message length or `max_busy_poll` is out of range, MESHTRIO_BUSY_POLL is
            invalid, or `discovery` and `mesh_socket` are both given.
    """
    require_trio("mesh.connect")
    if discovery is not None and mesh_socket is not None:
        raise UsageError("mesh.connect takes either mesh_socket or discovery, not both")
    if discovery is None and mesh_socket is None and contract.MESH_SOCKET not in os.environ:
        discovery = os.environ.get(DISCOVERY_VARIABLE) or None
    if discovery is None:
        channel_by_mesh = remote_mesh.connect(service, mesh_socket=mesh_socket, **options)
        async with channel_by_mesh as channel:
            yield channel
        return
    # Clients of a mesh on their host need not import it.
    from meshtrio.cluster.etcd_resolver import connect_by_etcd

    async with connect_by_etcd(service, discovery, **options) as channel:
        yield channel
