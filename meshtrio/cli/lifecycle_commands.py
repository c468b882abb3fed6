"""`meshtrio start`, `stop`, `restart`, `drain`, `scale`, `reload`: telling a mesh what to do."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import purerpc
import trio

from meshtrio.cli import formatting
from meshtrio.cli.json_output import message_to_dict, print_json
from meshtrio.cli.mesh_client import open_control_stub, run_async
from meshtrio.cli.options import (
    json_option,
    mesh_socket_option,
    name_argument,
    timeout_option,
)
from meshtrio.cli.spinner import show_spinner
from meshtrio.errors import UsageError
from meshtrio.messages import control as messages
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.text import escape_unprintable, replace_surrogates

_EVENT_DELAY = 2.0
"""Seconds within which what goes wrong is told by the outcome."""
_SETTLED_STATES = frozenset({"ready", "stopped", "exited", "failed"})
"""States in which nothing is waited for."""
_CHANGE_KINDS = ("added", "removed", "restarted", "scaled", "adjusted")


def _lifecycle_options(command: Callable[..., None]) -> Callable[..., None]:
    json = json_option("What came of it, as one JSON object.")
    return json(timeout_option(mesh_socket_option(command)))


@click.command(short_help="Start what does not run.")
@name_argument
@_lifecycle_options
def start(name: str, as_json: bool, timeout: float | None, mesh_socket: Path | None) -> None:
    """Start what does not run of NAME, a plugin or a group, and wait until it is ready.

    What had given up is given another chance. Where an instance, or one that it waits for, fails to
    start, this fails with the reason, and the restart policy still applies.
    """
    _, after = _run_operation(
        mesh_socket, timeout, f"starting {name}", "Start", messages.StartRequest(name=name)
    )
    _print_instances(after, as_json, f"started {name}: {_describe_ready(after)}")


@click.command(short_help="Stop a plugin or group until it is started.")
@name_argument
@_lifecycle_options
def stop(name: str, as_json: bool, timeout: float | None, mesh_socket: Path | None) -> None:
    """Stop NAME, a plugin or a group, and wait until it is gone. It stays so until it is started.

    Calls under way may finish within the plugin's stop_timeout; `drain` tells which could not.
    """
    _, after = _run_operation(
        mesh_socket, timeout, f"stopping {name}", "Stop", messages.StopRequest(name=name)
    )
    _print_instances(
        after, as_json, f"stopped {name}: {formatting.format_count(len(after), 'instance')}"
    )


@click.command(short_help="Renew instances one by one, losing no call.")
@name_argument
@_lifecycle_options
def restart(name: str, as_json: bool, timeout: float | None, mesh_socket: Path | None) -> None:
    """Renew the instances of NAME, a plugin or a group, one by one; no call is lost.

    Each successor is ready before the one in office is stopped. Where one does not get ready, the
    one in office goes on, and this fails with the reason. What does not run is started.
    """
    request = messages.RestartRequest(name=name)
    _, after = _run_operation(mesh_socket, timeout, f"restarting {name}", "Restart", request)
    _print_instances(after, as_json, f"restarted {name}: {_describe_ready(after)}")


@click.command(short_help="Have so many instances of a plugin.")
@name_argument
@click.argument("instances", type=click.IntRange(0, 2**32 - 1), metavar="N")
@_lifecycle_options
def scale(
    name: str, instances: int, as_json: bool, timeout: float | None, mesh_socket: Path | None
) -> None:
    """Have N instances of the plugin NAME, and wait until they are ready, or gone.

    Those with the highest numbers go first. The next reload goes back to what the config says.
    """
    request = messages.ScaleRequest(name=name, instances=instances)
    _, after = _run_operation(
        mesh_socket, timeout, f"scaling {name} to {instances}", "Scale", request
    )
    _print_instances(after, as_json, f"scaled {name} to {instances}: {_describe_ready(after)}")


@click.command(short_help="Stop, and tell of each instance how it went.")
@name_argument
@_lifecycle_options
def drain(name: str, as_json: bool, timeout: float | None, mesh_socket: Path | None) -> None:
    """Stop NAME, a plugin or a group, and tell of each instance how it ended and what was cut.

    Calls under way may finish within the plugin's stop_timeout; those that could not are listed.
    Only plugins on meshtrio report them. Of others, and of those that were killed before they could
    report, it is said that it is not known.
    """
    request = messages.DrainRequest(name=name)
    reply, _ = _run_operation(mesh_socket, timeout, f"draining {name}", "Drain", request)
    if as_json:
        print_json(message_to_dict(reply))
    else:
        _print_drained(name, reply.instances)


@click.command(short_help="Go over to what the config file says now.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@_lifecycle_options
def reload(
    file: Path | None, as_json: bool, timeout: float | None, mesh_socket: Path | None
) -> None:
    """Go over to what FILE says, or the file that the mesh was started from, and say what changed.

    Only what has changed is touched, and no call is lost. A config with mistakes changes nothing:
    they are told, and the exit status is 2. Where a plugin fails to start, this fails with the
    reason once all else is done, with exit status 1; the plugin's restart policy still applies.
    """
    path = os.path.abspath(file) if file else ""
    if replace_surrogates(path) != path:
        raise UsageError(
            f"{replace_surrogates(path)}: the mesh cannot be asked for a path that is not UTF-8"
        )
    request = messages.ReloadRequest(path=path)
    reply, _ = _run_operation(mesh_socket, timeout, "reloading the config", "Reload", request)
    if as_json:
        print_json(message_to_dict(reply))
    else:
        print("\n".join(map(escape_unprintable, describe_changes(reply))))


def describe_changes(reloaded: Any) -> list[str]:
    """What a reload did, in words: a line for each kind of change."""
    named = {kind: getattr(reloaded, kind) for kind in _CHANGE_KINDS}
    lines = [f"{kind} {', '.join(names)}" for kind, names in named.items() if names]
    return lines or ["nothing has changed"]


# -- parts -----------------------------------------------------------------------------------


def _run_operation(
    mesh_socket: Path | None, timeout: float | None, description: str, method: str, request: Any
) -> tuple[Any, Sequence[messages.Instance]]:
    """Have it done; gives the reply, and how the instances are that it was about."""

    async def done() -> tuple[Any, Sequence[messages.Instance]]:
        names = [request.name] if hasattr(request, "name") else []
        async with open_control_stub(mesh_socket) as stub:
            async with _print_warnings(stub, names), show_spinner(description):
                reply = await _wait_for_reply(getattr(stub, method)(request), timeout)
            after = await stub.ListInstances(messages.ListInstancesRequest(names=names))
            if reply is None:
                raise click.ClickException(_describe_timeout(description, timeout, after.instances))
            return reply, after.instances

    with _report_interrupt(description):
        return run_async(done)


async def _wait_for_reply(call: Awaitable[Any], timeout_seconds: float | None) -> Any:
    """Wait for a reply, and give None if it did not come within so many seconds."""
    with trio.move_on_after(math.inf if timeout_seconds is None else timeout_seconds) as scope:
        try:
            return await call
        except purerpc.DeadlineExceededError:
            # The mesh goes by the same deadline, and may have noticed it first.
            if trio.current_time() < scope.deadline - _EVENT_DELAY:
                raise
    return None


def _describe_timeout(
    description: str, timeout: float | None, instances: Sequence[messages.Instance]
) -> str:
    text = f"{description} took longer than {timeout:g} s; what was begun goes on"
    waiting = [each for each in instances if each.state not in _SETTLED_STATES]
    if not waiting:
        return text
    return f"{text}, and is waiting for: " + "; ".join(
        f"{each.name}/{each.instance} ({each.state}{': ' * bool(each.reason)}{each.reason})"
        for each in waiting
    )


@asynccontextmanager
async def _print_warnings(stub: Any, names: Sequence[str]) -> AsyncIterator[None]:
    """Tell on stderr what goes wrong during the block, if it takes long: it may never end."""

    async def tell() -> None:
        await trio.sleep(_EVENT_DELAY)
        request = messages.WatchEventsRequest(names=names, follow=True)
        with suppress(purerpc.RpcFailedError):
            async with stub.WatchEvents(request) as call:
                async for event in call:
                    if event.level not in ("", "DEBUG", "INFO"):
                        text = f"meshtrio: {event.plugin}/{event.instance}: {event.text}"
                        print(escape_unprintable(text), file=sys.stderr, flush=True)

    async with open_collapsing_nursery() as nursery:
        nursery.start_soon(tell)
        yield
        nursery.cancel_scope.cancel()


@contextmanager
def _report_interrupt(description: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        text = f"meshtrio: not waiting any longer for {description}; what was begun goes on"
        print(escape_unprintable(text), file=sys.stderr)
        raise


def _describe_ready(instances: Sequence[messages.Instance]) -> str:
    ready = sum(instance.state == "ready" for instance in instances)
    if ready == len(instances):
        return f"{formatting.format_count(ready, 'instance')} ready"
    return f"{ready} of {formatting.format_count(len(instances), 'instance')} ready"


def _print_instances(instances: Sequence[messages.Instance], as_json: bool, text: str) -> None:
    if as_json:
        print_json({"instances": [message_to_dict(instance) for instance in instances]})
    else:
        print(escape_unprintable(text))


def _print_drained(name: str, instances: Sequence[messages.Drained]) -> None:
    from meshtrio.cli import rich_output

    table = rich_output.make_table(("PLUGIN", "INSTANCE", "ENDED", "CUT CALLS"))
    for each in instances:
        how = each.ended or "was not running"
        if each.forced:
            how += " (not in time)"
        table.add_row(each.plugin, str(each.instance), how, _format_cut_calls(each))
    rich_output.print_renderable(table)
    cut = sum(len(each.cut_calls) for each in instances)
    unknown = sum(not each.cut_calls_known for each in instances)
    calls = [f"{formatting.format_count(cut, 'call')} cut"] if cut else []
    if unknown:
        calls.append(
            f"not known of {formatting.format_count(unknown, 'instance')} whether calls were cut"
        )
    drained = ", ".join(
        [formatting.format_count(len(instances), "instance"), *(calls or ["no call cut"])]
    )
    print(escape_unprintable(f"drained {name}: {drained}"))


def _format_cut_calls(drained: messages.Drained) -> str:
    known = ", ".join(drained.cut_calls)
    if drained.cut_calls_known:
        return known or "-"
    return f"{known}, others not known" if known else "not known"
