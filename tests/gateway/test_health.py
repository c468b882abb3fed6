"""The health of services that a gateway passes calls on to, asked at the gateway."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio

from meshtrio.client.multicallable import DynamicStub
from meshtrio.discovery.endpoint import Endpoint, ExitInfo
from meshtrio.messages import health
from meshtrio.rpc.server import Server
from tests.support.gateways import GatewayHarness, run_gateway, server_with_reflection
from tests.support.servers import servicer_named

ECHO = "echo.v1.EchoService"
HEALTH = health.DESCRIPTOR.services_by_name["Health"]
SERVING, NOT_SERVING, UNKNOWN = "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"


def name_of(reply: Any) -> str:
    return str(health.HealthCheckResponse.ServingStatus.Name(reply.status))


async def check(behind: GatewayHarness, service: str) -> str:
    with trio.fail_after(10):
        stub = DynamicStub(behind.channel, HEALTH)
        return name_of(await stub.Check(health.HealthCheckRequest(service=service)))


async def read_watched_status(call: Any) -> str:
    with trio.fail_after(10):
        return name_of(await call.receive_message())


async def test_a_service_serves_while_an_endpoint_is_ready(short_dir: Path) -> None:
    async with run_gateway(short_dir) as behind:
        behind.registry.add_service("a")
        assert await check(behind, "a") == NOT_SERVING
        async with behind.serve_endpoint("a", server_with_reflection(servicer_named("a"))):
            assert await check(behind, "a") == SERVING
            assert await check(behind, ECHO) == SERVING
            assert await check(behind, "") == SERVING


async def test_what_is_known_and_has_no_endpoint_does_not_serve(short_dir: Path) -> None:
    async with run_gateway(short_dir, {"b": ["configured.Service"]}) as behind:
        behind.registry.add_service("a")
        behind.registry.add_service("b")
        assert await check(behind, "configured.Service") == NOT_SERVING
        path = short_dir / "process"
        async with behind.serve_endpoint("a", server_with_reflection(servicer_named("a"))):
            assert await check(behind, ECHO) == SERVING
        # It was learned of the endpoint that is gone.
        (endpoint,) = behind.registry.resolve("a").endpoints
        behind.registry.deregister("a", ExitInfo(endpoint.id, "is gone"))
        assert await check(behind, ECHO) == NOT_SERVING
        # An instance of the mesh's own is listed while its probe says that it is ready.
        behind.registry.register("a", Endpoint("a-0", f"unix:{path}", pid=1))
        assert await check(behind, "a") == SERVING


@pytest.mark.parametrize("name", ["c", "no.such.Service", "echo.v1.EchoService/Echo", "ü", " "])
async def test_what_is_not_known_is_not_found(name: str, short_dir: Path) -> None:
    async with run_gateway(short_dir, a=server_with_reflection(servicer_named("a"))) as behind:
        with pytest.raises(purerpc.NotFoundError):
            await check(behind, name)
        call = DynamicStub(behind.channel, HEALTH).Watch(health.HealthCheckRequest(service=name))
        async with call:
            assert await read_watched_status(call) == UNKNOWN


async def test_an_endpoint_that_cannot_be_connected_to_is_not_ready(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as refusing:
        refusing.bind(str(short_dir / "refusing"))
        async with run_gateway(short_dir, {"a": [ECHO]}) as behind:
            with behind.register_endpoint("a", short_dir / "refusing"):
                assert await check(behind, "a") == NOT_SERVING
                assert await check(behind, ECHO) == NOT_SERVING
                async with behind.serve_endpoint("a", server_with_reflection(servicer_named("a"))):
                    assert await check(behind, ECHO) == SERVING


async def test_of_several_that_serve_the_same_one_is_enough(short_dir: Path) -> None:
    async with run_gateway(
        short_dir,
        a=server_with_reflection(servicer_named("a")),
        b=server_with_reflection(servicer_named("b")),
    ) as behind:
        assert await check(behind, ECHO) == SERVING
        (endpoint,) = behind.registry.resolve("a").endpoints
        behind.registry.deregister("a", ExitInfo(endpoint.id, "is gone"))
        assert await check(behind, "a") == NOT_SERVING
        assert await check(behind, ECHO) == SERVING


@pytest.mark.parametrize("name", ["a", ECHO])
async def test_watch_tells_each_change(name: str, short_dir: Path) -> None:
    request = health.HealthCheckRequest(service=name)
    async with run_gateway(short_dir, {"a": [ECHO]}) as behind:
        behind.registry.add_service("a")
        async with DynamicStub(behind.channel, HEALTH).Watch(request) as call:
            assert await read_watched_status(call) == NOT_SERVING
            for _ in range(2):
                async with behind.serve_endpoint("a", Server(servicer_named("a"))):
                    assert await read_watched_status(call) == SERVING
                    (endpoint,) = behind.registry.resolve("a").endpoints
                    behind.registry.deregister("a", ExitInfo(endpoint.id, "is gone"))
                    assert await read_watched_status(call) == NOT_SERVING


async def test_a_watch_of_what_is_not_known_tells_when_it_comes(short_dir: Path) -> None:
    request = health.HealthCheckRequest(service="a")
    async with run_gateway(short_dir) as behind:
        async with DynamicStub(behind.channel, HEALTH).Watch(request) as call:
            assert await read_watched_status(call) == UNKNOWN
            async with behind.serve_endpoint("a", server_with_reflection(servicer_named("a"))):
                assert await read_watched_status(call) == SERVING
