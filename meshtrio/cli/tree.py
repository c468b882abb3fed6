"""`meshtrio tree`: show the supervision tree, down to the processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from meshtrio.cli.json_output import message_to_dict, print_json
from meshtrio.cli.mesh_client import open_control_stub, run_async
from meshtrio.cli.options import json_option, mesh_socket_option
from meshtrio.messages import control as messages
from meshtrio.util.text import escape_unprintable

CallsInFlight = Mapping[tuple[str, int], int]
"""Calls in progress, by plugin and instance; only of instances that report them."""


@click.command(short_help="Show the supervision tree with each instance's state.")
@json_option("Print the tree as one JSON object; instances have ps's fields, and in_flight.")
@mesh_socket_option
def tree(as_json: bool, mesh_socket: Path | None) -> None:
    """Show the supervision tree: the mesh, its groups, their plugins, and the plugins' instances.

    Groups are shown with their strategy, plugins with their restart policy and dependencies,
    instances with their calls in progress if they report them.
    """
    root, statistics = run_async(_fetch, mesh_socket)
    in_flight = {
        (each.instance.name, each.instance.instance): each.load.in_flight
        for each in statistics.instances
        if each.HasField("load")
    }
    if as_json:
        print_json(_add_calls_in_flight(message_to_dict(root), in_flight))
    else:
        _print_tree(root, statistics.uptime, in_flight)


async def _fetch(mesh_socket: Path | None) -> tuple[messages.Node, messages.Statistics]:
    async with open_control_stub(mesh_socket) as stub:
        root = await stub.GetTree(messages.GetTreeRequest())
        return root, await stub.GetStatistics(messages.GetStatisticsRequest())


def _add_calls_in_flight(node: dict[str, Any], in_flight: CallsInFlight) -> dict[str, Any]:
    for instance in node["instances"]:
        instance["in_flight"] = in_flight.get((instance["name"], instance["instance"]))
    for each in node["nodes"]:
        _add_calls_in_flight(each, in_flight)
    return node


def _print_tree(root: messages.Node, uptime: float, in_flight: CallsInFlight) -> None:
    from rich.text import Text
    from rich.tree import Tree

    from meshtrio.cli import formatting, rich_output

    def add(below: Tree, nodes: Iterable[messages.Node]) -> None:
        for node in nodes:
            text = rich_output.make_text(node.name, "bold").append(
                escape_unprintable(f" ({node.policy})"), "not bold"
            )
            if node.after:
                text.append(escape_unprintable(f" after {', '.join(node.after)}"), "not bold dim")
            branch = below.add(text)
            add(branch, node.nodes)
            for instance in node.instances:
                branch.add(describe(instance))

    def describe(instance: messages.Instance) -> Text:
        text = Text(f"{instance.instance} ").append_text(
            rich_output.make_state_text(instance.state)
        )
        if instance.HasField("pid"):
            text.append(f", pid {instance.pid}, up {formatting.format_duration(instance.uptime)}")
        if instance.restarts:
            text.append(f", {formatting.format_count(instance.restarts, 'restart')}")
        calls = in_flight.get((instance.name, instance.instance))
        if calls is not None:
            text.append(f", {formatting.format_count(calls, 'call')} under way")
        if instance.reason:
            text.append(escape_unprintable(f": {instance.reason}"))
        return text

    shown = Tree(
        rich_output.make_text(f"mesh {root.name}, up {formatting.format_duration(uptime)}"),
        guide_style="dim",
    )
    add(shown, root.nodes)
    rich_output.print_renderable(shown)
