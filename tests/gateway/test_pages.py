"""Plugins that answer with a page instead of gRPC: the gateway's callers get a gRPC status."""

from __future__ import annotations

from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import RepeatRequest

from tests.support.connection_pairs import echo_request
from tests.support.gateways import run_gateway
from tests.support.http_responses import (
    HttpResponse,
    for_each_http_response,
    serve_http_response,
)


@for_each_http_response
async def test_a_page_of_a_plugin_reaches_the_caller_as_a_status(
    short_dir: Path, page: HttpResponse
) -> None:
    plugin = short_dir / "page"
    with trio.fail_after(10):
        async with (
            serve_http_response(plugin, page),
            run_gateway(short_dir, {"plugin.page": ["echo.v1.EchoService"]}) as behind,
        ):
            with behind.register_endpoint("plugin.page", plugin):
                stub = behind.channel.stub(EchoServiceStub)
                with pytest.raises(purerpc.RpcFailedError) as caught:
                    await stub.Echo(echo_request("hi"))
                assert caught.value.status.status_code.name == page.grpc_code
                with pytest.raises(purerpc.RpcFailedError) as caught:
                    await stub.Repeat(RepeatRequest(message="hi", count=2)).receive_message()
                assert caught.value.status.status_code.name == page.grpc_code
                await behind.assert_nothing_left()
