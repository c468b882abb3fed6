"""Commands that show the state of a running mesh: `meshtrio ps`, `tree`, `services`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from meshtrio.cli import formatting
from meshtrio.cli.all_nodes import (
    NodeCall,
    all_nodes_option,
    ask_all_nodes,
    exit_with_problems,
    to_plain_answers,
)
from meshtrio.cli.balancing import (
    Balancing,
    describe_balancing,
    group_by_service,
    read_balancing,
    to_plain_state,
)
from meshtrio.cli.json_output import print_json, to_plain
from meshtrio.cli.mesh_client import run_with_channel, run_with_control
from meshtrio.cli.options import mesh_options, names_argument, services_argument
from meshtrio.cli.text_table import print_table
from meshtrio.client.channel import Channel
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import control, registry
from meshtrio.util.text import escape_unprintable

_INSTANCE_COLUMNS = (
    "NAME", "INSTANCE", "PID", "STATE", "RESTARTS", "UPTIME", "SOCKET", "REASON",
)  # fmt: skip
_SERVICE_COLUMNS = ("SERVICE", "ADDRESS", "INSTANCE", "PID", "WEIGHT", "PRIORITY", "NOTE")
CallsInFlight = Mapping[tuple[str, int], int]
"""Calls in progress, by plugin and instance; only of instances that report them."""


@click.command()
@names_argument
@mesh_options("Print a JSON list of objects.", all_nodes_option)
def ps(names: tuple[str, ...], as_json: bool, all_nodes: bool, mesh_socket: Path | None) -> None:
    """List instances and tasks with their processes and states: all, or those named.

    A NAME is a plugin, a group or a task. RESTARTS counts restarts, of a task the retries of its
    last run; REASON is how the last process ended, or why the instance is not ready or waits, and
    the status that the process reports.
    """
    if all_nodes:
        _print_instances_of_nodes(names, as_json, mesh_socket)
        return
    request = control.ListInstancesRequest(names=names)
    reply = run_with_control(lambda stub: stub.ListInstances(request), mesh_socket)
    if as_json:
        print_json(reply.instances)
    else:
        print_table(_INSTANCE_COLUMNS, map(_instance_row, reply.instances))


def _print_instances_of_nodes(
    names: tuple[str, ...], as_json: bool, mesh_socket: Path | None
) -> None:
    # One for each name, since a node need not know all of them.
    requests = [
        control.ListInstancesRequest(names=[name] if name else []) for name in names or [""]
    ]
    reply_type = control.ListInstancesResponse
    calls = [NodeCall("ListInstances", request, reply_type) for request in requests]
    answers = ask_all_nodes(mesh_socket, *calls)
    found = [
        (each.node, instance) for each in answers for instance in _unique_instances(each.replies)
    ]
    if as_json:
        print_json(to_plain_answers(answers, found))
    else:
        rows = ((node, *_instance_row(instance)) for node, instance in found)
        print_table(("NODE", *_INSTANCE_COLUMNS), rows)
    exit_with_problems(answers)


def _unique_instances(replies: Iterable[Any]) -> Iterable[control.Instance]:
    """Return the instances of several replies; a group and a plugin of it may both be named."""
    found = [each for reply in replies if reply is not None for each in reply.instances]
    return {(each.name, each.instance): each for each in found}.values()


def _instance_row(instance: control.Instance) -> tuple[Any, ...]:
    is_task = instance.HasField("task")
    reason = _describe_task(instance) if is_task else instance.reason
    return (
        instance.name,
        "-" if is_task else instance.instance,
        instance.pid if instance.HasField("pid") else "-",
        instance.state,
        instance.restarts,
        formatting.format_duration(instance.uptime) if instance.HasField("uptime") else "-",
        instance.socket or "-",
        "; ".join(filter(None, (reason, instance.status))),
    )


def _describe_task(instance: control.Instance) -> str:
    """Describe why a task is in its state, its last run, and when it runs next."""
    task, parts = instance.task, [instance.reason]
    if task.last_outcome == "completed" and not instance.reason:
        parts.append(f"completed after {task.last_duration:.2f} s")
    if task.HasField("next_run"):
        parts.append(f"next run {formatting.format_time(task.next_run).removesuffix('.000')}")
    if task.missed:
        parts.append(f"{formatting.format_count(task.missed, 'run')} missed")
    return "; ".join(filter(None, parts))


@click.command()
@mesh_options(
    "Print the tree as one JSON object; instances have ps's fields, and in_flight.",
    all_nodes_option,
)
def tree(as_json: bool, all_nodes: bool, mesh_socket: Path | None) -> None:
    """Show the supervision tree: the mesh, its groups, their plugins with instances, and tasks.

    Groups are shown with their strategy, plugins with their restart policy and dependencies, tasks
    with their schedule, instances with their calls in progress if they report them. With
    --all-nodes there is a tree for each node, in JSON a list of them.
    """
    if all_nodes:
        _print_trees_of_nodes(as_json, mesh_socket)
        return
    root, statistics = run_with_control(_fetch_tree, mesh_socket)
    in_flight = _get_calls_in_flight(statistics)
    if as_json:
        print_json(_add_calls_in_flight(to_plain(root), in_flight))
    else:
        _print_tree(root, statistics.uptime, in_flight)


def _print_trees_of_nodes(as_json: bool, mesh_socket: Path | None) -> None:
    answers = ask_all_nodes(
        mesh_socket,
        NodeCall("GetTree", control.GetTreeRequest(), control.Node),
        NodeCall("GetStatistics", control.GetStatisticsRequest(), control.Statistics),
    )
    found = [(each.node, *each.replies) for each in answers if not each.problem]
    if as_json:
        trees = (
            (node, _add_calls_in_flight(to_plain(root), _get_calls_in_flight(statistics)))
            for node, root, statistics in found
        )
        print_json(to_plain_answers(answers, trees))
    else:
        for node, root, statistics in found:
            _print_tree(root, statistics.uptime, _get_calls_in_flight(statistics), node)
    exit_with_problems(answers)


def _get_calls_in_flight(statistics: control.Statistics) -> CallsInFlight:
    return {
        (each.instance.name, each.instance.instance): each.load.in_flight
        for each in statistics.instances
        if each.HasField("load")
    }


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
    start = f", by {instance.start}" if instance.start else ""
    if instance.HasField("ready_after"):
        start += f" in {instance.ready_after:.2g} s"
    uptime = formatting.format_duration(instance.uptime)
    return f", pid {instance.pid}{start}, up {uptime}"


def _print_tree(
    root: control.Node, uptime: float, in_flight: CallsInFlight, mesh_node: str = ""
) -> None:
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
        is_task = instance.HasField("task")
        text = Text("" if is_task else f"{instance.instance} ").append_text(state)
        if instance.HasField("pid"):
            text.append(_describe_process(instance))
        if instance.restarts:
            text.append(f", {formatting.format_count(instance.restarts, 'restart')}")
        calls = in_flight.get((instance.name, instance.instance))
        if calls is not None:
            text.append(f", {formatting.format_count(calls, 'call')} under way")
        if reason := _describe_task(instance) if is_task else instance.reason:
            text.append(escape_unprintable(f": {reason}"))
        return text

    prefix = f"node {mesh_node}: " if mesh_node else ""
    title = f"{prefix}mesh {root.name}, up {formatting.format_duration(uptime)}"
    shown = Tree(rich_output.make_text(title), guide_style="dim")
    add(shown, root.nodes)
    rich_output.print_renderable(shown)


@click.command()
@services_argument
@mesh_options("Print the state of each service, as a JSON list.", all_nodes_option)
def services(
    services: tuple[str, ...], as_json: bool, all_nodes: bool, mesh_socket: Path | None
) -> None:
    """List all services, or those named, with their endpoints.

    Endpoints of the lowest PRIORITY are called as long as one of them is ready, in proportion to
    their WEIGHT. NOTE says if the gateway cannot connect to an endpoint, or outlier detection has
    ejected it; --json has all that the gateway's channels know of endpoints. For a service without
    endpoints, the reason is shown. With --all-nodes each node lists its own endpoints, and this
    mesh those of nodes that cannot be asked.
    """
    if all_nodes:
        _print_services_of_nodes(services, as_json, mesh_socket)
        return
    found, balancing = run_with_channel(partial(_resolve, services), mesh_socket)
    if as_json:
        print_json([to_plain_state(state, balancing) for state in found])
    else:
        rows = (row for state in found for row in _service_rows(state, balancing=balancing))
        print_table(_SERVICE_COLUMNS, rows)


def _print_services_of_nodes(
    names: tuple[str, ...], as_json: bool, mesh_socket: Path | None
) -> None:
    requests = [
        control.ListServiceStatesRequest(services=[name] if name else []) for name in names or [""]
    ]
    reply_type = control.ListServiceStatesResponse
    calls = [NodeCall("ListServiceStates", request, reply_type) for request in requests]
    answers = ask_all_nodes(mesh_socket, *calls)
    answered = {each.node for each in answers if not each.problem}
    found = [
        (each.node, shown, group_by_service(reply.balancing))
        for each in answers
        for reply in each.replies
        if reply is not None
        for state in reply.states
        for shown in _leave_out_others(state, answered if each.is_this_mesh else None)
    ]
    if as_json:
        plain = [(node, to_plain_state(state, channels)) for node, state, channels in found]
        print_json(to_plain_answers(answers, plain))
    else:
        rows = (row for each in found for row in _service_rows(each[1], each[0], each[2]))
        print_table(("NODE", *_SERVICE_COLUMNS), rows)
    exit_with_problems(answers)


def _leave_out_others(
    state: registry.ServiceState, others: set[str] | None
) -> list[registry.ServiceState]:
    """Return a service without the endpoints that other nodes list; [] if it has no other.

    `others` are the nodes that list theirs; None for all.
    """
    kept = [
        each
        for each in state.endpoints
        if not each.node or (others is not None and each.node not in others)
    ]
    if state.endpoints and not kept:
        return []
    shown = registry.ServiceState()
    shown.CopyFrom(state)
    del shown.endpoints[:]
    shown.endpoints.extend(kept)
    return [shown]


def _service_rows(
    state: registry.ServiceState, mesh_node: str | None = None, balancing: Balancing | None = None
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a service; those of a node begin with its name."""
    if not state.endpoints:
        start = () if mesh_node is None else (mesh_node,)
        yield *start, state.service, *"-----", describe_unavailable(state)
    for each in sorted(state.endpoints, key=lambda e: (e.priority, e.instance, e.address)):
        start = () if mesh_node is None else (each.node or mesh_node,)
        channels = [] if balancing is None else balancing.get(state.service, [])
        note = ", ".join((*_describe_endpoint(each), *describe_balancing(each, channels)))
        numbers = each.instance, each.pid or "-", each.weight, each.priority
        yield *start, state.service, each.address, *numbers, note


def _describe_endpoint(endpoint: registry.Endpoint) -> Iterator[str]:
    if endpoint.HasField("tls"):
        yield "TLS"
    if endpoint.node:
        yield f"gateway of {endpoint.node}" if endpoint.gateway else f"of {endpoint.node}"


async def _resolve(
    names: Sequence[str], channel: Channel
) -> tuple[list[registry.ServiceState], Balancing]:
    stub = DynamicStub(channel, registry.DESCRIPTOR.services_by_name["Registry"])
    if not names:
        names = (await stub.ListServices(registry.ListServicesRequest())).services
    found = [await stub.Resolve(registry.ResolveRequest(service=name)) for name in names]
    return found, await read_balancing(channel, names) if names else {}


def describe_unavailable(state: registry.ServiceState) -> str:
    """Describe why a service has no endpoints, as far as its mesh knows."""
    if state.departures:
        from meshtrio.supervisor.log_line import find_last_line  # `ps` does without it.

        last = state.departures[-1]
        return ": ".join(filter(None, (last.reason, find_last_line(last.stderr_tail))))
    return "not managed by the mesh" if state.unattended else "no instance has become ready yet"
