"""Calls of a mesh to the control of other nodes, for its own clients.

No mesh serves calls to its control that a gateway has forwarded, since they would have the rights
of the gateway. So this mesh makes them itself, with its certificate, for clients with access to its
own control, and only those of methods that change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import purerpc
import trio

from meshtrio.client.channel import Channel, open_endpoint_channel
from meshtrio.client.multicallable import make_multicallable, make_raw_method
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.messages import control
from meshtrio.rpc.method import Method

if TYPE_CHECKING:
    from meshtrio.cluster.node import Node
    from meshtrio.discovery.etcd_entries import NodeEntry

_NODE_TIMEOUT = 5.0
"""Seconds that a node has to answer all calls of a query."""
_MAX_CALLS = 100
"""Number of calls to each node in one query."""
_MAX_CONCURRENT_NODES = 100
_MAX_NODE_REPLIES_SIZE = 8 * 1024 * 1024
"""Bytes of the replies of one node."""

_READ_ONLY = ("ListInstances", "GetTree", "GetStatistics", "ListServiceStates", "GetHistory")
_CONTROL = control.DESCRIPTOR.services_by_name["Control"]


class _NodeError(Exception):
    """A node cannot be asked; the text says why."""


async def query_nodes(node: Node, request: control.QueryNodesRequest) -> control.QueryNodesResponse:
    """Call methods of other nodes concurrently.

    Args:
        node: This mesh.
        request: The calls, and the names of nodes.

    Returns:
        A result for each node, also for those that cannot be asked.

    Raises:
        InvalidArgumentError: A call is not permitted, malformed, or one too many.

    Cancellation:
        Cancels the calls.
    """
    calls = _parse_calls(request.calls)
    this_node = node.config.node_name
    names = set(request.nodes) or node.services.nodes.keys() - {this_node}
    results = {name: control.NodeResult(node=name) for name in sorted(names)}
    limiter = trio.CapacityLimiter(_MAX_CONCURRENT_NODES)

    async def query(result: Any) -> None:
        async with limiter:
            try:
                endpoint = _find_gateway(node, result.node)
                result.replies.extend(await _call_node(endpoint, calls))
            except _NodeError as exc:
                result.problem = str(exc)

    async with trio.open_nursery() as nursery:
        for result in results.values():
            nursery.start_soon(query, result)
    return control.QueryNodesResponse(results=results.values(), this_node=this_node)


class _Call:
    def __init__(self, method: Method, request: Any) -> None:
        self.method = method
        self.request = request


def _parse_calls(calls: Sequence[Any]) -> list[_Call]:
    if len(calls) > _MAX_CALLS:
        text = f"{len(calls):,} calls to each node, more than {_MAX_CALLS:,}"
        raise purerpc.InvalidArgumentError(text)
    parsed = []
    for call in calls:
        if call.method not in _READ_ONLY:
            permitted = f"choose from {', '.join(_READ_ONLY)}"
            text = f"{call.method!r:.200} cannot be called at other nodes; {permitted}"
            raise purerpc.InvalidArgumentError(text)
        method = make_raw_method(_CONTROL.methods_by_name[call.method])
        try:
            message = method.request_type.FromString(call.request)
        except Exception as exc:
            text = f"the request of {call.method} is malformed: {exc}"
            raise purerpc.InvalidArgumentError(text) from None
        parsed.append(_Call(method, message))
    return parsed


def _find_gateway(node: Node, name: str) -> Endpoint:
    """Return the endpoint of a node's gateway. Raises _NodeError."""
    entry: NodeEntry | None = node.services.nodes.get(name)
    if entry is None:
        raise _NodeError("etcd has no such node")
    if not entry.address:
        raise _NodeError("it advertises no gateway: set advertise in its [mesh.discovery]")
    return Endpoint(id=name, address=entry.address, tls=node.config.peer_tls)


async def _call_node(endpoint: Endpoint, calls: Sequence[_Call]) -> list[Any]:
    """Make all calls to one node. Raises _NodeError if it cannot be asked."""
    replies = [control.NodeReply() for _ in calls]
    problems: list[str] = []
    size = 0

    async def run(number: int) -> None:
        nonlocal size
        data = await _call_method(channel, calls[number], problems)
        if data is not None:
            size += len(data)
            if size > _MAX_NODE_REPLIES_SIZE:
                problems.append(f"its replies exceed {_MAX_NODE_REPLIES_SIZE:,} bytes")
            else:
                replies[number].reply = data
        if problems:
            nursery.cancel_scope.cancel()

    with trio.move_on_after(_NODE_TIMEOUT) as scope:
        async with (
            open_endpoint_channel(
                endpoint, traced=False, max_receive_message_length=_MAX_NODE_REPLIES_SIZE
            ) as channel,
            trio.open_nursery() as nursery,
        ):
            for number in range(len(calls)):
                nursery.start_soon(run, number)
    if problems:
        raise _NodeError(problems[0])
    if scope.cancelled_caught:
        raise _NodeError(f"{endpoint.address} did not answer within {_NODE_TIMEOUT:g} s")
    return replies


async def _call_method(channel: Channel, call: _Call, problems: list[str]) -> bytes | None:
    """Return the reply; None if there is none, and in most cases a problem."""
    try:
        reply = await make_multicallable(channel, call.method)(call.request, wait_for_ready=False)
    except purerpc.NotFoundError:
        return None
    except purerpc.RpcFailedError as exc:
        status = exc.status
        problems.append(str(status.status_message or status.status_code.name))
        return None
    data: bytes = reply.data
    return data
