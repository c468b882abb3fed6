"""Options and arguments that many commands have, and what a shell completes them with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import trio

from meshtrio.cli.asking import control, registry, run
from meshtrio.messages import control as messages
from meshtrio.messages import registry as registry_messages
from meshtrio.texts import visible

_PATIENCE = 1.0
"""Seconds that somebody who presses the tab key waits at the most."""

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

mesh_socket_option = click.option(
    "--mesh-socket",
    type=click.Path(path_type=Path),
    help="Socket of the mesh; by default $MESH_SOCKET, else that of the default runtime dir.",
)


timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Do not wait longer, and fail; what was begun goes on. By default there is no limit.",
)


def encodable(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse names that are not text, since they are sent: an argument may have any bytes."""
    for name in (value,) if isinstance(value, str) else value:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise click.BadParameter(f"{name!r} is not UTF-8", ctx, param) from None
    return value


def json_option(text: str) -> Decorator:
    return click.option("--json", "as_json", is_flag=True, help=text)


def complete_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The plugins and groups of the mesh; none where it does not answer."""
    return _starting(incomplete, _names, ctx)


def complete_services(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The services of the mesh; none where it does not answer."""
    return _starting(incomplete, _services, ctx)


def _starting(incomplete: str, learn: Callable[..., Any], ctx: click.Context) -> list[str]:
    found: list[str] = []
    # Whatever is wrong, it is not told in the middle of somebody's command line.
    with contextlib.suppress(Exception):
        found = run(_in_time, learn, ctx.params.get("mesh_socket"))
    # A shell reads them as lines.
    return [name for name in found if name.startswith(incomplete) and visible(name) == name]


async def _in_time(learn: Callable[..., Any], mesh_socket: Path | None) -> list[str]:
    with trio.fail_after(_PATIENCE):
        found: list[str] = await learn(mesh_socket)
    return found


async def _names(mesh_socket: Path | None) -> list[str]:
    async with control(mesh_socket) as stub:
        tree = await stub.GetTree(messages.GetTreeRequest())
    return list(_below(tree))


def _below(node: messages.Node) -> Iterator[str]:
    for each in node.nodes:
        yield each.name
        yield from _below(each)


async def _services(mesh_socket: Path | None) -> list[str]:
    async with registry(mesh_socket) as stub:
        reply = await stub.ListServices(registry_messages.ListServicesRequest())
    return list(reply.services)


name_argument = click.argument("name", callback=encodable, shell_complete=complete_names)
names_argument = click.argument(
    "names",
    nargs=-1,
    metavar="[NAME]...",
    callback=encodable,
    shell_complete=complete_names,
)
