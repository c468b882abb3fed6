"""The health service, as a client of any kind sees it."""

from __future__ import annotations

import purerpc
import pytest
import trio

from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import health as messages
from meshtrio.services.health import HealthServicer
from tests.support.connection_pairs import connect_pair
from tests.support.direct_channels import channel_over_connection

_DESCRIPTOR = messages.DESCRIPTOR.services_by_name["Health"]
Status = messages.HealthCheckResponse


def asked(service: str) -> messages.HealthCheckRequest:
    return messages.HealthCheckRequest(service=service)


async def test_the_server_and_its_services_serve_until_told_not_to() -> None:
    health = HealthServicer()
    health.service_names.add("a.Service")
    async with connect_pair(health) as pair:
        stub = DynamicStub(channel_over_connection(pair.client), _DESCRIPTOR)
        for name in ("", "a.Service"):
            assert (await stub.Check(asked(name))).status == Status.SERVING
        health.shutdown_started.set()
        for name in ("", "a.Service"):
            assert (await stub.Check(asked(name))).status == Status.NOT_SERVING


async def test_an_unknown_service_is_not_found() -> None:
    async with connect_pair(HealthServicer()) as pair:
        stub = DynamicStub(channel_over_connection(pair.client), _DESCRIPTOR)
        with pytest.raises(purerpc.NotFoundError):
            await stub.Check(asked("b.Service"))
        async with stub.Watch(asked("b.Service")) as call:
            assert (await anext(call)).status == Status.SERVICE_UNKNOWN


async def test_watch_tells_each_change() -> None:
    health = HealthServicer()
    async with connect_pair(health) as pair:
        stub = DynamicStub(channel_over_connection(pair.client), _DESCRIPTOR)
        async with stub.Watch(asked("")) as call:
            assert (await call.receive_message()).status == Status.SERVING
            health.shutdown_started.set()
            with trio.fail_after(30):
                assert (await call.receive_message()).status == Status.NOT_SERVING
