"""Which commands there are: told without importing them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

_SECTIONS = {
    "Run": {
        "serve": "Run the plugins of a config until Ctrl-C or SIGTERM.",
        "check": "Report every mistake in a config; starts nothing.",
        "new": "Make a folder with a plugin that runs.",
        "gen": "Make Python code from protos.",
    },
    "Look at a running mesh": {
        "ps": "List instances with their processes and states.",
        "tree": "Show who owns what, with each instance's state.",
        "top": "Watch calls, latencies, CPU and memory.",
        "events": "Tell what happened to plugins.",
        "logs": "Print what plugins wrote.",
        "trace": "Follow calls as they end.",
        "services": "List who serves what, and where.",
    },
    "Tell it what to do": {
        "start": "Start what does not run.",
        "stop": "Stop a plugin or group until it is started.",
        "restart": "Renew instances one by one, losing no call.",
        "drain": "Stop, and tell of each instance how it went.",
        "scale": "Have so many instances of a plugin.",
        "log-level": "Show or change from which level on a plugin logs.",
        "reload": "Go over to what the config file says now.",
    },
    "Call": {
        "call": "Call a method with JSON, by reflection.",
    },
    "Shell": {
        "completion": "Print a script that completes commands and names.",
    },
}
_LIFECYCLE_COMMANDS = frozenset(_SECTIONS["Tell it what to do"]) - {"log-level"}


class LazyCommandGroup(click.Group):
    """Loads a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in _SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        word = name.replace("-", "_")
        module = "lifecycle_commands" if name in _LIFECYCLE_COMMANDS else word
        command: click.Command = getattr(import_module(f"meshtrio.cli.{module}"), word)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(section.items()), col_max=12)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[Any]]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return list(_complete_commands(incomplete))

    def invoke(self, ctx: click.Context) -> Any:
        # Before click sees it, which would have a word to say.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None
        except BrokenPipeError:
            raise click.exceptions.Exit(141) from None


def _complete_commands(incomplete: str) -> Iterator[CompletionItem[Any]]:
    for section in _SECTIONS.values():
        for name, text in section.items():
            if name.startswith(incomplete):
                yield CompletionItem(name, help=text)
