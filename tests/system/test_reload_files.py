"""`Reload` of paths that lead to no config: an answer with the reason, and a mesh that goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import control
from meshtrio.supervisor import events
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import echo_plugin_table


def _fifo(folder: Path) -> str:
    os.mkfifo(folder / "fifo")
    return str(folder / "fifo")


def _huge(folder: Path) -> str:
    with (folder / "huge.toml").open("wb") as file:
        file.truncate(2**40)
    return str(folder / "huge.toml")


ODD: dict[str, tuple[Callable[[Path], str], str]] = {
    "FIFO": (_fifo, "it is a FIFO"),
    "zero": (lambda _: "/dev/zero", "it is a device"),
    "terminal": (lambda _: "/dev/ptmx", "it is a device"),
    "folder": (str, "it is a folder"),
    "huge": (_huge, "larger than 1024 KiB"),
    "memory": (lambda _: "/proc/self/mem", "cannot be read"),
    "messages": (lambda _: "/proc/kmsg", "."),
    "core": (lambda _: "/proc/kcore", "."),
}


@pytest.mark.parametrize("kind", ODD)
async def test_reloading_what_is_no_config(short_dir: Path, kind: str) -> None:
    make, reason = ODD[kind]
    path = make(short_dir)
    async with run_mesh(echo_plugin_table(), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        async with (
            connect_to_mesh(watched.mesh.socket) as channel,
            watched.mesh.connect("plugin.echo") as calls,
        ):
            stub = DynamicStub(channel, control.DESCRIPTOR.services_by_name["Control"])
            with pytest.raises(purerpc.InvalidArgumentError, match=reason):
                await stub.Reload(control.ReloadRequest(path=path))
            with trio.fail_after(30):
                reply = await calls.stub(EchoServiceStub).Echo(EchoRequest(message="on"))
            assert reply.message == "on"
