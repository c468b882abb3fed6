"""`meshtrio tree`: who owns what, down to the processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from meshtrio.cli.asking import control, run
from meshtrio.cli.options import json_option, mesh_socket_option
from meshtrio.cli.records import print_document, record
from meshtrio.messages import control as messages
from meshtrio.texts import visible

InFlight = Mapping[tuple[str, int], int]
"""Calls under way, by plugin and instance; those that do not tell are not in it."""


@click.command(short_help="Show who owns what, with each instance's state.")
@json_option("The tree as one JSON object; its instances have in_flight beside what ps gives.")
@mesh_socket_option
def tree(as_json: bool, mesh_socket: Path | None) -> None:
    """Show the nursery tree: the mesh, its groups, their plugins, and the instances of those.

    Groups are shown with their strategy, plugins with their restart policy and what they are
    started after, instances with the calls under way where the plugin tells.
    """
    root, statistics = run(_learn, mesh_socket)
    in_flight = {
        (each.instance.name, each.instance.instance): each.load.in_flight
        for each in statistics.instances
        if each.HasField("load")
    }
    if as_json:
        print_document(_with_calls(record(root), in_flight))
    else:
        _show(root, statistics.uptime, in_flight)


async def _learn(mesh_socket: Path | None) -> tuple[messages.Node, messages.Statistics]:
    async with control(mesh_socket) as stub:
        root = await stub.GetTree(messages.GetTreeRequest())
        return root, await stub.GetStatistics(messages.GetStatisticsRequest())


def _with_calls(node: dict[str, Any], in_flight: InFlight) -> dict[str, Any]:
    for instance in node["instances"]:
        instance["in_flight"] = in_flight.get((instance["name"], instance["instance"]))
    for each in node["nodes"]:
        _with_calls(each, in_flight)
    return node


def _show(root: messages.Node, uptime: float, in_flight: InFlight) -> None:
    from rich.text import Text
    from rich.tree import Tree

    from meshtrio.cli import screen, words

    def add(below: Tree, nodes: Iterable[messages.Node]) -> None:
        for node in nodes:
            text = screen.text(node.name, "bold").append(visible(f" ({node.policy})"), "not bold")
            if node.after:
                text.append(visible(f" after {', '.join(node.after)}"), "not bold dim")
            branch = below.add(text)
            add(branch, node.nodes)
            for instance in node.instances:
                branch.add(describe(instance))

    def describe(instance: messages.Instance) -> Text:
        text = Text(f"{instance.instance} ").append_text(screen.state(instance.state))
        if instance.HasField("pid"):
            text.append(f", pid {instance.pid}, up {words.duration(instance.uptime)}")
        if instance.restarts:
            text.append(f", {words.count(instance.restarts, 'restart')}")
        calls = in_flight.get((instance.name, instance.instance))
        if calls is not None:
            text.append(f", {words.count(calls, 'call')} under way")
        if instance.reason:
            text.append(visible(f": {instance.reason}"))
        return text

    shown = Tree(screen.text(f"mesh {root.name}, up {words.duration(uptime)}"), guide_style="dim")
    add(shown, root.nodes)
    screen.show(shown)
