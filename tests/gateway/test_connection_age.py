"""Calls through the gateway on connections of clients that have reached their maximum age."""

from __future__ import annotations

from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio.rpc.server_connection import ServerConnection
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.util.concurrency import open_collapsing_nursery
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.gateways import GatewayHarness, make_echo_server, run_gateway
from tests.support.handlers import CancellationRecorder
from tests.support.servers import standard_server

AGED = Timeouts(max_connection_age=100, max_connection_age_grace=10)
SERVICE = {"a": ["echo.v1.EchoService"]}


async def end_grace_period(behind: GatewayHarness) -> ServerConnection:
    """Check the only connection as if its age and its grace period were over."""
    [connection] = behind.server.connections
    for seconds in (111, 122):
        connection.check_timeouts(trio.current_time() + seconds)
        await trio.testing.wait_all_tasks_blocked(0.02)
    return connection


async def test_a_running_call_ends_with_the_grace_period(short_dir: Path) -> None:
    handler = CancellationRecorder()
    server = standard_server(CallbackServicer(Echo=handler))[0]
    async with run_gateway(short_dir, SERVICE, timeouts=AGED, a=server) as behind:
        stub = behind.channel.stub(EchoServiceStub)

        async def call() -> None:
            with pytest.raises(purerpc.UnavailableError, match="max_connection_age_grace"):
                await stub.Echo(echo_request(""))

        async with open_collapsing_nursery() as nursery:
            nursery.start_soon(call)
            await handler.started.wait()
            connection = await end_grace_period(behind)
        await handler.cancelled.wait()
        assert connection.closed
        await behind.assert_nothing_left()


async def test_a_waiting_call_is_sent_again_on_another_connection(short_dir: Path) -> None:
    replies, replied = list[str](), trio.Event()
    async with run_gateway(short_dir, SERVICE, timeouts=AGED) as behind:
        behind.registry.add_service("a")
        stub = behind.channel.stub(EchoServiceStub)

        async def call() -> None:
            replies.append((await stub.Echo(echo_request("waited"))).message)
            replied.set()

        async with open_collapsing_nursery() as nursery:
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.05)
            connection = await end_grace_period(behind)
            assert connection.closed
            assert not replies
            with trio.fail_after(30):
                async with behind.serve_endpoint("a", make_echo_server()):
                    await replied.wait()
        assert replies == ["waited"]
        await behind.assert_nothing_left()
