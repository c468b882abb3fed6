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
from collections.abc import Iterable

import click

from meshtrio import __version__
from meshtrio.cli.command_index import LazyCommandGroup
from meshtrio.cli.escaped_stderr import escape_stderr
from meshtrio.util import standard_streams

_EPILOG = """\
\b
Exit status:
  0    success
  1    failure
  2    bad usage or config
  130  interrupted by Ctrl-C
  141  the reader of the output closed the pipe
"""


@click.group(
    cls=LazyCommandGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EPILOG,
)
@click.version_option(__version__, prog_name="meshtrio")
def commands() -> None:
    """Run plugins as processes that talk gRPC, and call them by name.

    Commands find a running mesh by --mesh-socket, else by $MESH_SOCKET, else in the default runtime
    dir. Run COMMAND --help for details.
    """


def _print_errors(lines: Iterable[str]) -> None:
    """Print to stderr; tolerate a closed terminal and a full disk."""
    try:
        for line in lines:
            print(line, file=sys.stderr, flush=True)
    except OSError:
        standard_streams.redirect_to_null(sys.stderr.fileno())


def main() -> None:
    """Run a command. Expected errors are printed as one line each, without a traceback."""
    standard_streams.open_missing_streams()
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
        _print_errors(lines)
    if status == 141:
        # The interpreter would fail to flush what is left.
        standard_streams.redirect_to_null(sys.stdout.fileno())
    with contextlib.suppress(BrokenPipeError):
        sys.exit(status if isinstance(status, int) else 0)
