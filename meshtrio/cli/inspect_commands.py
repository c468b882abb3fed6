"""Commands that show the state of a running mesh: `meshtrio ps`, `tree`, `services`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from meshtrio.cli import formatting
from meshtrio.cli.json_output import print_json, to_plain
from meshtrio.cli.mesh_client import run_with_control, run_with_registry
from meshtrio.cli.options import mesh_options, names_argument, services_argument
from meshtrio.cli.text_table import print_table
from meshtrio.messages import control, registry
from meshtrio.util.text import escape_unprintable

CallsInFlight = Mapping[tuple[str, int], int]
"""Calls in progress, by plugin and instance; only of instances that report them."""


@click.command()
@names_argument
@mesh_options("Print a JSON list of objects.")
def ps(names: tuple[str, ...], as_json: bool, mesh_socket: Path | None) -> None:
    """List instances with their processes and states: all, or those of the plugins named.

    A NAME is a plugin or a group. RESTARTS counts restarts; REASON is how the last process ended,
    or why the instance is not ready.
    """
    request = control.ListInstancesRequest(names=names)
    reply = run_with_control(lambda stub: stub.ListInstances(request), mesh_socket)
    if as_json:
        print_json(reply.instances)
        return
    columns = ("NAME", "INSTANCE", "PID", "STATE", "RESTARTS", "UPTIME", "SOCKET", "REASON")
    rows = (
        (
            each.name,
            each.instance,
            each.pid if each.HasField("pid") else "-",
            each.state,
            each.restarts,
            formatting.format_duration(each.uptime) if each.HasField("uptime") else "-",
            each.socket,
            each.reason,
        )
        for each in reply.instances
    )
    print_table(columns, rows)


@click.command()
@mesh_options("Print the tree as one JSON object; instances have ps's fields, and in_flight.")
def tree(as_json: bool, mesh_socket: Path | None) -> None:
    """Show the supervision tree: the mesh, its groups, their plugins, and the plugins' instances.

    Groups are shown with their strategy, plugins with their restart policy and dependencies,
    instances with their calls in progress if they report them.
    """
    root, statistics = run_with_control(_fetch_tree, mesh_socket)
    in_flight = {
        (each.instance.name, each.instance.instance): each.load.in_flight
        for each in statistics.instances
        if each.HasField("load")
    }
    if as_json:
        print_json(_add_calls_in_flight(to_plain(root), in_flight))
    else:
        _print_tree(root, statistics.uptime, in_flight)


async def _fetch_tree(stub: Any) -> tuple[control.Node, control.Statistics]:
    root = await stub.GetTree(control.GetTreeRequest())
    return root, await stub.GetStatistics(control.GetStatisticsRequest())


def _add_calls_in_flight(node: dict[str, Any], in_flight: CallsInFlight) -> dict[str, Any]:
    for instance in node["instances"]:
        instance["in_flight"] = in_flight.get((instance["name"], instance["instance"]))
    for each in node["nodes"]:
        _add_calls_in_flight(each, in_flight)
    return node


def _describe_process(instance: control.Instance) -> str:
    start = f", by {instance.start}"
    if instance.HasField("ready_after"):
        start += f" in {instance.ready_after:.2g} s"
    uptime = formatting.format_duration(instance.uptime)
    return f", pid {instance.pid}{start}, up {uptime}"


def _print_tree(root: control.Node, uptime: float, in_flight: CallsInFlight) -> None:
    from rich.text import Text
    from rich.tree import Tree

    from meshtrio.cli import rich_output

    def add(below: Tree, nodes: Iterable[control.Node]) -> None:
        for node in nodes:
            text = rich_output.make_text(node.name, "bold")
            text.append(escape_unprintable(f" ({node.policy})"), "not bold")
            if node.after:
                text.append(escape_unprintable(f" after {', '.join(node.after)}"), "not bold dim")
            branch = below.add(text)
            add(branch, node.nodes)
            for instance in node.instances:
                branch.add(describe(instance))

    def describe(instance: control.Instance) -> Text:
        state = rich_output.make_state_text(instance.state)
        text = Text(f"{instance.instance} ").append_text(state)
        if instance.HasField("pid"):
            text.append(_describe_process(instance))
        if instance.restarts:
            text.append(f", {formatting.format_count(instance.restarts, 'restart')}")
        calls = in_flight.get((instance.name, instance.instance))
        if calls is not None:
            text.append(f", {formatting.format_count(calls, 'call')} under way")
        if instance.reason:
            text.append(escape_unprintable(f": {instance.reason}"))
        return text

    title = f"mesh {root.name}, up {formatting.format_duration(uptime)}"
    shown = Tree(rich_output.make_text(title), guide_style="dim")
    add(shown, root.nodes)
    rich_output.print_renderable(shown)


@click.command()
@services_argument
@mesh_options("Print the registry's state of each service, as a JSON list.")
def services(services: tuple[str, ...], as_json: bool, mesh_socket: Path | None) -> None:
    """List all services, or those named, with their endpoints.

    Endpoints of the lowest PRIORITY are called as long as one of them is ready, in proportion to
    their WEIGHT. For a service without endpoints, the reason is shown.
    """
    found = run_with_registry(partial(_resolve, services), mesh_socket)
    if as_json:
        print_json(found)
        return
    columns = ("SERVICE", "ADDRESS", "INSTANCE", "PID", "WEIGHT", "PRIORITY", "NOTE")
    print_table(columns, (row for state in found for row in _service_rows(state)))


def _service_rows(state: registry.ServiceState) -> Iterator[tuple[Any, ...]]:
    if not state.endpoints:
        yield state.service, *"-----", describe_unavailable(state)
    for each in sorted(state.endpoints, key=lambda e: (e.priority, e.instance, e.address)):
        note = "TLS" if each.HasField("tls") else ""
        pid = each.pid or "-"
        yield state.service, each.address, each.instance, pid, each.weight, each.priority, note


async def _resolve(names: Sequence[str], stub: Any) -> list[registry.ServiceState]:
    if not names:
        names = (await stub.ListServices(registry.ListServicesRequest())).services
    return [await stub.Resolve(registry.ResolveRequest(service=name)) for name in names]


def describe_unavailable(state: registry.ServiceState) -> str:
    """Describe why a service has no endpoints, as far as its mesh knows."""
    if state.departures:
        from meshtrio.supervisor.log_line import find_last_line  # `ps` does without it.

        last = state.departures[-1]
        return ": ".join(filter(None, (last.reason, find_last_line(last.stderr_tail))))
    return "not managed by the mesh" if state.unattended else "no instance has become ready yet"
