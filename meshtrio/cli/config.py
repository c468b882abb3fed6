"""`meshtrio config`: the config in force."""

from __future__ import annotations

from pathlib import Path

import click

from meshtrio.cli.json_output import print_json
from meshtrio.cli.mesh_client import run_with_control
from meshtrio.cli.options import mesh_options
from meshtrio.messages import control
from meshtrio.util.text import escape_unprintable_lines

_defaults_option = click.option(
    "--defaults", is_flag=True, help="Include values that are the defaults."
)


@click.command()
@mesh_options("Print a JSON object with the TOML, its source and what is masked.", _defaults_option)
def config(defaults: bool, as_json: bool, mesh_socket: Path | None) -> None:
    """Print the config in force as TOML: the file, and what reload, scale and log-level changed.

    Paths are absolute. Environment variables, header fields and what else may be secret are shown
    as "***"; apart from these `meshtrio check` accepts the text.
    """
    request = control.GetConfigRequest(defaults=defaults)
    reply = run_with_control(lambda stub: stub.GetConfig(request), mesh_socket)
    if as_json:
        print_json(reply)
    else:
        print(escape_unprintable_lines(reply.toml), end="")
