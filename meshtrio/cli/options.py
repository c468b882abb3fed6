"""Options and arguments that commands share, and shell completion."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import click

from meshtrio.cli.mesh_client import run_with_control, run_with_registry
from meshtrio.messages import control, registry
from meshtrio.util.text import escape_unprintable

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_COMPLETION_TIMEOUT = 1.0
"""Timeout of a completion, in seconds."""
_MAX_INSTANCE_NUMBER = 2**32 - 1
"""Maximum of the proto's uint32."""


class SecondsRange(click.FloatRange):
    """A range of numbers, without NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail("not a number of seconds", param, ctx)
        return seconds


mesh_socket_option = click.option(
    "--mesh-socket",
    type=click.Path(path_type=Path),
    help="Socket of the mesh; by default $MESH_SOCKET, else the one in the default runtime dir.",
)
timeout_option = click.option(
    "--timeout",
    type=SecondsRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Fail after this time; the mesh continues the operation. By default there is no limit.",
)


def _require_utf8(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """Reject arguments that are not UTF-8, since they are sent as strings."""
    for name in (value,) if isinstance(value, str) else value:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise click.BadParameter(f"{name!r} is not UTF-8") from None
    return value


def mesh_options(json_help: str, *others: Decorator) -> Decorator:
    """Add the options of each command that asks a mesh: --json, `others`, and --mesh-socket."""
    json_option = click.option("--json", "as_json", is_flag=True, help=json_help)
    inner_first: tuple[Decorator, ...] = (mesh_socket_option, *reversed(others), json_option)
    return lambda command: reduce(lambda made, option: option(made), inner_first, command)


# -- shell completion ------------------------------------------------------------------------


@click.command()
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
    from click.shell_completion import get_completion_class  # Other commands do without it.

    made = get_completion_class(shell)
    assert made is not None
    root = ctx.find_root()
    click.echo(made(root.command, {}, "meshtrio", "_MESHTRIO_COMPLETE").source())


def _completer(
    run: Callable[..., list[str]], fetch: Callable[[Any], Awaitable[list[str]]]
) -> Callable[..., list[str]]:
    """Complete the names that `fetch(stub)` returns; with none if no mesh answers."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        # Errors must not be printed into the command line that is being typed.
        with contextlib.suppress(Exception):
            names = run(fetch, ctx.params.get("mesh_socket"), _COMPLETION_TIMEOUT)
            # The shell reads one name per line.
            return [n for n in names if n.startswith(incomplete) and escape_unprintable(n) == n]
        return []

    return complete


async def _fetch_names(stub: Any) -> list[str]:
    return list(_descendant_names(await stub.GetTree(control.GetTreeRequest())))


def _descendant_names(node: control.Node) -> Iterator[str]:
    for each in node.nodes:
        yield each.name
        yield from _descendant_names(each)


async def _fetch_tasks(stub: Any) -> list[str]:
    tree = await stub.GetTree(control.GetTreeRequest())
    return [each.name for each in tree.nodes if each.kind == control.Node.TASK]


async def _fetch_services(stub: Any) -> list[str]:
    return list((await stub.ListServices(registry.ListServicesRequest())).services)


def _argument(
    name: str, complete: Callable[..., list[str]], metavar: str | None = None
) -> Decorator:
    """Make an argument that is sent as a string; with a `metavar`, one that may be repeated."""
    count = 1 if metavar is None else -1
    return click.argument(
        name, nargs=count, metavar=metavar, callback=_require_utf8, shell_complete=complete
    )


def _parse_instance(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, int]:
    """Parse NAME/N, or NAME for its instance 0."""
    name, separator, number = _require_utf8(ctx, param, value).partition("/")
    if not separator:
        return name, 0
    is_number = number.isascii() and number.isdecimal()
    if not is_number or int(number) > _MAX_INSTANCE_NUMBER:
        raise click.BadParameter(f"{value!r} is not NAME/N with the number of an instance, from 0")
    return name, int(number)


_complete_names = _completer(run_with_control, _fetch_names)
_complete_services = _completer(run_with_registry, _fetch_services)
name_argument = _argument("name", _complete_names)
instance_argument = click.argument(
    "instance", callback=_parse_instance, shell_complete=_complete_names
)
task_argument = _argument("name", _completer(run_with_control, _fetch_tasks))
names_argument = _argument("names", _complete_names, "[NAME]...")
service_argument = _argument("service", _complete_services)
services_argument = _argument("services", _complete_services, "[SERVICE]...")
