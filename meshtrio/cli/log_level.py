"""`meshtrio log-level`: from which level on a plugin logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from meshtrio.cli import words
from meshtrio.cli.asking import control, run
from meshtrio.cli.options import json_option, mesh_socket_option, name_argument
from meshtrio.cli.records import print_document, record
from meshtrio.cli.spinner import spinning
from meshtrio.levels import LogLevel
from meshtrio.messages import control as messages
from meshtrio.texts import visible


@click.command("log-level", short_help="Show or change from which level on a plugin logs.")
@name_argument
@click.argument(
    "level", required=False, type=click.Choice([each.value for each in LogLevel]), metavar="[LEVEL]"
)
@json_option("The levels, as one JSON object.")
@mesh_socket_option
def log_level(name: str, level: str | None, as_json: bool, mesh_socket: Path | None) -> None:
    """Have NAME, a plugin or a group, log from LEVEL on: debug, info, warning or error.

    Without LEVEL the levels are shown. LOGGED FROM is from where on the mesh logs what the plugin
    writes, '-' where it goes by the level of the mesh's own log; WRITTEN FROM is from where on the
    process logs, as plugins made with meshtrio say. It holds for processes that are started later,
    too, until the next reload, which goes back to what the config says.
    """
    plugins = run(_put, mesh_socket, name, level)
    if as_json:
        print_document({"plugins": [record(plugin) for plugin in plugins]})
    elif level is None:
        _show(plugins)
    else:
        _tell(name, level, plugins)


async def _put(
    mesh_socket: Path | None, name: str, level: str | None
) -> Sequence[messages.PluginLogLevel]:
    async with control(mesh_socket) as stub, spinning(f"asking {name}"):
        if level is None:
            reply = await stub.GetLogLevels(messages.GetLogLevelsRequest(names=[name]))
        else:
            reply = await stub.SetLogLevel(messages.SetLogLevelRequest(name=name, level=level))
        found: Sequence[messages.PluginLogLevel] = reply.plugins
        return found


def _show(plugins: Sequence[messages.PluginLogLevel]) -> None:
    from meshtrio.cli import screen

    table = screen.table(("PLUGIN", "INSTANCE", "LOGGED FROM", "WRITTEN FROM", "NOTE"))
    for plugin in plugins:
        for each in plugin.instances:
            values = (plugin.level or "-", each.level or "-", each.note)
            table.add_row(plugin.plugin, str(each.instance), *values)
    screen.show(table)


def _tell(name: str, level: str, plugins: Sequence[messages.PluginLogLevel]) -> None:
    instances = [(plugin.plugin, each) for plugin in plugins for each in plugin.instances]
    heeding = sum(each.level == level for _, each in instances)
    print(visible(f"{name} logs from {level} on: {words.count(heeding, 'instance')} told"))
    for plugin, each in instances:
        if each.note:
            print(visible(f"{plugin}/{each.instance} was not told: {each.note}"))
