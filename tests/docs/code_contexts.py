"""What parts of programs on the pages stand in: each runs the code it is given, as `body()`."""

from __future__ import annotations

import itertools
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import purerpc
import trio
from echo.v1.echo_grpc import EchoServiceServicer, EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio import mesh, plugin
from meshtrio.client.interceptors import call_credentials
from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.errors import PluginDiedError
from meshtrio.util.concurrency import open_collapsing_nursery
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import ECHO_PLUGIN_DIRECTORY, echo_plugin_table

_TIMEOUT = 120
_NAMES = {
    "EchoReply": EchoReply,
    "EchoRequest": EchoRequest,
    "EchoServiceServicer": EchoServiceServicer,
    "EchoServiceStub": EchoServiceStub,
    "MeshConfig": MeshConfig,
    "PluginConfig": PluginConfig,
    "PluginDiedError": PluginDiedError,
    "RepeatRequest": RepeatRequest,
    "asynccontextmanager": asynccontextmanager,
    "call_credentials": call_credentials,
    "plugin": plugin,
    "purerpc": purerpc,
    "trio": trio,
}


async def _run(code: str, names: dict[str, Any]) -> None:
    scope = _NAMES | names
    exec(compile(code, "page", "exec"), scope)
    with trio.fail_after(_TIMEOUT):
        await scope["body"]()


class _InProcessMesh:
    """`meshtrio.mesh` as a program sees it whose mesh is found by itself."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self.main = mesh.main

    def connect(self, service: str, **options: Any) -> Any:
        return mesh.connect(service, mesh_socket=self._socket, **options)

    def register(self, service: str, socket: Any, **options: Any) -> Any:
        return mesh.register(service, socket, mesh_socket=self._socket, **options)


async def client(code: str, folder: Path) -> None:
    """`m` is a running mesh with the echo plugin, and `mesh` finds it from elsewhere."""
    numbers = itertools.count()
    home = Path(shutil.os.path.realpath(folder.parent / "m"))
    home.mkdir(exist_ok=True)
    async with run_mesh(echo_plugin_table(), home) as watched:
        here = _InProcessMesh(watched.mesh.socket)
        await _run(code, {"m": watched.mesh, "mesh": here, "new_id": lambda: str(next(numbers))})


async def app(code: str, folder: Path) -> None:
    """`nursery` of an app, in a folder with a mesh.toml; `mesh` is the module."""
    (folder / "mesh.toml").write_text(
        f'[mesh]\nruntime_dir = "{folder}/r"\n\n' + echo_plugin_table()
    )
    async with open_collapsing_nursery() as nursery:
        names = {"nursery": nursery, "mesh": mesh, "HERE": folder, "ECHO": ECHO_PLUGIN_DIRECTORY}
        await _run(code.replace('"mesh.toml"', f'"{folder}/mesh.toml"'), names)
        nursery.cancel_scope.cancel()
