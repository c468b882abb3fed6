"""Calls between meshtrio and foreign gRPC stacks: methods, metadata and status messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import trio

from tests.interop.foreign_peers import (
    RESULT_TIMEOUT,
    STACKS,
    WEB_SERVER_PLUGIN,
    CallResult,
    MeshtrioClient,
    MetadataPairs,
)
from tests.support.interop_peers import (
    FOREIGN_ROUTES,
    ROUTES,
    ConnectForeignClient,
    ConnectMeshtrioClient,
)

stacks = pytest.mark.parametrize("stack", STACKS)
routes = pytest.mark.parametrize("route", ROUTES)
their_routes = pytest.mark.parametrize("route", FOREIGN_ROUTES)

CALLS = {
    "Unary": ([b"hello"], (b"hello",)),
    "ServerStream": ([b"abc"], (b"a", b"b", b"c")),
    "ClientStream": ([b"ab", b"", b"c"], (b"abc",)),
    "Bidi": ([b"ab", b"", b"c"], (b"ab", b"", b"c")),
}
"""For each method its messages and its replies."""
LARGE = bytes(range(256)) * 4000
THREE_MB = bytes(3_000_000)
FAIL = ("x-status", "5")
TEXTS = {
    "space at the end": "cannot open file: ",
    "spaces around": "  cannot open  ",
    "not ASCII": "файл не найден: 資料 ☺ \U0001f608",
    "control characters": "line\r\n\tnext\x00 100% %41 done\n",
    "long": "x" * 5000,
    "long and not ASCII": "ж" * 1100,
    "long, of characters of four bytes": "a" + "\U0001f608" * 600,
    "empty": "",
}
METADATA = {
    "several": [("x-echo", "a"), ("x-echo", "b, c"), ("x-echo-bin", bytes(range(256)))],
    "space at the end": [("x-echo", "value ")],
    "spaces around": [("x-echo", "  value  ")],
    "empty": [("x-echo", ""), ("x-echo-bin", b"")],
    "padding": [("x-echo-bin", b"\xfb\xff"), ("x-echo-bin", b"\xfb\xff\xfe")],
}


HTTP_STATUSES = {
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    500: "UNKNOWN",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
    200: "UNKNOWN",
}
"""Source: grpc/doc/http-grpc-status-mapping.md; a page with 200 is told by its content type."""
BEYOND_ASCII = {"two bytes": "café", "four bytes": "a \U0001f608 b", "a tab": "a\tb"}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def beyond_ascii(stack: str) -> dict[str, str]:
    """The values to give to a client on this stack: grpc-js raises, grpc-java leaves them out."""
    return {} if stack == "js" else BEYOND_ASCII


def check_status(result: CallResult, message: str, *, may_cut: bool = False) -> str:
    """Return what is wrong about a call that was to end with NOT_FOUND and this message, or "".

    `may_cut`: the message may be cut between two characters, with an ellipsis.
    """
    found = result.message
    cut = found.removesuffix("…").removesuffix("...")
    if may_cut and len(cut) >= 100 and cut != found:
        message, found = message[: len(cut)], cut
    # PROTOCOL-HTTP2 lets spaces at the ends be stripped, of the message as of metadata.
    if result.name == "NOT_FOUND" and found.strip(" ") == message.strip(" "):
        return ""
    return f"{result.name} {result.message[-60:]!r}"


def joined(pairs: MetadataPairs, wanted: str) -> Any:
    """The values of a key: in ASCII joined with commas, as HTTP lets anyone do on the way."""
    values = [value for key, value in pairs if key == wanted]
    if wanted.endswith("-bin"):
        return values
    return ",".join(part.strip(" ") for value in values for part in str(value).split(","))


def check_metadata(result: CallResult, sent: Sequence[tuple[str, str | bytes]]) -> str:
    """Return what is wrong about a call that was to succeed with this metadata echoed, or ""."""
    if result.code:
        return str(result)
    for received in (result.initial, result.trailing):
        for key in dict(sent):
            if joined(received, key) != joined(sent, key):
                return f"{key}: {joined(received, key)!r}"
    return ""


def check_all(found: dict[str, str]) -> None:
    """Fail with every text that is not empty."""
    problems = [f"{kind}: {text}" for kind, text in found.items() if text]
    assert not problems, "\n".join(problems)


async def ask(client: MeshtrioClient, method: str, metadata: MetadataPairs = ()) -> CallResult:
    with trio.fail_after(RESULT_TIMEOUT):
        return await client.call(method, *CALLS[method][0], metadata=metadata)


def check_raw(result: CallResult, key: str, value: str) -> str:
    """Check a value beyond ASCII as `check_metadata` does: it may be dropped, not changed."""
    if result.code:
        return str(result)
    found = joined((*result.initial, *result.trailing), key)
    return "" if found in ("", value, f"{value},{value}") else f"{found!r}"


# -- a meshtrio client -------------------------------------------------------------------------


@stacks
@routes
@pytest.mark.parametrize("method", CALLS)
async def test_our_client_calls_their_plugin(
    stack: str, route: str, method: str, our_client: ConnectMeshtrioClient
) -> None:
    async with our_client(stack, route) as client:
        for _ in range(3):
            result = await ask(client, method)
            assert (result.name, result.replies) == ("OK", CALLS[method][1]), result


@stacks
@routes
async def test_our_client_sends_and_receives_large_messages(
    stack: str, route: str, our_client: ConnectMeshtrioClient
) -> None:
    with trio.fail_after(RESULT_TIMEOUT):
        async with our_client(stack, route) as client:
            result = await client.call("Bidi", LARGE, LARGE)
            assert result.replies == (LARGE, LARGE), result


@stacks
@routes
async def test_our_client_receives_messages_over_the_default_limit_if_asked_to(
    stack: str, route: str, our_client: ConnectMeshtrioClient
) -> None:
    """The plugin joins two messages, each of which it takes, to one of 6 MB."""
    with trio.fail_after(RESULT_TIMEOUT):
        async with our_client(stack, route) as client:
            result = await client.call("ClientStream", THREE_MB, THREE_MB)
            assert result.name == "RESOURCE_EXHAUSTED", result
        async with our_client(stack, route, max_receive_message_length=8_000_000) as client:
            result = await client.call("ClientStream", THREE_MB, THREE_MB)
            assert result.replies == (THREE_MB * 2,), result


@stacks
@routes
async def test_our_metadata_comes_back(
    stack: str, route: str, our_client: ConnectMeshtrioClient
) -> None:
    found = {}
    async with our_client(stack, route) as client:
        for method, (kind, sent) in product(CALLS, METADATA.items()):
            found[f"{method}, {kind}"] = check_metadata(await ask(client, method, sent), sent)
    check_all(found)


@stacks
@routes
async def test_their_status_messages_reach_our_client(
    stack: str, route: str, our_client: ConnectMeshtrioClient
) -> None:
    found = {}
    async with our_client(stack, route) as client:
        for method, (kind, text) in product(CALLS, TEXTS.items()):
            result = await ask(client, method, [FAIL, ("x-message-bin", text.encode())])
            found[f"{method}, {kind}"] = check_status(result, text)
    check_all(found)


# -- a meshtrio plugin -------------------------------------------------------------------------


@stacks
@their_routes
@pytest.mark.parametrize("method", CALLS)
def test_their_client_calls_our_plugin(
    stack: str, route: str, method: str, their_client: ConnectForeignClient
) -> None:
    client = their_client(stack, route)
    for _ in range(3):
        result = client.call(method, *CALLS[method][0])
        assert (result.name, result.replies) == ("OK", CALLS[method][1]), result


@stacks
@their_routes
def test_their_client_sends_and_receives_large_messages(
    stack: str, route: str, their_client: ConnectForeignClient
) -> None:
    result = their_client(stack, route).call("Bidi", LARGE, LARGE)
    assert result.replies == (LARGE, LARGE), result


@stacks
@their_routes
def test_their_metadata_comes_back(
    stack: str, route: str, their_client: ConnectForeignClient
) -> None:
    client = their_client(stack, route)
    found = {}
    for method, (kind, sent) in product(CALLS, METADATA.items()):
        result = client.call(method, *CALLS[method][0], metadata=sent)
        found[f"{method}, {kind}"] = check_metadata(result, sent)
    check_all(found)


@stacks
@their_routes
def test_our_status_messages_reach_their_client(
    stack: str, route: str, their_client: ConnectForeignClient
) -> None:
    client = their_client(stack, route)
    found = {}
    for method, (kind, text) in product(CALLS, TEXTS.items()):
        asked = [FAIL, ("x-message-bin", text.encode())]
        result = client.call(method, *CALLS[method][0], metadata=asked)
        found[f"{method}, {kind}"] = check_status(result, text, may_cut=True)
    check_all(found)


# -- values beyond ASCII -----------------------------------------------------------------------


@stacks
@routes
async def test_values_beyond_ascii_in_replies_fail_no_call(
    stack: str, route: str, our_client: ConnectMeshtrioClient
) -> None:
    found = {}
    async with our_client(stack, route) as client:
        for method, (kind, value) in product(CALLS, BEYOND_ASCII.items()):
            result = await ask(client, method, [("x-raw-bin", value.encode())])
            # A meshtrio client gives such bytes as the characters that Latin-1 makes of them.
            latin = value.encode().decode("latin-1")
            found[f"{method}, {kind}"] = check_raw(result, "x-raw", latin)
    check_all(found)


@stacks
@their_routes
def test_values_beyond_ascii_in_requests_fail_no_call(
    stack: str, route: str, their_client: ConnectForeignClient
) -> None:
    client = their_client(stack, route)
    found = {}
    for method, (kind, value) in product(CALLS, beyond_ascii(stack).items()):
        result = client.call(method, *CALLS[method][0], metadata=[("x-echo", value)])
        found[f"{method}, {kind}"] = check_raw(result, "x-echo", value)
    check_all(found)


@stacks
@their_routes
def test_values_beyond_ascii_are_no_obstacle_for_what_a_handler_calls(
    stack: str, route: str, their_client: ConnectForeignClient
) -> None:
    """Trace context and baggage go on with a handler's calls; these come from foreign clients."""
    client = their_client(stack, route)
    onward = ("x-call-on", f"plugin.{stack}")
    found = {}
    for (kind, value), key in product(beyond_ascii(stack).items(), ("baggage", "tracestate")):
        pairs = [onward, (key, f"user={value}"), ("traceparent", TRACEPARENT)]
        result = client.call("Unary", b"hello", metadata=pairs)
        found[f"{key}, {kind}"] = str(result) if result.code else ""
    check_all(found)


# -- pages instead of replies ------------------------------------------------------------------


@pytest.mark.parametrize("status", HTTP_STATUSES)
async def test_a_page_is_no_reply(
    status: int, our_client: ConnectMeshtrioClient, their_client: ConnectForeignClient
) -> None:
    """The call fails with the code that gRPC has for the HTTP status, on every route."""
    asked = [("x-http-status", str(status))]
    found = {}
    for route, method in product(ROUTES, CALLS):
        async with our_client(WEB_SERVER_PLUGIN, route) as client:
            found[f"ours, {route}, {method}"] = await ask(client, method, asked)
    for stack, method in product(STACKS, CALLS):
        client = their_client(stack, "gateway", WEB_SERVER_PLUGIN)
        found[f"{stack}, {method}"] = client.call(method, *CALLS[method][0], metadata=asked)
    code = HTTP_STATUSES[status]
    check_all({kind: "" if got.name == code else str(got) for kind, got in found.items()})
