"""Responses that are not gRPC: the call fails by the HTTP status, and no body is read."""

from __future__ import annotations

from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import RepeatRequest

from meshtrio.client.channel import connect_to
from tests.support.connection_pairs import echo_request
from tests.support.http_responses import (
    HttpResponse,
    for_each_http_response,
    serve_http_response,
)


@for_each_http_response
async def test_a_call_fails_with_the_status_that_the_http_status_maps_to(
    short_dir: Path, page: HttpResponse
) -> None:
    with trio.fail_after(10):
        async with (
            serve_http_response(short_dir / "s", page),
            connect_to(f"unix:{short_dir}/s") as channel,
        ):
            stub = channel.stub(EchoServiceStub)
            for _ in range(2):
                with pytest.raises(purerpc.RpcFailedError) as caught:
                    await stub.Echo(echo_request("hi"))
                assert caught.value.status.status_code.name == page.grpc_code
            with pytest.raises(purerpc.RpcFailedError) as caught:
                await stub.Repeat(RepeatRequest(message="hi", count=2)).receive_message()
            assert caught.value.status.status_code.name == page.grpc_code
