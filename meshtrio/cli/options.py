"""Options and arguments that commands share, and shell completion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import trio
from click.shell_completion import get_completion_class

from meshtrio.cli.mesh_client import open_control_stub, open_registry_stub, run_async
from meshtrio.messages import control, registry
from meshtrio.util.text import escape_unprintable

_COMPLETION_TIMEOUT = 1.0
"""Timeout of a completion, in seconds."""

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


def require_utf8(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """Reject arguments that are not UTF-8, since they are sent as strings."""
    for name in (value,) if isinstance(value, str) else value:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise click.BadParameter(f"{name!r} is not UTF-8") from None
    return value


def json_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--json", "as_json", is_flag=True, help=text)


# -- shell completion ------------------------------------------------------------------------


@click.command(short_help="Print a script that completes commands and names.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete commands, options, and names of the mesh.

    \b
    bash: eval "$(meshtrio completion bash)"        in ~/.bashrc
    zsh:  eval "$(meshtrio completion zsh)"         in ~/.zshrc
    fish: meshtrio completion fish | source         in ~/.config/fish/config.fish

    Names of plugins, groups and services come from the running mesh, if there is one.
    """
    made = get_completion_class(shell)
    assert made is not None
    root = ctx.find_root()
    click.echo(made(root.command, {}, "meshtrio", "_MESHTRIO_COMPLETE").source())


def complete_names(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete names of plugins and groups; with none if no mesh answers."""
    return _complete(incomplete, _fetch_names, ctx)


def complete_services(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete names of services; with none if no mesh answers."""
    return _complete(incomplete, _fetch_services, ctx)


def _complete(incomplete: str, fetch: Callable[..., Any], ctx: click.Context) -> list[str]:
    async def fetch_in_time() -> list[str]:
        with trio.fail_after(_COMPLETION_TIMEOUT):
            names: list[str] = await fetch(ctx.params.get("mesh_socket"))
        return names

    # Errors must not be printed into the command line that is being typed.
    with contextlib.suppress(Exception):
        names = run_async(fetch_in_time)
        # The shell reads one name per line.
        return [n for n in names if n.startswith(incomplete) and escape_unprintable(n) == n]
    return []


async def _fetch_names(mesh_socket: Path | None) -> list[str]:
    async with open_control_stub(mesh_socket) as stub:
        return list(_descendant_names(await stub.GetTree(control.GetTreeRequest())))


def _descendant_names(node: control.Node) -> Iterator[str]:
    for each in node.nodes:
        yield each.name
        yield from _descendant_names(each)


async def _fetch_services(mesh_socket: Path | None) -> list[str]:
    async with open_registry_stub(mesh_socket) as stub:
        return list((await stub.ListServices(registry.ListServicesRequest())).services)


name_argument = click.argument("name", callback=require_utf8, shell_complete=complete_names)
names_argument = click.argument(
    "names", nargs=-1, metavar="[NAME]...", callback=require_utf8, shell_complete=complete_names
)
