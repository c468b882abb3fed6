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
from meshtrio.rpc.context import current_call
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.servers import serve_on_socket
from tests.support.tracing import PARENT_TRACEPARENT, TracingHarness, is_child_of, make_echo_stub


@contextmanager
def carrying(**values: str) -> Iterator[None]:
    """Baggage of the block."""
    with ExitStack() as stack:
        for key, value in values.items():
            stack.callback(context.detach, context.attach(baggage.set_baggage(key, value)))
        yield


async def told(message: EchoRequest) -> EchoReply:
    return echo_reply(",".join(f"{key}={value}" for key, value in sorted(get_all().items())))


@pytest.mark.parametrize("ratio", [1.0, 0.0])
async def test_a_caller_that_names_a_parent_of_its_own(ratio: float, short_dir: Path) -> None:
    found, own = TracingHarness(ratio), (("traceparent", PARENT_TRACEPARENT), ("baggage", "b=2"))
    with found.tracing.install():
        async with (
            serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=told))),
            connect_to(f"unix:{short_dir / 'a'}", metadata=own[:1]) as channel,
        ):
            with carrying(a="1"):
                answer = await make_echo_stub(channel).Echo(echo_request("?"), metadata=own)
    assert answer.message == "a=1,b=2"
    assert len(found.spans_named("Recv.")) == ratio
    assert all(
        is_child_of(span, found.span_named("Attempt.")) for span in found.spans_named("Recv.")
    )


async def test_two_that_trace_the_same_calls(short_dir: Path) -> None:
    """As where an app traces its calls, and has a mesh in it that is to trace them, too."""
    first, second = TracingHarness(), TracingHarness()
    with first.tracing.install(), second.tracing.install():
        async with (
            serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=told))),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
        ):
            await make_echo_stub(channel).Echo(echo_request("?"))
    assert is_child_of(first.span_named("Recv."), first.span_named("Attempt."))
    assert is_child_of(second.span_named("Recv."), first.span_named("Attempt."))


@pytest.mark.parametrize("ratio", [1.0, 0.0])
async def test_a_handler_that_is_not_traced_itself(ratio: float, short_dir: Path) -> None:
    found = TracingHarness(ratio)
    async with AsyncExitStack() as stack:
        with found.tracing.install():
            leaf = Server(CallbackServicer(Echo=traceparent))
            await stack.enter_async_context(serve_on_socket(short_dir / "leaf", leaf))
            to_leaf = await stack.enter_async_context(connect_to(f"unix:{short_dir / 'leaf'}"))

        async def pass_on(message: EchoRequest) -> EchoReply:
            answer: EchoReply = await make_echo_stub(to_leaf).Echo(message)
            return answer

        front = Server(CallbackServicer(Echo=pass_on))
        await stack.enter_async_context(serve_on_socket(short_dir / "front", front))
        to_front = await stack.enter_async_context(connect_to(f"unix:{short_dir / 'front'}"))
        answer = await make_echo_stub(to_front).Echo(
            echo_request("?"), metadata=[("traceparent", PARENT_TRACEPARENT)]
        )
        nothing = await make_echo_stub(to_front).Echo(echo_request("?"))
    assert answer.message.split("-")[1] == PARENT_TRACEPARENT.split("-")[1]
    assert answer.message.endswith("-01")
    assert len([span for span in found.spans_named("Recv.") if span.parent]) == 1 + ratio
    assert nothing.message.endswith("-01" if ratio else "-00")


async def traceparent(message: EchoRequest) -> EchoReply:
    return echo_reply(dict(current_call().custom_metadata)["traceparent"])
