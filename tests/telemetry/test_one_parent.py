"""What is called is told of one parent, whoever else has something to say of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import pytest
from echo.v1.echo_pb2 import EchoReply, EchoRequest
from opentelemetry import baggage, context
from opentelemetry.baggage import get_all

from meshtrio.client.channel import connect_to
from meshtrio.rpc.current import current_call
from meshtrio.rpc.server import Server
from tests.client.test_channel import serving
from tests.rpc.pairs import Scripted, reply, request
from tests.telemetry.test_tracing import PARENT, Traced, is_below, stub


@contextmanager
def carrying(**values: str) -> Iterator[None]:
    """Baggage of the block."""
    with ExitStack() as stack:
        for key, value in values.items():
            stack.callback(context.detach, context.attach(baggage.set_baggage(key, value)))
        yield


async def told(message: EchoRequest) -> EchoReply:
    return reply(",".join(f"{key}={value}" for key, value in sorted(get_all().items())))


@pytest.mark.parametrize("ratio", [1.0, 0.0])
async def test_a_caller_that_names_a_parent_of_its_own(ratio: float, short_dir: Path) -> None:
    found, own = Traced(ratio), (("traceparent", PARENT), ("baggage", "b=2"))
    with found.tracing.observing():
        async with (
            serving(short_dir / "a", Server(Scripted(Echo=told))),
            connect_to(f"unix:{short_dir / 'a'}", metadata=own[:1]) as channel,
        ):
            with carrying(a="1"):
                answer = await stub(channel).Echo(request("?"), metadata=own)
    assert answer.message == "a=1,b=2"
    assert len(found.named("Recv.")) == ratio
    assert all(is_below(span, found.one("Attempt.")) for span in found.named("Recv."))


async def test_two_that_trace_the_same_calls(short_dir: Path) -> None:
    """As where an app traces its calls, and has a mesh in it that is to trace them, too."""
    first, second = Traced(), Traced()
    with first.tracing.observing(), second.tracing.observing():
        async with (
            serving(short_dir / "a", Server(Scripted(Echo=told))),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
        ):
            await stub(channel).Echo(request("?"))
    assert is_below(first.one("Recv."), first.one("Attempt."))
    assert is_below(second.one("Recv."), first.one("Attempt."))


@pytest.mark.parametrize("ratio", [1.0, 0.0])
async def test_a_handler_that_is_not_traced_itself(ratio: float, short_dir: Path) -> None:
    found = Traced(ratio)
    async with AsyncExitStack() as stack:
        with found.tracing.observing():
            leaf = Server(Scripted(Echo=traceparent))
            await stack.enter_async_context(serving(short_dir / "leaf", leaf))
            to_leaf = await stack.enter_async_context(connect_to(f"unix:{short_dir / 'leaf'}"))

        async def pass_on(message: EchoRequest) -> EchoReply:
            answer: EchoReply = await stub(to_leaf).Echo(message)
            return answer

        front = Server(Scripted(Echo=pass_on))
        await stack.enter_async_context(serving(short_dir / "front", front))
        to_front = await stack.enter_async_context(connect_to(f"unix:{short_dir / 'front'}"))
        answer = await stub(to_front).Echo(request("?"), metadata=[("traceparent", PARENT)])
        nothing = await stub(to_front).Echo(request("?"))
    assert answer.message.split("-")[1] == PARENT.split("-")[1]
    assert answer.message.endswith("-01")
    assert len([span for span in found.named("Recv.") if span.parent]) == 1 + ratio
    assert nothing.message.endswith("-01" if ratio else "-00")


async def traceparent(message: EchoRequest) -> EchoReply:
    return reply(dict(current_call().custom_metadata)["traceparent"])
