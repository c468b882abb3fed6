"""Retries across implementations: our client and others' servers, grpcio's client and ours."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import connect_to
from meshtrio.grpc.service_config import parse_service_config
from tests.support.mesh_processes import PLUGINS_DIRECTORY, wait_for_server
from tests.tools import find_tool

CONFIG = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
FLAKY = [sys.executable, str(PLUGINS_DIRECTORY / "retryable_failures.py")]
_keys = itertools.count()


def failure_metadata(**values: object) -> list[tuple[str, str]]:
    """Return metadata that has a server fail, for one call and its retries."""
    return [("key", str(next(_keys))), *((k.replace("_", "-"), str(v)) for k, v in values.items())]


@pytest.fixture(params=["grpc-go", "grpcio", "meshtrio"])
def flaky(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[str]:
    """The address of a server of each implementation."""
    socket = short_dir / "s"
    commands = {
        "grpc-go": lambda: [find_tool("grpc-go-flaky"), str(socket)],
        "grpcio": lambda: [*FLAKY, "--grpcio"],
        "meshtrio": lambda: FLAKY,
    }
    environment = {**os.environ, "PLUGIN_SOCKET": str(socket)}
    with subprocess.Popen(commands[request.param](), env=environment) as process:
        try:
            wait_for_server(socket)
            yield f"unix:{socket}"
        finally:
            process.kill()


async def test_our_client_retries(flaky: str) -> None:
    with trio.fail_after(20):
        async with connect_to(flaky, service_config=parse_service_config(CONFIG)) as channel:
            stub = channel.stub(EchoServiceStub)
            for failures, said in ((0, ""), (1, "1"), (3, "3")):
                reply = await stub.Echo(
                    EchoRequest(), metadata=failure_metadata(fail_times=failures)
                )
                assert reply.message == said
            with pytest.raises(purerpc.UnavailableError, match="not now"):
                await stub.Echo(EchoRequest(), metadata=failure_metadata(fail_times=4))


async def test_our_client_heeds_pushback(flaky: str) -> None:
    with trio.fail_after(20):
        async with connect_to(flaky, service_config=parse_service_config(CONFIG)) as channel:
            stub = channel.stub(EchoServiceStub)
            began = trio.current_time()
            await stub.Echo(EchoRequest(), metadata=failure_metadata(fail_times=1, pushback=300))
            assert trio.current_time() - began >= 0.3
            with pytest.raises(purerpc.UnavailableError):
                await stub.Echo(EchoRequest(), metadata=failure_metadata(fail_times=1, pushback=-1))


def test_grpcio_retries_against_all_of_them(flaky: str) -> None:
    """It may, since a failure comes as Trailers-Only: no response head went before it."""
    options = [("grpc.service_config", json.dumps(CONFIG)), ("grpc.enable_retries", 1)]
    with grpc.insecure_channel(flaky, options=options) as channel:
        echo = channel.unary_unary(
            "/echo.v1.EchoService/Echo",
            request_serializer=EchoRequest.SerializeToString,
            response_deserializer=EchoReply.FromString,
        )
        for failures, said in ((0, ""), (1, "1"), (3, "3")):
            metadata = failure_metadata(fail_times=failures)
            assert echo(EchoRequest(), metadata=metadata, timeout=10).message == said
        began = time.monotonic()
        echo(EchoRequest(), metadata=failure_metadata(fail_times=1, pushback=300), timeout=10)
        assert time.monotonic() - began >= 0.25
        for metadata in (
            failure_metadata(fail_times=4),
            failure_metadata(fail_times=1, pushback=-1),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                echo(EchoRequest(), metadata=metadata, timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
