"""The option --all-nodes: the same request to the meshes of all nodes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import purerpc
from google.protobuf.message import DecodeError

from meshtrio.cli.json_output import to_plain
from meshtrio.cli.mesh_client import run_with_channel
from meshtrio.client.channel import Channel
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import control
from meshtrio.util.text import escape_unprintable

_CONTROL = control.DESCRIPTOR.services_by_name["Control"]

all_nodes_option = click.option(
    "--all-nodes",
    is_flag=True,
    help="Ask all nodes of [mesh.discovery]; exit 1 if one of them cannot be asked.",
)


class NodeCall(NamedTuple):
    """A call to the control of each node."""

    method: str
    request: Any
    reply_type: Any


class NodeAnswer(NamedTuple):
    """What a node has answered, or why it has not."""

    node: str
    replies: Sequence[Any]
    """One for each call; None if the node does not have what it asks for."""
    problem: str = ""
    is_this_mesh: bool = False


def ask_all_nodes(mesh_socket: Path | None, *calls: NodeCall) -> list[NodeAnswer]:
    """Make calls to this mesh, and by it to all other nodes; returns answers by name.

    Raises what `run_with_channel` does; MeshRequestError, too, if no node has what is asked for.
    """
    return run_with_channel(lambda channel: _ask_all_nodes(channel, calls), mesh_socket)


async def _ask_all_nodes(channel: Channel, calls: Sequence[NodeCall]) -> list[NodeAnswer]:
    stub = DynamicStub(channel, _CONTROL)
    messages = [
        control.NodeCall(method=each.method, request=each.request.SerializeToString())
        for each in calls
    ]
    reply = await stub.QueryNodes(control.QueryNodesRequest(calls=messages))
    own, error = await _ask_this_mesh(stub, calls)
    answers = [NodeAnswer(reply.this_node, own, is_this_mesh=True)]
    answers += [_make_answer(each, calls) for each in reply.results]
    is_unknown = all(reply is None for each in answers for reply in each.replies)
    if error is not None and is_unknown and not any(each.problem for each in answers):
        raise error
    return sorted(answers, key=lambda each: each.node)


async def _ask_this_mesh(
    stub: Any, calls: Sequence[NodeCall]
) -> tuple[list[Any], purerpc.NotFoundError | None]:
    """Return the replies, and the error if one of them is that there is no such thing."""
    replies, error = [], None
    for call in calls:
        try:
            replies.append(await getattr(stub, call.method)(call.request))
        except purerpc.NotFoundError as exc:
            replies.append(None)
            error = exc
    return replies, error


def _make_answer(result: control.NodeResult, calls: Sequence[NodeCall]) -> NodeAnswer:
    try:
        replies = [*map(_parse_reply, result.replies, calls)]
    except DecodeError as exc:
        # The mesh passes on what the node has sent.
        return NodeAnswer(result.node, (), f"its reply is malformed: {exc}")
    return NodeAnswer(result.node, replies, result.problem)


def _parse_reply(reply: control.NodeReply, call: NodeCall) -> Any:
    return call.reply_type.FromString(reply.reply) if reply.HasField("reply") else None


def to_plain_answers(answers: Iterable[NodeAnswer], rows: Iterable[tuple[str, Any]]) -> list[Any]:
    """Return the objects of a JSON list: rows with their nodes, and the nodes without an answer."""
    found = [{"node": node, "problem": None, **to_plain(row)} for node, row in rows]
    failed = [{"node": each.node, "problem": each.problem} for each in answers if each.problem]
    return [*found, *failed]


def exit_with_problems(answers: Iterable[NodeAnswer]) -> None:
    """Report the nodes that could not be asked, and exit with status 1 if there are any."""
    lines = list(_problem_lines(answers))
    if lines:
        sys.stdout.flush()
        for line in lines:
            print(line, file=sys.stderr)
        raise click.exceptions.Exit(1)


def _problem_lines(answers: Iterable[NodeAnswer]) -> Iterator[str]:
    for each in answers:
        if each.problem:
            yield escape_unprintable(f"meshtrio: node {each.node}: {each.problem}")
