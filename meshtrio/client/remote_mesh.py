"""Clients of a mesh in another process: channels to its services, and endpoints of one's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Unpack

from meshtrio.client import registry_client
from meshtrio.client.channel import Channel, ChannelOptions, connect_to, open_channel
from meshtrio.client.mesh_connection import connect_to_mesh, mesh_socket_endpoint
from meshtrio.discovery.endpoint import Endpoint, ServiceState
from meshtrio.discovery.registry_messages import make_register_request
from meshtrio.http2.limits import UNLIMITED
from meshtrio.util.concurrency import open_collapsing_nursery, require_trio
from meshtrio.util.tls_config import ClientTlsConfig


@asynccontextmanager
async def connect(
    service: str,
    *,
    mesh_socket: Path | str | None = None,
    **options: Unpack[ChannelOptions],
) -> AsyncIterator[Channel]:
    """Open a channel to a service of a mesh in another process, for the block.

    The mesh only reports the endpoints: calls go straight to the plugins, and continue to work
    after the mesh has ended.

    Args:
        service: Name of the service: `plugin.<name>`, or one that is registered.
        mesh_socket: The path of the mesh socket. Defaults to the environment's MESH_SOCKET, else
            `mesh.sock` in the default runtime directory, which must belong to the same user or
            root.
        options: See `ChannelOptions`.

    Yields:
        A channel, whose calls end with the block.

    Raises:
        NoMeshError: No mesh answers.
        UntrustedMeshError: Another user serves, or could serve, in the mesh's place.
        NotFoundError: The mesh does not know the service; the text lists those it knows.
        ConfigError: The service config is malformed.
        UsageError: A message length is out of range.
    """
    require_trio("mesh.connect")
    async with connect_to_mesh(mesh_socket) as mesh:
        known = await registry_client.resolve_remote_service(mesh, service)
        where = mesh_socket_endpoint(mesh_socket)
    async with open_channel(
        service,
        partial(_watch_service, where, service),
        resolver_key=(where, service),
        initial_state=known,
        **options,
    ) as channel:
        yield channel


async def _watch_service(
    mesh_endpoint: Endpoint, service: str, update: Callable[[ServiceState], None]
) -> None:
    """Watch a service on the mesh socket: the resolver of all channels that a process has to it."""
    async with connect_to(mesh_endpoint, max_receive_message_length=UNLIMITED) as mesh:
        await registry_client.watch_remote_service(mesh, service, update)


@asynccontextmanager
async def register(
    service: str,
    address: Path | str,
    *,
    mesh_socket: Path | str | None = None,
    weight: int = 1,
    local: bool | None = None,
    tls: ClientTlsConfig | None = None,
) -> AsyncIterator[None]:
    """Register an endpoint with a mesh in another process, for the block.

    The registration is renewed whenever the mesh restarts, and ends with the block or the process.

    Args:
        service: Name of the service.
        address: The path of a Unix socket, `unix:/path` or `tcp:host:port`.
        mesh_socket: As in `connect`.
        weight: As in `Mesh.register`.
        local: As in `Mesh.register`.
        tls: As in `Mesh.register`.

    Raises:
        NoMeshError: No mesh answers when the block is entered.
        InvalidArgumentError: The endpoint cannot be registered.
        PermissionDeniedError: The mesh does not let this user register it.
        AbortedError: In the block: another client registered the same address.
    """
    require_trio("mesh.register")
    registration = make_register_request(service, address, weight, tls, local=local)
    async with connect_to_mesh(mesh_socket) as channel, open_collapsing_nursery() as nursery:
        await nursery.start(registry_client.keep_registered, channel, registration)
        yield
        nursery.cancel_scope.cancel()
