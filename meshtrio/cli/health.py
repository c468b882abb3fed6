"""`meshtrio health`: whether a mesh answers and its plugins are ready, as a container's check."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import attrs
import click
import purerpc
import trio

from meshtrio.cli.error_report import MeshRequestError
from meshtrio.cli.json_output import print_json
from meshtrio.cli.mesh_client import run_with_channel
from meshtrio.cli.options import SecondsRange, mesh_options, names_argument
from meshtrio.client.channel import Channel
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import control
from meshtrio.messages import health as health_messages
from meshtrio.runtime_dir.trust import find_mesh_socket
from meshtrio.util.text import escape_unprintable

_DEFAULT_TIMEOUT = 3.0
"""Seconds in which a healthy mesh has answered, on a busy machine as well."""
_HEALTH = health_messages.DESCRIPTOR.services_by_name["Health"]
_CONTROL = control.DESCRIPTOR.services_by_name["Control"]
_UP_STATES = frozenset({"ready", "attached", "idle"})
"""An idle plugin is started by the first call."""
_DOWN_STATES = frozenset({"stopped", "exited"})
"""States of instances that were stopped on request, or have done their work."""
_PASSING_STATES = frozenset({"pending", "starting", "stopping"})
"""States in which calls wait for an instance that is started on demand, and are answered."""


@attrs.frozen
class PluginHealth:
    """Whether a plugin is ready: at least one of its instances is, or is started on demand."""

    name: str
    ready: bool
    instances: int
    """Number of its instances."""
    ready_instances: int
    """Number of those that are ready."""
    reason: str
    """Why it is not ready; "" if it is."""


@click.command()
@names_argument
@mesh_options(
    "Print one JSON object: healthy, reason, plugins.",
    click.option(
        "--timeout",
        type=SecondsRange(min=0, min_open=True),
        metavar="SECONDS",
        default=_DEFAULT_TIMEOUT,
        show_default=True,
        help="Fail if the mesh has not answered after this time.",
    ),
)
def health(names: tuple[str, ...], timeout: float, as_json: bool, mesh_socket: Path | None) -> None:
    """Check that the mesh answers and that plugins are ready: all, or those named.

    The exit status is 0 if so, else 1, with the reason in one line: for HEALTHCHECK of a container.
    A plugin is ready if at least one of its instances is. Without a NAME, which is a plugin or a
    group, plugins that were stopped, or have ended and are not to run again, are not considered,
    nor are tasks.
    """
    plugins: Sequence[PluginHealth] = ()
    try:
        instances, serving = _ask(names, timeout, mesh_socket)
        plugins = list(summarize(instances, with_stopped=bool(names), serving=serving))
        reason = describe(plugins)
    except (trio.TooSlowError, purerpc.DeadlineExceededError):
        where = mesh_socket or find_mesh_socket()
        reason = f"the mesh at {where} did not answer within {timeout:g} s"
    except purerpc.RpcFailedError as exc:
        reason = exc.status.status_message
    except MeshRequestError as exc:
        reason = exc.status.status_message
    if as_json:
        found = [attrs.asdict(each) for each in plugins]
        print_json({"healthy": not reason, "reason": reason, "plugins": found})
    elif reason:
        print(f"meshtrio: {escape_unprintable(reason)}", file=sys.stderr)
    else:
        print(escape_unprintable(f"healthy: {', '.join(p.name for p in plugins) or 'no plugins'}"))
    if reason:
        raise click.exceptions.Exit(1)


def _ask(
    names: Sequence[str], timeout: float, mesh_socket: Path | None
) -> tuple[Sequence[control.Instance], Collection[str]]:
    """Return the instances, and which plugins serve though none of their instances is up."""

    async def is_serving(channel: Channel, service: str) -> bool:
        request = health_messages.HealthCheckRequest(service=service)
        with contextlib.suppress(purerpc.NotFoundError):
            reply = await DynamicStub(channel, _HEALTH).Check(request)
            return bool(reply.status == health_messages.HealthCheckResponse.SERVING)
        return False

    async def run(channel: Channel) -> tuple[Sequence[control.Instance], Collection[str]]:
        if not await is_serving(channel, ""):
            raise purerpc.FailedPreconditionError("the mesh is stopping")
        request = control.ListInstancesRequest(names=names)
        found = await DynamicStub(channel, _CONTROL).ListInstances(request)
        tasks = [each.name for each in found.instances if each.HasField("task")]
        if names and tasks:
            raise purerpc.InvalidArgumentError(f"{tasks[0]} is a task; health is that of plugins")
        plugins = [each for each in found.instances if not each.HasField("task")]
        passing = {each.name for each in plugins if each.state in _PASSING_STATES}
        asked = passing - {each.name for each in plugins if each.state in _UP_STATES}
        serving = [name for name in asked if await is_serving(channel, f"plugin.{name}")]
        return plugins, serving

    return run_with_channel(run, mesh_socket, timeout)


def summarize(
    instances: Iterable[control.Instance], *, with_stopped: bool, serving: Collection[str] = ()
) -> Iterator[PluginHealth]:
    """Yield the health of each plugin that has instances; of those that are down if asked for.

    Those that are `serving` are ready, whatever their instances are.
    """
    by_plugin: dict[str, list[control.Instance]] = {}
    for instance in instances:
        by_plugin.setdefault(instance.name, []).append(instance)
    for name, found in by_plugin.items():
        if not with_stopped and all(each.state in _DOWN_STATES for each in found):
            continue
        ready = [each for each in found if each.state in _UP_STATES]
        reasons = dict.fromkeys(
            f"{each.state}{': ' * bool(each.reason)}{each.reason}" for each in found
        )
        is_ready = bool(ready) or name in serving
        reason = "" if is_ready else ", ".join(reasons)
        yield PluginHealth(name, is_ready, len(found), len(ready), reason)


def describe(plugins: Iterable[PluginHealth]) -> str:
    """Describe the plugins that are not ready; "" if all are."""
    unready = [f"{each.name} is not ready ({each.reason})" for each in plugins if not each.ready]
    return "; ".join(unready)
