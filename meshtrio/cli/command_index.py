"""The index of commands, by which they are listed without being imported."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

_SECTIONS = {
    "Run": {
        "serve": "Run the plugins of a config until Ctrl-C or SIGTERM.",
        "check": "Report every mistake in a config; start nothing.",
        "new": "Create a folder with a plugin that runs.",
        "gen": "Generate Python code from protos.",
    },
    "Inspect a running mesh": {
        "ps": "List instances with their processes and states.",
        "tree": "Show the supervision tree with each instance's state.",
        "top": "Watch calls, latencies, CPU and memory.",
        "events": "Print lifecycle events of plugins.",
        "logs": "Print the output of plugins.",
        "trace": "Print calls as they end.",
        "services": "List services and their endpoints.",
    },
    "Control a running mesh": {
        "start": "Start the stopped instances of a plugin or group.",
        "stop": "Stop a plugin or group until it is started again.",
        "restart": "Restart instances one by one, losing no call.",
        "drain": "Stop, and report how each instance ended.",
        "scale": "Set the number of instances of a plugin.",
        "log-level": "Show or set the log level of a plugin.",
        "reload": "Apply the changes in the config file.",
    },
    "Call": {
        "call": "Call a method with JSON, by reflection.",
    },
    "Shell": {
        "completion": "Print a script that completes commands and names.",
    },
}
_MODULES = {
    **dict.fromkeys(_SECTIONS["Control a running mesh"], "lifecycle_commands"),
    **dict.fromkeys(("ps", "tree", "services"), "inspect_commands"),
    **dict.fromkeys(("events", "logs", "trace"), "stream_commands"),
    "completion": "shell_completion",
}
"""Modules of the commands that share one; other commands are in modules of their own names."""


class LazyCommandGroup(click.Group):
    """Imports a command's module when the command is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in _SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        module = import_module(f"meshtrio.cli.{_MODULES.get(name, name)}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(section.items()), col_max=12)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=text)
            for section in _SECTIONS.values()
            for name, text in section.items()
            if name.startswith(incomplete)
        ]

    def invoke(self, ctx: click.Context) -> Any:
        # Click would print a message of its own.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None
        except BrokenPipeError:
            raise click.exceptions.Exit(141) from None
