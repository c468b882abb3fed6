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

from meshtrio.cli import words
from meshtrio.cli.asking import control, run
from meshtrio.cli.options import (
    json_option,
    mesh_socket_option,
    name_argument,
    timeout_option,
)
from meshtrio.cli.records import print_document, record
from meshtrio.cli.spinner import spinning
from meshtrio.errors import UsageError
from meshtrio.messages import control as messages
from meshtrio.structured import open_nursery_of_one
from meshtrio.texts import visible, whole

_SOON = 2.0
"""Seconds within which what goes wrong is told by the outcome."""
_SETTLED = frozenset({"ready", "stopped", "exited", "failed"})
"""States in which nothing is waited for."""
_CHANGES = ("added", "removed", "restarted", "scaled", "adjusted")


def _options(command: Callable[..., None]) -> Callable[..., None]:
    json = json_option("What came of it, as one JSON object.")
    return json(timeout_option(mesh_socket_option(command)))


@click.command(short_help="Start what does not run.")
@name_argument
@_options
def start(name: str, as_json: bool, timeout: float | None, mesh_socket: Path | None) -> None:
    """Start what does not run of NAME, a plugin or a group, and wait until it is ready.

    What had given up is given another chance. Where an instance, or one that it waits for, fails to
    start, this fails with the reason, and the restart policy still applies.
    """
    _, after = _operate(
        mesh_socket, timeout, f"starting {name}", "Start", messages.StartRequest(name=name)
    )
    _tell(after, as_json, f"started {name}: {_ready(after)}")


@click.command(short_help="Stop a plugin or group until it is started.")
@name_argument
@_options
def stop(name: str, as_json: bool, timeout: float | None, mesh_socket: Path | None) -> None:
    """Stop NAME, a plugin or a group, and wait until it is gone. It stays so until it is started.

    Calls under way may finish within the plugin's stop_timeout; `drain` tells which could not.
    """
    _, after = _operate(
        mesh_socket, timeout, f"stopping {name}", "Stop", messages.StopRequest(name=name)
    )
    _tell(after, as_json, f"stopped {name}: {words.count(len(after), 'instance')}")


@click.command(short_help="Renew instances one by one, losing no call.")
@name_argument
@_options
def restart(name: str, as_json: bool, timeout: float | None, mesh_socket: Path | None) -> None:
    """Renew the instances of NAME, a plugin or a group, one by one; no call is lost.

    Each successor is ready before the one in office is stopped. Where one does not get ready, the
    one in office goes on, and this fails with the reason. What does not run is started.
    """
    request = messages.RestartRequest(name=name)
    _, after = _operate(mesh_socket, timeout, f"restarting {name}", "Restart", request)
    _tell(after, as_json, f"restarted {name}: {_ready(after)}")


@click.command(short_help="Have so many instances of a plugin.")
@name_argument
@click.argument("instances", type=click.IntRange(0, 2**32 - 1), metavar="N")
@_options
def scale(
    name: str, instances: int, as_json: bool, timeout: float | None, mesh_socket: Path | None
) -> None:
    """Have N instances of the plugin NAME, and wait until they are ready, or gone.

    Those with the highest numbers go first. The next reload goes back to what the config says.
    """
    request = messages.ScaleRequest(name=name, instances=instances)
    _, after = _operate(mesh_socket, timeout, f"scaling {name} to {instances}", "Scale", request)
    _tell(after, as_json, f"scaled {name} to {instances}: {_ready(after)}")


@click.command(short_help="Stop, and tell of each instance how it went.")
@name_argument
@_options
def drain(name: str, as_json: bool, timeout: float | None, mesh_socket: Path | None) -> None:
    """Stop NAME, a plugin or a group, and tell of each instance how it ended and what was cut.

    Calls under way may finish within the plugin's stop_timeout; those that could not are listed.
    Only plugins on meshtrio report them. Of others, and of those that were killed before they could
    report, it is said that it is not known.
    """
    request = messages.DrainRequest(name=name)
    reply, _ = _operate(mesh_socket, timeout, f"draining {name}", "Drain", request)
    if as_json:
        print_document(record(reply))
    else:
        _show_drained(name, reply.instances)


