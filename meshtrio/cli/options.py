"""Options and arguments that several commands share, with their shell completion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import trio

from meshtrio.cli.mesh_client import open_control_stub, open_registry_stub, run_async
from meshtrio.messages import control as messages
from meshtrio.messages import registry as registry_messages
from meshtrio.util.text import escape_unprintable

_COMPLETION_TIMEOUT = 1.0
"""Timeout of a completion, in seconds."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

mesh_socket_option = click.option(
    "--mesh-socket",
    type=click.Path(path_type=Path),
    help="Socket of the mesh; by default $MESH_SOCKET, else the one in the default runtime dir.",
)


timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Fail after this time; the mesh continues the operation. By default there is no limit.",
)


def require_utf8(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Reject arguments that are not UTF-8, since they are sent as strings."""
    for name in (value,) if isinstance(value, str) else value:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise click.BadParameter(f"{name!r} is not UTF-8", ctx, param) from None
    return value


def json_option(text: str) -> Decorator:
    return click.option("--json", "as_json", is_flag=True, help=text)


def complete_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete names of plugins and groups; with none if no mesh answers."""
    return _complete(incomplete, _fetch_names, ctx)


def complete_services(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete names of services; with none if no mesh answers."""
    return _complete(incomplete, _fetch_services, ctx)


def _complete(incomplete: str, fetch: Callable[..., Any], ctx: click.Context) -> list[str]:
    found: list[str] = []
    # Errors must not be printed into the command line that is being typed.
    with contextlib.suppress(Exception):
        found = run_async(_fetch_with_timeout, fetch, ctx.params.get("mesh_socket"))
    # The shell reads one name per line.
    return [
        name for name in found if name.startswith(incomplete) and escape_unprintable(name) == name
    ]


async def _fetch_with_timeout(fetch: Callable[..., Any], mesh_socket: Path | None) -> list[str]:
    with trio.fail_after(_COMPLETION_TIMEOUT):
        found: list[str] = await fetch(mesh_socket)
    return found


async def _fetch_names(mesh_socket: Path | None) -> list[str]:
    async with open_control_stub(mesh_socket) as stub:
        tree = await stub.GetTree(messages.GetTreeRequest())
    return list(_descendant_names(tree))


def _descendant_names(node: messages.Node) -> Iterator[str]:
    for each in node.nodes:
        yield each.name
        yield from _descendant_names(each)


async def _fetch_services(mesh_socket: Path | None) -> list[str]:
    async with open_registry_stub(mesh_socket) as stub:
        reply = await stub.ListServices(registry_messages.ListServicesRequest())
    return list(reply.services)


name_argument = click.argument("name", callback=require_utf8, shell_complete=complete_names)
names_argument = click.argument(
    "names",
    nargs=-1,
    metavar="[NAME]...",
    callback=require_utf8,
    shell_complete=complete_names,
)
