"""Whom a call goes to: by what it calls, or by what its caller says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import Channel, connect_to
from meshtrio.client.multicallable import DynamicStub
from meshtrio.client.reflection import fetch_types, list_services
from meshtrio.discovery.endpoint import ExitInfo
from meshtrio.messages import health, reflection_v1
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.gateways import GatewayHarness, run_gateway, server_with_reflection
from tests.support.servers import serve_on_socket, servicer_named, standard_server

ECHO = "echo.v1.EchoService"


async def ask(channel: Channel, **options: Any) -> str:
    with trio.fail_after(30):
        reply = await channel.stub(EchoServiceStub).Echo(echo_request("?"), **options)
    return str(reply.message)


async def test_by_the_grpc_service_as_it_is_learned(short_dir: Path) -> None:
    async with run_gateway(
        short_dir, a=server_with_reflection(servicer_named("a")), b=server_with_reflection()
    ) as behind:
        assert await ask(behind.channel) == "a"


async def test_by_the_config_where_there_is_no_reflection(short_dir: Path) -> None:
    async with run_gateway(short_dir, {"a": [ECHO]}, a=Server(servicer_named("a"))) as behind:
        assert await ask(behind.channel) == "a"


async def test_by_metadata_and_by_authority(short_dir: Path) -> None:
    servers = {
        "a": server_with_reflection(servicer_named("a")),
        "b": server_with_reflection(servicer_named("b")),
    }
    async with run_gateway(short_dir, {"a": [ECHO], "b": [ECHO]}, **servers) as behind:
        with pytest.raises(purerpc.FailedPreconditionError, match=r"served by a, b; choose one"):
            await ask(behind.channel)
        assert await ask(behind.channel, metadata=[("x-mesh-target", "a")]) == "a"
        assert await ask(behind.channel, metadata=[("x-mesh-target", "b")]) == "b"
        async with behind.connect_with_authority("b") as channel:
            assert await ask(channel) == "b"
            assert await ask(channel, metadata=[("x-mesh-target", "a")]) == "a"


async def test_an_authority_counts_once_a_service_of_that_name_is_declared(short_dir: Path) -> None:
    """Also for a client whose calls have gone elsewhere until then."""
    async with run_gateway(short_dir, a=server_with_reflection(servicer_named("a"))) as behind:
        async with behind.connect_with_authority("b") as channel:
            for _ in range(3):
                assert await ask(channel) == "a"
                await trio.testing.wait_all_tasks_blocked(0.02)
            replies = []

            async def call() -> None:
                replies.append(await ask(channel))

            async with trio.open_nursery() as nursery:
                behind.registry.add_service("b")
                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked(0.02)
                assert replies == []
                async with behind.serve_endpoint("b", Server(servicer_named("b"))):
                    while not replies:
                        await trio.testing.wait_all_tasks_blocked(0.02)
            assert replies == ["b"]


async def test_routes_of_two_meshes_in_one_process_are_their_own(short_dir: Path) -> None:
    """Although calls with a timeout share what is the same in their headers."""
    config = {"a": [ECHO]}
    async with AsyncExitStack() as stack:
        enter, channels = stack.enter_async_context, {}
        for name in ("one", "two"):
            (short_dir / name).mkdir()
            server = server_with_reflection(servicer_named(name))
            mesh = await enter(run_gateway(short_dir / name, config, a=server))
            channels[name] = await enter(mesh.connect_with_authority("same"))
        for _ in range(3):
            for name, channel in channels.items():
                assert await ask(channel) == name
                await trio.testing.wait_all_tasks_blocked(0.02)


@pytest.mark.parametrize("first", ["a", "b"])
async def test_of_two_that_claim_the_same_the_first_in_the_config_is_called(
    first: str, short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A plugin that claims what another serves neither breaks nor diverts its calls."""
    second = "b" if first == "a" else "a"
    servers = {name: server_with_reflection(servicer_named(name)) for name in "ab"}
    async with run_gateway(short_dir, {first: [], second: []}, **servers) as behind:
        assert await ask(behind.channel) == first
        assert await ask(behind.channel, metadata=[("x-mesh-target", second)]) == second
        found = await behind.gateway.service_index.list_reflection_sources()
        assert [each.label for each in found] == [first, second]
    text = f"{first} and {second} both claim {ECHO}: calls without a target go to {first}"
    assert caplog.text.count(text) == 1


