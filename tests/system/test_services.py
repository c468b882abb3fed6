"""Services beyond a mesh's own plugins: registered for a block, and by a [[service]] table."""

from __future__ import annotations

from pathlib import Path

import attrs
import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh
from meshtrio.config import StaticServiceConfig
from meshtrio.grpc.service_config import LoadBalancingPolicy
from meshtrio.rpc.server import Server
from meshtrio.util.errors import UsageError
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import echo_plugin_table
from tests.support.servers import serve_on_socket, servicer_named

ROUND_ROBIN = {"loadBalancingConfig": [{"round_robin": {}}]}


async def answers(service: str, socket: Path) -> str:
    async with mesh.connect(service, mesh_socket=socket) as channel:
        with trio.fail_after(30):
            reply = await channel.stub(EchoServiceStub).Echo(EchoRequest(message="hi"))
    return str(reply.message)


async def test_an_endpoint_is_registered_for_a_block(short_dir: Path) -> None:
    async with (
        run_mesh("", short_dir) as watched,
        serve_on_socket(short_dir / "other", Server(servicer_named("o"))),
    ):
        m = watched.mesh
        with m.register("thing", f"unix:{short_dir}/other"):
            assert await answers("thing", m.socket) == "o"
            with pytest.raises(UsageError, match="registered already"):
                with m.register("thing", f"unix:{short_dir}/other"):
                    pass
        async with m.connect("thing") as channel:
            stub = channel.stub(EchoServiceStub)
            # Nobody sees to it that there will be an endpoint again.
            with (
                trio.fail_after(30),
                pytest.raises(purerpc.UnavailableError, match="was deregistered"),
            ):
                await stub.Echo(EchoRequest())
            with trio.move_on_after(0.05) as scope:
                await stub.Echo(EchoRequest(), wait_for_ready=True)
            assert scope.cancelled_caught
        with pytest.raises(UsageError, match="neither unix"), m.register("thing", "nowhere"):
            pass


async def test_a_table_adds_endpoints_and_says_how_to_call(short_dir: Path) -> None:
    table = StaticServiceConfig(
        "plugin.echo", [f"unix:{short_dir}/other"], config=ROUND_ROBIN, local=True
    )
    async with (
        serve_on_socket(short_dir / "other", Server(servicer_named("o"))),
        run_mesh(echo_plugin_table(), short_dir) as watched,
    ):
        m = watched.mesh
        async with mesh.connect("plugin.echo", mesh_socket=m.socket) as channel:
            stub = channel.stub(EchoServiceStub)
            with trio.fail_after(20):
                assert (await stub.Echo(EchoRequest(message="hi"))).message == "hi"
                await m.reload(attrs.evolve(m.config, services=[table]))
                found = set()
                while found != {"hi", "o"}:
                    found.add((await stub.Echo(EchoRequest(message="hi"))).message)
                assert (
                    channel.service_config.load_balancing.policy is LoadBalancingPolicy.ROUND_ROBIN
                )
                await m.reload(attrs.evolve(m.config, services=[]))
                while (
                    channel.service_config.load_balancing.policy is LoadBalancingPolicy.ROUND_ROBIN
                ):
                    await trio.lowlevel.checkpoint()
                assert {
                    (await stub.Echo(EchoRequest(message="hi"))).message for _ in range(10)
                } == {"hi"}
                await m.reload(attrs.evolve(m.config, services=[StaticServiceConfig("other")]))
                async with m.connect("other"):
                    pass
                await m.reload(attrs.evolve(m.config, services=[]))
                with pytest.raises(purerpc.NotFoundError, match=r"known services: plugin\.echo"):
                    async with m.connect("other"):
                        pass
        # The config of the caller overrides that of the service.
        async with m.connect("plugin.echo", service_config=ROUND_ROBIN) as channel:
            policy = channel.service_config.load_balancing.policy
            assert policy is LoadBalancingPolicy.ROUND_ROBIN
