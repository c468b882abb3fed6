"""Coalescing of the writes of several calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.transport.transport import Buffer, Transport
from tests.support.connection_pairs import (
    CallbackServicer,
    connect_pair,
    echo_reply,
    echo_request,
)


class Echo:
    async def __call__(self, message: EchoRequest) -> EchoReply:
        return echo_reply(message.message)


class Slow:
    """Takes its time on the CPU before it answers."""

    async def __call__(self, message: EchoRequest) -> EchoReply:
        until = trio.current_time() + 0.01
        while trio.current_time() < until:
            pass
        return echo_reply(message.message)


@pytest.mark.parametrize(
    ("handler", "hold", "writes"),
    [(Echo(), 60.0, 2), (Echo(), 0.0, 12), (Slow(), 0.005, 12), (Slow(), 60.0, 2)],
    ids=["by halves of 12 calls", "not for long", "nobody waits for the slow", "but for a while"],
)
async def test_replies_to_what_one_read_brought_go_out_in_some_writes(
    handler: Any, hold: float, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Transport] = []
    send = Transport.try_send

    def counted(self: Transport, buffers: Sequence[Buffer]) -> int:
        written.append(self)
        return send(self, list(buffers))

    async with connect_pair(CallbackServicer(Echo=handler)) as pair:
        pair.client.write_coalescer.max_delay = pair.server.write_coalescer.max_delay = hold
        await pair.stub.Echo(echo_request("first"))
        await pair.wait_until_idle()
        monkeypatch.setattr(Transport, "try_send", counted)
        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(pair.stub.Echo, echo_request(str(number)))
        assert written.count(pair.server.transport) == writes


async def test_next_requests_of_tasks_whose_replies_one_read_brought_go_out_in_one_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    actions: list[str] = []
    send, receive = Transport.try_send, Transport._try_receive

    async with connect_pair(CallbackServicer(Echo=Echo())) as pair:

        def recorded_send(self: Transport, buffers: Sequence[Buffer]) -> int:
            if self is pair.client.transport:
                actions.append("write")
            return send(self, list(buffers))

        def recorded_receive(self: Transport, *args: Any) -> Any:
            data = receive(self, *args)
            if data and self is pair.client.transport:
                actions.append("read")
            return data

        async def call_twice() -> None:
            await pair.stub.Echo(echo_request("first"))
            await pair.stub.Echo(echo_request("second"))

        pair.client.write_coalescer.max_delay = pair.server.write_coalescer.max_delay = 60.0
        await pair.stub.Echo(echo_request("before"))
        await pair.wait_until_idle()
        monkeypatch.setattr(Transport, "try_send", recorded_send)
        monkeypatch.setattr(Transport, "_try_receive", recorded_receive)
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(call_twice)

    first_read = actions.index("read")
    assert actions[:first_read].count("write") == 12
    assert "write" in actions[first_read:]
    assert "write write" not in " ".join(actions[first_read:])