async def test_a_conflict_is_told_again_when_it_returns(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also between a service and another program that has taken the name of one that is gone."""
    text = f"a and b both claim {ECHO}"
    async with run_gateway(short_dir, a=server_with_reflection(servicer_named("a"))) as behind:
        index = behind.gateway.service_index
        await index.refresh()

        async def refresh_with(name: str, *servicers: object) -> int:
            async with serve_on_socket(short_dir / name, server_with_reflection(*servicers)):
                with behind.register_endpoint("b", short_dir / name):
                    await index.refresh()
            return caplog.text.count(text)

        assert await refresh_with("claiming", servicer_named("b")) == 1
        assert await refresh_with("unchanged", servicer_named("b")) == 1
        assert await refresh_with("without") == 1
        assert await refresh_with("back", servicer_named("b")) == 2
        index.remove("b")
        assert await refresh_with("new", servicer_named("b")) == 3


async def test_one_that_claims_it_before_the_first_in_the_config_is_ready(short_dir: Path) -> None:
    async with run_gateway(
        short_dir, {"a": [], "b": []}, b=server_with_reflection(servicer_named("b"))
    ) as behind:
        behind.registry.add_service("a")
        assert await ask(behind.channel) == "b"
        async with behind.serve_endpoint("a", server_with_reflection(servicer_named("a"))):
            assert await ask(behind.channel) == "a"
        # As long as it is known, its calls wait for it.
        assert behind.gateway.service_index.lookup(ECHO) == "a"


async def test_what_programs_register_is_in_the_order_of_asking(short_dir: Path) -> None:
    async with run_gateway(short_dir, z=server_with_reflection(servicer_named("z"))) as behind:
        behind.registry.remove_service("z")
        assert await ask(behind.channel) == "z"
        async with behind.serve_endpoint("a", server_with_reflection(servicer_named("a"))):
            behind.registry.remove_service("a")
            await behind.gateway.service_index.refresh()
            assert await ask(behind.channel) == "z"


async def test_what_the_mesh_serves_itself_is_passed_on_only_where_that_is_said(
    short_dir: Path,
) -> None:
    descriptor = health.DESCRIPTOR.services_by_name["Health"]
    asked = health.HealthCheckRequest(service=ECHO)
    server, plugins_health = standard_server(servicer_named("a"))
    async with run_gateway(short_dir, a=server) as behind:
        stub = DynamicStub(behind.channel, descriptor)
        plugins_health.shutdown_started.set()
        reply = await stub.Check(asked)
        assert reply.status == health.HealthCheckResponse.SERVING
        reply = await stub.Check(asked, metadata=[("x-mesh-target", "a")])
        assert reply.status == health.HealthCheckResponse.NOT_SERVING


async def test_what_nobody_serves_is_told_with_what_is_served(short_dir: Path) -> None:
    async with run_gateway(short_dir, a=server_with_reflection(CallbackServicer())) as behind:
        client = purerpc.Client("no.such.Service", behind.channel)
        signature = purerpc.RPCSignature(purerpc.Cardinality.UNARY_UNARY, EchoRequest, EchoReply)
        method = client.get_method_stub("Method", signature)
        with pytest.raises(purerpc.UnimplementedError, match=rf"known gRPC services: {ECHO}"):
            await method(echo_request("?"))
        with pytest.raises(purerpc.NotFoundError, match="known services: a"):
            await ask(behind.channel, metadata=[("x-mesh-target", "c")])


async def test_one_that_is_not_ready_yet_may_serve_it(short_dir: Path) -> None:
    async with run_gateway(short_dir) as behind:
        behind.registry.add_service("a")
        with pytest.raises(purerpc.UnavailableError, match="not ready yet: a"):
            await ask(behind.channel)
        async with behind.serve_endpoint("a", server_with_reflection(servicer_named("a"))):
            assert await ask(behind.channel) == "a"


async def test_who_is_known_to_serve_it_is_waited_for_within_the_deadline(short_dir: Path) -> None:
    async with run_gateway(short_dir, {"a": [ECHO]}) as behind:
        behind.registry.add_service("a")
        answers = []

        async def call() -> None:
            answers.append(await ask(behind.channel))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.02)
            async with behind.serve_endpoint("a", server_with_reflection(servicer_named("a"))):
                with trio.fail_after(30):
                    while not answers:
                        await trio.lowlevel.checkpoint()
        assert answers == ["a"]
        (path,) = (e.id for e in behind.registry.resolve("a").endpoints)
        behind.registry.deregister("a", ExitInfo(path, "gone"))
        # The client's own deadline, told to a client that goes by the server's word only.
        stub = behind.channel.stub(EchoServiceStub)
        with trio.move_on_after(0.05) as scope:
            await stub.Echo(echo_request("?"))
        assert scope.cancelled_caught
        await behind.assert_nothing_left()


async def test_nobody_attends_to_it_any_more(short_dir: Path) -> None:
    async with run_gateway(short_dir, a=server_with_reflection(servicer_named("a"))) as behind:
        assert await ask(behind.channel) == "a"
        behind.registry.remove_service("a")
        (path,) = (e.id for e in behind.registry.resolve("a").endpoints)
        behind.registry.deregister("a", ExitInfo(path, "it was taken away"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(purerpc.UnavailableError, match="it was taken away"):
            await ask(behind.channel)


async def test_a_new_version_is_asked_what_it_serves(short_dir: Path) -> None:
    async with run_gateway(short_dir, a=server_with_reflection(servicer_named("a"))) as behind:
        assert await ask(behind.channel) == "a"
        _replace(behind, "a")
        async with (
            behind.serve_endpoint("a", server_with_reflection()),
            behind.serve_endpoint("b", server_with_reflection(servicer_named("b"))),
        ):
            # It learns of the new one on the way.
            with trio.fail_after(30):
                while True:
                    try:
                        assert await ask(behind.channel) == "b"
                        break
                    except (purerpc.UnimplementedError, purerpc.FailedPreconditionError):
                        await behind.gateway.service_index.refresh()


def _replace(behind: GatewayHarness, service: str) -> None:
    for endpoint in behind.registry.resolve(service).endpoints:
        behind.registry.deregister(service, ExitInfo(endpoint.id, "replaced"))


async def test_reflection_tells_of_all(short_dir: Path) -> None:
    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer()), b=Server(servicer_named("b"))
    ) as behind:
        with trio.fail_after(30):
            names = await list_services(behind.channel)
            assert ECHO in names
            assert "grpc.health.v1.Health" in names
            pool = (await fetch_types(behind.channel, ECHO, "grpc.health.v1.Health")).pool
        assert pool.FindServiceByName(ECHO).methods_by_name["Chat"].client_streaming


async def test_reflection_with_a_target_is_the_targets_own(short_dir: Path) -> None:
    async with run_gateway(
        short_dir, a=server_with_reflection(CallbackServicer()), b=server_with_reflection()
    ) as behind:
        async with behind.connect_with_authority("b") as channel:
            assert ECHO not in await list_services(channel)


async def test_a_server_that_does_not_answer_holds_up_nobody_for_long(short_dir: Path) -> None:
    async def mute() -> None:
        await trio.sleep_forever()

    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(short_dir / "mute"))
    listener.listen()
    async with run_gateway(short_dir, a=server_with_reflection(servicer_named("a"))) as behind:
        with behind.register_endpoint("mute", short_dir / "mute"):
            with trio.fail_after(30):
                assert ECHO in await list_services(behind.channel)
                assert await ask(behind.channel) == "a"
    listener.close()


async def test_one_gateway_behind_another(short_dir: Path) -> None:
    near, far = short_dir / "near", short_dir / "far"
    near.mkdir()
    far.mkdir()
    async with (
        run_gateway(far, a=server_with_reflection(servicer_named("far"))),
        run_gateway(near) as behind,
    ):
        with behind.register_endpoint("a", far / "mesh.sock"):
            assert await ask(behind.channel, metadata=[("x-mesh-target", "a")]) == "far"
            async with connect_to(f"unix:{near / 'mesh.sock'}") as channel:
                assert await ask(channel) == "far"


async def test_a_call_does_not_go_in_circles(short_dir: Path) -> None:
    async with run_gateway(short_dir) as behind:
        with behind.register_endpoint("round", short_dir / "mesh.sock"):
            with pytest.raises(purerpc.FailedPreconditionError, match="forwarding loop detected"):
                await ask(behind.channel, metadata=[("x-mesh-target", "round")])
        await behind.assert_nothing_left()


class ExhaustedReflection:
    """A reflection service that fails with RESOURCE_EXHAUSTED."""

    def __init__(self) -> None:
        descriptor = reflection_v1.DESCRIPTOR.services_by_name["ServerReflection"]
        self.service = service_from_descriptor(descriptor, self)

    async def ServerReflectionInfo(self, requests: Any) -> AsyncIterator[Any]:
        raise purerpc.ResourceExhaustedError("too many calls")
        yield


async def test_what_an_overloaded_plugin_may_serve_is_not_said_to_be_unimplemented(
    short_dir: Path,
) -> None:
    """Callers make a call again that is unavailable, and not one that is unimplemented."""
    async with run_gateway(
        short_dir, a=Server(servicer_named("a"), ExhaustedReflection())
    ) as behind:
        with pytest.raises(purerpc.UnavailableError, match=r"services of a \(too many calls\)"):
            await ask(behind.channel)