@click.command(short_help="Go over to what the config file says now.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@_options
def reload(
    file: Path | None, as_json: bool, timeout: float | None, mesh_socket: Path | None
) -> None:
    """Go over to what FILE says, or the file that the mesh was started from, and say what changed.

    Only what has changed is touched, and no call is lost. A config with mistakes changes nothing:
    they are told, and the exit status is 2. Where a plugin fails to start, this fails with the
    reason once all else is done, with exit status 1; the plugin's restart policy still applies.
    """
    path = os.path.abspath(file) if file else ""
    if whole(path) != path:
        raise UsageError(f"{whole(path)}: the mesh cannot be asked for a path that is not UTF-8")
    request = messages.ReloadRequest(path=path)
    reply, _ = _operate(mesh_socket, timeout, "reloading the config", "Reload", request)
    if as_json:
        print_document(record(reply))
    else:
        print("\n".join(map(visible, changes(reply))))


def changes(reloaded: Any) -> list[str]:
    """What a reload did, in words: a line for each kind of change."""
    named = {kind: getattr(reloaded, kind) for kind in _CHANGES}
    lines = [f"{kind} {', '.join(names)}" for kind, names in named.items() if names]
    return lines or ["nothing has changed"]


# -- parts -----------------------------------------------------------------------------------


def _operate(
    mesh_socket: Path | None, timeout: float | None, doing: str, method: str, request: Any
) -> tuple[Any, Sequence[messages.Instance]]:
    """Have it done; gives the reply, and how the instances are that it was about."""

    async def done() -> tuple[Any, Sequence[messages.Instance]]:
        names = [request.name] if hasattr(request, "name") else []
        async with control(mesh_socket) as stub:
            async with _telling_troubles(stub, names), spinning(doing):
                reply = await _reply(getattr(stub, method)(request), timeout)
            after = await stub.ListInstances(messages.ListInstancesRequest(names=names))
            if reply is None:
                raise click.ClickException(_not_in_time(doing, timeout, after.instances))
            return reply, after.instances

    with _interruptible(doing):
        return run(done)


async def _reply(call: Awaitable[Any], seconds: float | None) -> Any:
    """Wait for a reply, and give None if it did not come within so many seconds."""
    with trio.move_on_after(math.inf if seconds is None else seconds) as scope:
        try:
            return await call
        except purerpc.DeadlineExceededError:
            # The mesh goes by the same deadline, and may have noticed it first.
            if trio.current_time() < scope.deadline - _SOON:
                raise
    return None


def _not_in_time(doing: str, timeout: float | None, instances: Sequence[messages.Instance]) -> str:
    text = f"{doing} took longer than {timeout:g} s; what was begun goes on"
    waiting = [each for each in instances if each.state not in _SETTLED]
    if not waiting:
        return text
    return f"{text}, and is waiting for: " + "; ".join(
        f"{each.name}/{each.instance} ({each.state}{': ' * bool(each.reason)}{each.reason})"
        for each in waiting
    )


@asynccontextmanager
async def _telling_troubles(stub: Any, names: Sequence[str]) -> AsyncIterator[None]:
    """Tell on stderr what goes wrong during the block, if it takes long: it may never end."""

    async def tell() -> None:
        await trio.sleep(_SOON)
        request = messages.WatchEventsRequest(names=names, follow=True)
        with suppress(purerpc.RpcFailedError):
            async for event in stub.WatchEvents(request):
                if event.level not in ("", "DEBUG", "INFO"):
                    text = f"meshtrio: {event.plugin}/{event.instance}: {event.text}"
                    print(visible(text), file=sys.stderr, flush=True)

    async with open_nursery_of_one() as nursery:
        nursery.start_soon(tell)
        yield
        nursery.cancel_scope.cancel()


@contextmanager
def _interruptible(doing: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        text = f"meshtrio: not waiting any longer for {doing}; what was begun goes on"
        print(visible(text), file=sys.stderr)
        raise


def _ready(instances: Sequence[messages.Instance]) -> str:
    ready = sum(instance.state == "ready" for instance in instances)
    if ready == len(instances):
        return f"{words.count(ready, 'instance')} ready"
    return f"{ready} of {words.count(len(instances), 'instance')} ready"


def _tell(instances: Sequence[messages.Instance], as_json: bool, text: str) -> None:
    if as_json:
        print_document({"instances": [record(instance) for instance in instances]})
    else:
        print(visible(text))


def _show_drained(name: str, instances: Sequence[messages.Drained]) -> None:
    from meshtrio.cli import screen

    table = screen.table(("PLUGIN", "INSTANCE", "ENDED", "CUT CALLS"))
    for each in instances:
        how = each.ended or "was not running"
        if each.forced:
            how += " (not in time)"
        table.add_row(each.plugin, str(each.instance), how, _cut_calls(each))
    screen.show(table)
    cut = sum(len(each.cut_calls) for each in instances)
    unknown = sum(not each.cut_calls_known for each in instances)
    calls = [f"{words.count(cut, 'call')} cut"] if cut else []
    if unknown:
        calls.append(f"not known of {words.count(unknown, 'instance')} whether calls were cut")
    drained = ", ".join([words.count(len(instances), "instance"), *(calls or ["no call cut"])])
    print(visible(f"drained {name}: {drained}"))


def _cut_calls(drained: messages.Drained) -> str:
    known = ", ".join(drained.cut_calls)
    if drained.cut_calls_known:
        return known or "-"
    return f"{known}, others not known" if known else "not known"
