"""What is known of an endpoint by its address."""

from __future__ import annotations

import errno
import resource
import socket
from contextlib import ExitStack
from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.client.channel import connect_to
from meshtrio.discovery.endpoint import canonical_target
from meshtrio.transport.dial import connect_socket


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("plugin.echo", "mesh:///plugin.echo"),
        ("unix:/run/echo.sock", "unix:///run/echo.sock"),
        ("unix:///run/echo.sock", "unix:///run/echo.sock"),
        ("tcp:127.0.0.1:50051", "dns:///127.0.0.1:50051"),
        ("tcp://localhost:50051", "dns:///localhost:50051"),
        ("tcp:[::1]:50051", "dns:///[::1]:50051"),
        ("nonsense:", "nonsense:"),
    ],
)
def test_a_target_is_what_grpc_makes_of_the_same_address(name: str, target: str) -> None:
    assert canonical_target(name) == target


async def test_a_full_backlog_is_waited_for(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(str(short_dir / "s"))
        listener.listen(0)
        address = f"unix:{short_dir / 's'}"
        stack.enter_context(await connect_socket(address))
        with pytest.raises(BlockingIOError, match="backlog of connections is full"):
            await connect_socket(address, backlog_timeout=0.05)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def connect_late() -> None:
                stack.enter_context(await connect_socket(address, backlog_timeout=600))

            await trio.testing.wait_all_tasks_blocked(0.01)
            assert nursery.child_tasks
            stack.enter_context(listener.accept()[0])


async def test_calls_say_that_it_is_this_process_that_lacks_descriptors(short_dir: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with connect_to(f"unix:{short_dir / 's'}") as channel:
        # Numbers below three stay taken.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            stub = channel.stub(EchoServiceStub)
            with pytest.raises(purerpc.UnavailableError, match="Too many open files in this proc"):
                await stub.Echo(EchoRequest(message="hi"), wait_for_ready=False)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_the_lack_of_descriptors_is_told_from_a_server_that_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Numbers below three stay taken.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(OSError, match="Too many open files") as caught:
                await connect_socket(address)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    with pytest.raises(ConnectionRefusedError):
        await connect_socket(address)
