"""What is called is told of one parent, whoever else has something to say of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from echo.v1.echo_pb2 import EchoReply, EchoRequest
from opentelemetry import baggage, context
from opentelemetry.baggage import get_all

from meshtrio.client.channel import connect_to
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
