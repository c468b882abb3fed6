"""Plugins that answer with a page instead of gRPC: the gateway's callers get a gRPC status."""

from __future__ import annotations

from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import RepeatRequest

from tests.gateway.doors import gateway_to
from tests.rpc.pages import Page, all_pages, answering
from tests.rpc.pairs import request


@all_pages
async def test_a_page_of_a_plugin_reaches_the_caller_as_a_status(
    short_dir: Path, page: Page
) -> None:
    plugin = short_dir / "page"
    with trio.fail_after(10):
        async with (
            answering(plugin, page),
            gateway_to(short_dir, {"plugin.page": ["echo.v1.EchoService"]}) as behind,
        ):
            with behind.registry_entry("plugin.page", plugin):
                stub = behind.channel.stub(EchoServiceStub)
                with pytest.raises(purerpc.RpcFailedError) as caught:
                    await stub.Echo(request("hi"))
                assert caught.value.status.status_code.name == page.code
                with pytest.raises(purerpc.RpcFailedError) as caught:
                    await stub.Repeat(RepeatRequest(message="hi", count=2)).receive_message()
                assert caught.value.status.status_code.name == page.code
                await behind.assert_nothing_left()
