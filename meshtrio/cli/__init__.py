"""The command line: `meshtrio`, or `python -m meshtrio`.

Theory of operation. `LazyCommandGroup` knows the commands by name alone, and imports a command's
module when it is run, so that `--help` and completion stay fast; heavy imports (rich, protobuf's
JSON) are deferred further, to where they are used. A command that inspects or changes a running
mesh opens a stub of one of the mesh's own services (`mesh_client`), prints what it returns
(`formatting`, `rich_output`, `json_output`), and exits. `serve` runs a mesh in this process.

Errors are raised as exceptions, down to `main`, which prints them as one line per error and exits
with the status that `error_report` assigns to them.

Invariant: text from the mesh, from plugins or from files is escaped before it is printed, so that
it cannot control the terminal.
"""

from __future__ import annotations

import contextlib
import io
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from meshtrio.cli.escaped_stderr import escape_stderr
from meshtrio.util import standard_streams
from meshtrio.util.pid_1 import terminate_as_pid_1
from meshtrio.util.version import VERSION

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_EPILOG = """\
\b
Exit status:
  0    success
  1    failure
  2    bad usage or config
  130  interrupted by Ctrl-C
  141  the reader of the output closed the pipe
"""


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
        "health": "Check that the mesh and its plugins are ready.",
        "top": "Watch calls, latencies, CPU and memory.",
        "events": "Print lifecycle events of plugins.",
        "history": "List the processes that plugins have had, and how they ended.",
        "logs": "Print the output of plugins.",
        "trace": "Print calls as they end.",
        "services": "List services and their endpoints.",
        "dashboard": "Print the URL of the web dashboard.",
        "nodes": "List the nodes of etcd, and how this mesh follows it.",
        "config": "Print the config in force, with secrets masked.",
    },
    "Control a running mesh": {
        "start": "Start the stopped instances of a plugin or group.",
        "stop": "Stop a plugin or group until it is started again.",
        "restart": "Restart instances one by one, losing no call.",
        "drain": "Stop, and report how each instance ended.",
        "scale": "Set the number of instances of a plugin.",
        "log-level": "Show or set the log level of a plugin.",
        "run": "Run a task, and exit with its exit status.",
        "reload": "Apply the changes in the config file.",
        "upgrade": "Execute the mesh's new code; its plugins keep running.",
    },
    "Run by hand": {
        "attach": "Run a command in the place of an instance, in this terminal.",
        "env": "Print the environment of an instance's process.",
    },
    "Call": {"call": "Call a method with JSON, by reflection."},
    "Shell": {"completion": "Print a script that completes commands and names."},
}
_COMMANDS = {name: text for section in _SECTIONS.values() for name, text in section.items()}
_MODULES = {
    **dict.fromkeys(_SECTIONS["Control a running mesh"], "lifecycle_commands"),
    "upgrade": "upgrade",
    **dict.fromkeys(("ps", "tree", "services"), "inspect_commands"),
    **dict.fromkeys(("events", "logs", "trace"), "stream_commands"),
    **dict.fromkeys(("gen", "new"), "code_commands"),
    "env": "attach",
    "completion": "options",
    "run": "run",
}
"""Modules of the commands that share one; other commands are in modules of their own names."""


class LazyCommandGroup(click.Group):
    """Imports a command's module when the command is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
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
        from click.shell_completion import CompletionItem  # Other commands do without it.

        return [
            CompletionItem(name, help=text)
            for name, text in _COMMANDS.items()
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


@click.group(
    cls=LazyCommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(VERSION, prog_name="meshtrio")
def commands() -> None:
    """Run plugins as processes that talk gRPC, and call them by name.

    Commands find a running mesh by --mesh-socket, else by $MESH_SOCKET, else in the default runtime
    dir. Run COMMAND --help for details.
    """


def main() -> None:
    """Run a command. Expected errors are printed as one line each, without a traceback."""
    standard_streams.open_missing_streams()
    terminate_as_pid_1()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that the encoding lacks are escaped instead of raising an error.
            stream.reconfigure(errors="backslashreplace")
    escape_stderr()
    try:
        status = commands(prog_name="meshtrio", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        status = 141
    except KeyboardInterrupt:
        status = 130
    except Exception as exc:
        from meshtrio.cli.error_report import describe_error

        status, lines = describe_error(exc)
        try:
            for line in lines:
                print(line, file=sys.stderr, flush=True)
        except OSError:  # The terminal is closed, or the disk is full.
            standard_streams.redirect_to_null(sys.stderr.fileno())
    if status == 141:
        # The interpreter would fail to flush what is left.
        standard_streams.redirect_to_null(sys.stdout.fileno())
    with contextlib.suppress(BrokenPipeError):
        sys.exit(status if isinstance(status, int) else 0)
