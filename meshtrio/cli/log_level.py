"""`meshtrio log-level`: show or set log levels of plugins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from meshtrio.cli import formatting
from meshtrio.cli.json_output import message_to_dict, print_json
from meshtrio.cli.mesh_client import open_control_stub, run_async
from meshtrio.cli.options import json_option, mesh_socket_option, name_argument
from meshtrio.cli.spinner import show_spinner
from meshtrio.messages import control as messages
from meshtrio.util.log_level import LogLevel
from meshtrio.util.text import escape_unprintable


@click.command("log-level", short_help="Show or set the log level of a plugin.")
@name_argument
@click.argument(
    "level", required=False, type=click.Choice([each.value for each in LogLevel]), metavar="[LEVEL]"
)
@json_option("Print the levels as one JSON object.")
@mesh_socket_option
def log_level(name: str, level: str | None, as_json: bool, mesh_socket: Path | None) -> None:
    """Set the log level of NAME, a plugin or a group: debug, info, warning or error.

    Without LEVEL, show the levels. LOGGED FROM is the level from which on the mesh logs the
    plugin's output, '-' for that of the mesh's own log. WRITTEN FROM is the level of the process,
    as reported by plugins made with meshtrio. A level also applies to processes that are started
    later, until the next reload, which restores the config's.
    """
    plugins = run_async(_call_mesh, mesh_socket, name, level)
    if as_json:
        print_json({"plugins": [message_to_dict(plugin) for plugin in plugins]})
    elif level is None:
        _print_levels(plugins)
    else:
        _print_result(name, level, plugins)


async def _call_mesh(
    mesh_socket: Path | None, name: str, level: str | None
) -> Sequence[messages.PluginLogLevel]:
    async with open_control_stub(mesh_socket) as stub, show_spinner(f"asking {name}"):
        if level is None:
            reply = await stub.GetLogLevels(messages.GetLogLevelsRequest(names=[name]))
        else:
            reply = await stub.SetLogLevel(messages.SetLogLevelRequest(name=name, level=level))
        found: Sequence[messages.PluginLogLevel] = reply.plugins
        return found


def _print_levels(plugins: Sequence[messages.PluginLogLevel]) -> None:
    from meshtrio.cli import rich_output

    table = rich_output.make_table(("PLUGIN", "INSTANCE", "LOGGED FROM", "WRITTEN FROM", "NOTE"))
    for plugin in plugins:
        for each in plugin.instances:
            values = (plugin.level or "-", each.level or "-", each.note)
            table.add_row(plugin.plugin, str(each.instance), *values)
    rich_output.print_renderable(table)


def _print_result(name: str, level: str, plugins: Sequence[messages.PluginLogLevel]) -> None:
    instances = [(plugin.plugin, each) for plugin in plugins for each in plugin.instances]
    heeding = sum(each.level == level for _, each in instances)
    print(
        escape_unprintable(
            f"{name} logs from {level} on: set in {formatting.format_count(heeding, 'instance')}"
        )
    )
    for plugin, each in instances:
        if each.note:
            print(escape_unprintable(f"{plugin}/{each.instance}: not set: {each.note}"))
