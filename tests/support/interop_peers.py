"""The mesh of peers on foreign stacks, and the routes to them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import attrs

from tests.interop.foreign_peers import ForeignClient, MeshtrioClient
from tests.support.mesh_processes import MeshProcess

ROUTES = ("direct", "gateway")
"""Calls go straight to the plugin's socket, or are passed on by the mesh socket."""


FOREIGN_ROUTES = (*ROUTES, "tcp")
"""Of foreign clients: to the gateway on TCP as well."""


@attrs.frozen
class PeerMesh:
    """The shared mesh, and the port of its gateway."""

    mesh: MeshProcess
    port: int

    def address(self, name: str, route: str) -> str:
        """Return the address at which a foreign client reaches a plugin."""
        if route == "tcp":
            return f"127.0.0.1:{self.port}"
        socket = f"{name}-0.sock" if route == "direct" else "mesh.sock"
        return f"unix:{self.mesh.runtime_dir / socket}"


ConnectMeshtrioClient = Callable[..., AbstractAsyncContextManager[MeshtrioClient]]


ConnectForeignClient = Callable[..., ForeignClient]
