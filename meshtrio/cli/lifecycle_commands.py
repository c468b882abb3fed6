"""Commands that control a running mesh: `meshtrio start`, `stop`, `scale`, `reload` and so on."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click
import purerpc
import trio

from meshtrio.cli import formatting
from meshtrio.cli.json_output import print_json
from meshtrio.cli.mesh_client import run_with_control
from meshtrio.cli.options import mesh_options, name_argument, timeout_option
from meshtrio.cli.stdio import show_spinner
from meshtrio.cli.text_table import print_table
from meshtrio.messages import control as messages
from meshtrio.util.concurrency import run_during
from meshtrio.util.errors import UsageError
from meshtrio.util.log_level import LogLevel
from meshtrio.util.text import escape_unprintable, replace_surrogates

_EVENT_DELAY = 2.0
"""Seconds after which warnings are printed while an operation is still running."""
_SETTLED_STATES = frozenset(
    {"ready", "idle", "stopped", "exited", "failed", "attached", "completed", "scheduled"}
)
"""Instance states that an operation does not wait to end."""


_lifecycle_options = mesh_options("Print the result as one JSON object.", timeout_option)


@click.command()
@name_argument
@_lifecycle_options
def start(name: str, **options: Any) -> None:
    """Start the stopped instances of NAME, a plugin or a group, and wait until all are ready.

    Failed instances are started again. If an instance, or one it depends on, fails to start, this
    fails with the reason; the restart policy still applies.
    """
    _run_and_print("Start", f"starting {name}", f"started {name}", name=name, **options)


@click.command()
@name_argument
@_lifecycle_options
def stop(name: str, **options: Any) -> None:
    """Stop NAME, a plugin or a group, until it is started again, and wait until it has stopped.

    Calls in progress may finish within the plugin's stop_timeout; `drain` lists those that did not.
    Of a task, the present run is stopped; one with a schedule runs again at its next time.
    """
    _run_and_print("Stop", f"stopping {name}", f"stopped {name}", name=name, **options)


@click.command()
@name_argument
@_lifecycle_options
def restart(name: str, **options: Any) -> None:
    """Restart the instances of NAME, a plugin or a group, one by one; no call is lost.

    Each successor is ready before its predecessor is stopped. If it does not become ready, the
    predecessor stays active, and this fails with the reason. Stopped instances are started.
    """
    _run_and_print("Restart", f"restarting {name}", f"restarted {name}", name=name, **options)


@click.command()
@name_argument
@click.argument("instances", type=click.IntRange(0, 2**32 - 1), metavar="N")
@_lifecycle_options
def scale(name: str, instances: int, **options: Any) -> None:
    """Set the number of instances of NAME, a plugin, and wait until they are ready or stopped.

    Instances with the highest numbers are stopped first. The next reload restores the config's N.
    """
    what, options = f"{name} to {instances}", {**options, "name": name, "instances": instances}
    _run_and_print("Scale", f"scaling {what}", f"scaled {what}", **options)


@click.command()
@name_argument
@_lifecycle_options
def drain(name: str, as_json: bool, **options: Any) -> None:
    """Stop NAME, a plugin or a group, and report how each instance ended and which calls were cut.

    Calls in progress may finish within the plugin's stop_timeout; those that did not are listed.
    Only plugins made with meshtrio report them. For others, and for those that were killed before
    they could report, they are listed as not known.
    """
    reply, _ = _run_operation("Drain", f"draining {name}", name=name, **options)
    if as_json:
        print_json(reply)
    else:
        _print_drained(name, reply.instances)


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@_lifecycle_options
def reload(file: Path | None, as_json: bool, **options: Any) -> None:
    """Apply the config in FILE, by default the file that the mesh was started from.

    Only what has changed is restarted, and no call is lost. A config with mistakes changes nothing:
    they are printed, and the exit status is 2. If a plugin fails to start, the rest is applied, and
    the exit status is 1; the plugin's restart policy still applies.
    """
    path = os.path.abspath(file) if file else ""
    if replace_surrogates(path) != path:
        raise UsageError(
            f"{replace_surrogates(path)}: the path is not UTF-8 and cannot be sent to the mesh"
        )
    reply, _ = _run_operation("Reload", "reloading the config", path=path, **options)
    if as_json:
        print_json(reply)
    else:
        print("\n".join(map(escape_unprintable, formatting.describe_changes(reply))))


@click.command("log-level")
@name_argument
@click.argument(
    "level", required=False, type=click.Choice([each.value for each in LogLevel]), metavar="[LEVEL]"
)
@mesh_options("Print the levels as one JSON object.")
def log_level(name: str, level: str | None, as_json: bool, mesh_socket: Path | None) -> None:
    """Set the log level of NAME, a plugin or a group: debug, info, warning or error.

    Without LEVEL, show the levels. LOGGED FROM is the level from which on the mesh logs the
    plugin's output, '-' for that of the mesh's own log. WRITTEN FROM is the level of the process,
    as reported by plugins made with meshtrio. A level also applies to processes that are started
    later, until the next reload, which restores the config's.
    """
    plugins = run_with_control(partial(_get_or_set_levels, name, level), mesh_socket)
    if as_json:
        print_json({"plugins": plugins})
        return
    instances = [(plugin, each) for plugin in plugins for each in plugin.instances]
    if level is None:
        rows = (
            (plugin.plugin, each.instance, plugin.level or "-", each.level or "-", each.note)
            for plugin, each in instances
        )
        columns = ("PLUGIN", "INSTANCE", "LOGGED FROM", "WRITTEN FROM", "NOTE")
        print_table(columns, rows)
        return
    count = formatting.format_count(sum(each.level == level for _, each in instances), "instance")
    print(escape_unprintable(f"{name} logs from {level} on: set in {count}"))
    for plugin, each in instances:
        if each.note:
            print(escape_unprintable(f"{plugin.plugin}/{each.instance}: not set: {each.note}"))


async def _get_or_set_levels(
    name: str, level: str | None, stub: Any
) -> Sequence[messages.PluginLogLevel]:
    async with run_during(show_spinner, f"asking {name}"):
        if level is None:
            reply = await stub.GetLogLevels(messages.GetLogLevelsRequest(names=[name]))
        else:
            reply = await stub.SetLogLevel(messages.SetLogLevelRequest(name=name, level=level))
        plugins: Sequence[messages.PluginLogLevel] = reply.plugins
        return plugins


# -- parts -----------------------------------------------------------------------------------


def _run_operation(
    method: str, description: str, *, timeout: float | None, mesh_socket: Path | None, **fields: Any
) -> tuple[Any, Sequence[messages.Instance]]:
    """Call the mesh, and return the reply and the status of the instances concerned.

    `fields`: the fields of the request.
    """
    request = getattr(messages, f"{method}Request")(**fields)
    names = [fields["name"]] if "name" in fields else []

    async def run(stub: Any) -> tuple[Any, Sequence[messages.Instance]]:
        async with run_during(_print_warnings, stub, names), run_during(show_spinner, description):
            reply = await _wait_for_reply(getattr(stub, method)(request), timeout)
        after = await stub.ListInstances(messages.ListInstancesRequest(names=names))
        if reply is None:
            raise click.ClickException(_describe_timeout(description, timeout, after.instances))
        return reply, after.instances

    try:
        return run_with_control(run, mesh_socket)
    except KeyboardInterrupt:
        text = f"meshtrio: no longer waiting for {description}; the mesh continues with it"
        print(escape_unprintable(text), file=sys.stderr)
        raise


def _run_and_print(
    method: str, description: str, done: str, *, as_json: bool, **options: Any
) -> None:
    """Run an operation, and print the instances or how many of them there are and are ready."""
    _, instances = _run_operation(method, description, **options)
    if as_json:
        print_json({"instances": instances})
        return
    ready = sum(instance.state == "ready" for instance in instances)
    text = formatting.format_count(len(instances), "instance")
    if method != "Stop":
        text = f"{text} ready" if ready == len(instances) else f"{ready} of {text} ready"
    print(escape_unprintable(f"{done}: {text}"))


async def _wait_for_reply(call: Awaitable[Any], timeout_seconds: float | None) -> Any:
    """Wait for a reply. Return None if it does not arrive within `timeout_seconds`."""
    with trio.move_on_after(math.inf if timeout_seconds is None else timeout_seconds) as scope:
        try:
            return await call
        except purerpc.DeadlineExceededError:
            # The mesh has the same deadline, and may have reported it first.
            if trio.current_time() < scope.deadline - _EVENT_DELAY:
                raise
    return None


def _describe_timeout(
    description: str, timeout: float | None, instances: Sequence[messages.Instance]
) -> str:
    text = f"{description} took longer than {timeout:g} s; the mesh continues with it"
    waiting = [each for each in instances if each.state not in _SETTLED_STATES]
    if not waiting:
        return text
    return f"{text}, waiting for: " + "; ".join(
        f"{each.name}/{each.instance} ({each.state}{': ' * bool(each.reason)}{each.reason})"
        for each in waiting
    )


async def _print_warnings(stub: Any, names: Sequence[str]) -> None:
    """Print warning events to stderr once an operation takes long: it may never end."""
    await trio.sleep(_EVENT_DELAY)
    request = messages.WatchEventsRequest(names=names, follow=True)
    with suppress(purerpc.RpcFailedError):
        async with stub.WatchEvents(request) as call:
            async for event in call:
                if event.level not in ("", "DEBUG", "INFO"):
                    text = f"meshtrio: {event.plugin}/{event.instance}: {event.text}"
                    print(escape_unprintable(text), file=sys.stderr, flush=True)


def _print_drained(name: str, instances: Sequence[messages.Drained]) -> None:
    rows = (
        (
            *(each.plugin, each.instance),
            f"{each.ended or 'was not running'}{' (not in time)' * each.forced}",
            _format_cut_calls(each),
        )
        for each in instances
    )
    print_table(("PLUGIN", "INSTANCE", "ENDED", "CUT CALLS"), rows)
    cut = sum(len(each.cut_calls) for each in instances)
    unknown = sum(not each.cut_calls_known for each in instances)
    parts = [formatting.format_count(len(instances), "instance")]
    if cut or not unknown:
        parts.append(f"{formatting.format_count(cut, 'call')} cut" if cut else "no call cut")
    if unknown:
        parts.append(f"cut calls unknown for {formatting.format_count(unknown, 'instance')}")
    print(escape_unprintable(f"drained {name}: {', '.join(parts)}"))


def _format_cut_calls(drained: messages.Drained) -> str:
    known = ", ".join(drained.cut_calls)
    if drained.cut_calls_known:
        return known or "-"
    return f"{known}, others not known" if known else "not known"
