"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from meshtrio.cli.shell_completion import complete_names

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


name_argument = click.argument("name", callback=require_utf8, shell_complete=complete_names)
names_argument = click.argument(
    "names", nargs=-1, metavar="[NAME]...", callback=require_utf8, shell_complete=complete_names
)
