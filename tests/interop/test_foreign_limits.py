"""Header lists, deadlines and late frames between meshtrio and foreign gRPC stacks.

In each test calls that have nothing to do with it are in flight on the same connections, and have
to end with OK.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import cycle, islice, product

import pytest
import trio

from tests.interop.foreign_peers import (
    LATE_FRAMES_PLUGIN,
    RESULT_TIMEOUT,
    STACKS,
    CallResult,
    ForeignClient,
    MeshtrioClient,
)
from tests.support.interop_peers import (
    ROUTES,
    ConnectForeignClient,
    ConnectMeshtrioClient,
    PeerMesh,
)
from tests.support.mesh_processes import wait_until

routes = pytest.mark.parametrize("route", ROUTES)
stacks = pytest.mark.parametrize("stack", STACKS)

METHODS = ("Unary", "ServerStream")
BYSTANDERS = 3
HOLD = [("x-sleep-ms", "600")]
SIZES = (40_000, 100_000, 500_000)
"""Of header lists that are too large for the stacks' defaults."""
HUGE = 2_000_000
"""Of one for which a connection may be closed."""
ANSWERS = {
    "initial": [("x-initial-size", "")],
    "trailing": [("x-trailing-size", "")],
    "trailing of a failure": [("x-status", "5"), ("x-trailing-size", "")],
}
CALLS, IN_FLIGHT, TIMEOUT = 300, 20, 0.06
ENDS = {
    "the server is late": [("x-before-deadline-ms", "-100")],
    "both at once": [("x-before-deadline-ms", "0"), ("x-status", "4")],
    "the server is early": [("x-before-deadline-ms", "4"), ("x-status", "4")],
}
"""How a server may answer about the time of a call's deadline."""


def request_sizes(pairs: list[tuple[str, str]], size: int) -> list[tuple[str, str]]:
    return [(key, value or str(size)) for key, value in pairs]


def failed_alone(result: CallResult) -> bool:
    """Whether a call failed because of its own size: UNAVAILABLE says it was the connection.

    It is also what connect-go says of a request that it does not send because of its size.
    """
    if "request header list larger than peer's advertised limit" in result.message:
        return True
    return result.name not in ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED")


def is_accepted(result: CallResult, size: int) -> bool:
    """Return whether a client accepts header lists of this size, and the requested one arrived."""
    return ("x-large", "a" * size) in (*result.initial, *result.trailing)


def wait_for_held_calls(peers: PeerMesh, count: int) -> None:
    """Wait until `count` calls in all have been held."""
    wait_until(lambda: peers.mesh.log.count("holding") >= count)


@asynccontextmanager
async def bystanders(client: MeshtrioClient, peers: PeerMesh) -> AsyncIterator[None]:
    """Have calls of a meshtrio client in flight during the block."""
    results = []

    async def bystand() -> None:
        results.append(str(await client.call("Unary", b"", metadata=HOLD)))

    before = peers.mesh.log.count("holding")
    with trio.fail_after(RESULT_TIMEOUT):
        async with trio.open_nursery() as nursery:
            for _ in range(BYSTANDERS):
                nursery.start_soon(bystand)
            await trio.to_thread.run_sync(wait_for_held_calls, peers, before + BYSTANDERS)
            yield
    assert results == ["OK: "] * BYSTANDERS


@contextmanager
def foreign_bystanders(client: ForeignClient, peers: PeerMesh) -> Iterator[None]:
    """Have calls of a foreign client in flight during the block."""
    before = peers.mesh.log.count("holding")
    started = [client.start("Unary", b"", metadata=HOLD) for _ in range(BYSTANDERS)]
    wait_for_held_calls(peers, before + BYSTANDERS)
    yield
    assert [str(client.result(number)) for number in started] == ["OK: "] * BYSTANDERS


# -- header lists ------------------------------------------------------------------------------


@routes
@stacks
async def test_a_foreign_reply_with_too_large_a_header_list_fails_its_call_alone(
    stack: str, route: str, our_client: ConnectMeshtrioClient, peers: PeerMesh
) -> None:
    found = {}
    async with our_client(stack, route) as client, bystanders(client, peers):
        for method, (kind, asked), size in product(METHODS, ANSWERS.items(), SIZES):
            result = await client.call(method, b"a", metadata=request_sizes(asked, size))
            found[f"{method}, {kind}, {size}"] = result
    wrong = {kind: str(result) for kind, result in found.items() if not failed_alone(result)}
    assert wrong == {}
    # The smallest, which every stack sends.
    codes = {kind: result.name for kind, result in found.items() if kind.endswith("40000")}
    assert set(codes.values()) == {"RESOURCE_EXHAUSTED"}, found


@routes
@stacks
async def test_a_foreign_reply_with_a_huge_header_list_is_got_over(
    stack: str, route: str, our_client: ConnectMeshtrioClient
) -> None:
    with trio.fail_after(RESULT_TIMEOUT):
        async with our_client(stack, route) as client:
            for asked in ANSWERS.values():
                result = await client.call("Unary", b"", metadata=request_sizes(asked, HUGE))
                assert result.name not in ("OK", "DEADLINE_EXCEEDED"), result
                assert str(await client.call("Unary", b"")) == "OK: "


@routes
@stacks
def test_a_reply_with_too_large_a_header_list_fails_the_call_of_a_foreign_client_alone(
    stack: str, route: str, their_client: ConnectForeignClient, peers: PeerMesh
) -> None:
    client = their_client(stack, route)
    wrong = {}
    with foreign_bystanders(client, peers):
        for method, (kind, asked), size in product(METHODS, ANSWERS.items(), (*SIZES, HUGE)):
            result = client.call(method, b"a", metadata=request_sizes(asked, size))
            # A status other than OK may go without its metadata; a reply may not.
            right = {"RESOURCE_EXHAUSTED"} | ({"NOT_FOUND"} if "failure" in kind else set())
            if result.name not in right and not is_accepted(result, size):
                wrong[f"{method}, {kind}, {size}"] = str(result)
    assert wrong == {}


@routes
@stacks
def test_a_request_with_too_large_a_header_list_fails_alone(
    stack: str, route: str, their_client: ConnectForeignClient, peers: PeerMesh
) -> None:
    client = their_client(stack, route)
    found = {}
    with foreign_bystanders(client, peers):
        for size in SIZES:
            found[size] = client.call("Unary", b"", metadata=[("x-pad", "a" * size)])
    wrong = {size: str(result) for size, result in found.items() if not failed_alone(result)}
    assert wrong == {}


@routes
@stacks
def test_a_request_with_a_huge_header_list_is_got_over(
    stack: str, route: str, their_client: ConnectForeignClient
) -> None:
    client = their_client(stack, route)
    result = client.call("Unary", b"", metadata=[("x-pad", "a" * HUGE)], timeout=RESULT_TIMEOUT / 2)
    assert result.name not in ("OK", "DEADLINE_EXCEEDED"), result
    assert str(client.call("Unary", b"")) == "OK: "


@routes
@stacks
async def test_a_request_about_the_limit_of_a_foreign_server_fails_at_most_alone(
    stack: str, route: str, our_client: ConnectMeshtrioClient, peers: PeerMesh
) -> None:
    # grpc-java takes 8 KiB, Node 64 KiB, net/http 1 MiB; a meshtrio server on the way 32 KiB.
    about = [
        size + difference
        for size in (8 << 10, 32 << 10, 64 << 10, 1 << 20)
        for difference in range(-1000, 101, 50)
    ]
    found: Counter[str] = Counter()
    async with our_client(stack, route) as client, bystanders(client, peers):
        for size in about:
            result = await client.call("Unary", b"", metadata=[("x-pad", "a" * size)])
            found[result.name] += 1
    assert found["OK"] > 0
    assert found.total() == found["OK"] + found["RESOURCE_EXHAUSTED"], found


# -- deadlines ---------------------------------------------------------------------------------


@routes
@stacks
async def test_an_expired_scope_moves_on(
    stack: str, route: str, our_client: ConnectMeshtrioClient, peers: PeerMesh
) -> None:
    outcomes: Counter[str] = Counter()

    async def call(client: MeshtrioClient) -> None:
        for method, end in islice(cycle(product(METHODS, ENDS)), CALLS // IN_FLIGHT):
            with trio.move_on_after(TIMEOUT):
                # A failure would be raised here: `client` makes a result of it.
                result = await client.call(method, b"a", metadata=ENDS[end])
                outcomes[f"{method}, {end}: {result}"] += 1
                continue
            outcomes["moved on"] += 1

    async with our_client(stack, route) as client, bystanders(client, peers):
        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT):
                nursery.start_soon(call, client)
    assert outcomes == {"moved on": CALLS}


@routes
@stacks
def test_an_expired_deadline_of_a_foreign_client_is_deadline_exceeded(
    stack: str, route: str, their_client: ConnectForeignClient, peers: PeerMesh
) -> None:
    client = their_client(stack, route)
    outcomes: Counter[str] = Counter()
    with foreign_bystanders(client, peers):
        for method, asked in islice(cycle(product(METHODS, ENDS.values())), CALLS // IN_FLIGHT):
            calls = [
                client.start(method, b"a", metadata=asked, timeout=TIMEOUT)
                for _ in range(IN_FLIGHT)
            ]
            outcomes.update(client.result(call).name for call in calls)
    assert outcomes == {"DEADLINE_EXCEEDED": CALLS}


# -- late frames -------------------------------------------------------------------------------

LATE_ANSWERS = {"trailers": "CANCELLED", "reply": "CANCELLED", "reset": "OK"}


@routes
async def test_late_frames_harm_no_other_call(
    route: str, our_client: ConnectMeshtrioClient, peers: PeerMesh
) -> None:
    found: Counter[tuple[str, str]] = Counter()
    async with our_client(LATE_FRAMES_PLUGIN, route) as client, bystanders(client, peers):
        for _, late in product(range(20), LATE_ANSWERS):
            result = await client.call("Unary", b"", metadata=[("x-late", late)])
            found[late, result.name] += 1
    assert found == dict.fromkeys(LATE_ANSWERS.items(), 20)


@stacks
def test_late_frames_harm_no_other_call_of_a_foreign_client(
    stack: str, their_client: ConnectForeignClient, peers: PeerMesh
) -> None:
    client = their_client(stack, "gateway", LATE_FRAMES_PLUGIN)
    found: Counter[tuple[str, str]] = Counter()
    with foreign_bystanders(client, peers):
        for _, late in product(range(20), LATE_ANSWERS):
            result = client.call("Unary", b"", metadata=[("x-late", late)])
            found[late, result.name] += 1
    assert found == dict.fromkeys(LATE_ANSWERS.items(), 20)
