"""The command line: `meshtrio`, or `python -m meshtrio`.

What a command needs is imported when it is run, so that `--help`, and the shell's completion, need
not wait for it.
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
  0    done, or stopped in good order
  1    it failed
  2    bad usage or config
  130  ended by Ctrl-C
  141  whoever read the output has gone
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
    dir. Give one --help to learn more of it.
    """


def _print_errors(lines: Iterable[str]) -> None:
    """Print to stderr, which may be a terminal that is gone, or on a disk that is full."""
    try:
        for line in lines:
            print(line, file=sys.stderr, flush=True)
    except OSError:
        standard_streams.redirect_to_null(sys.stderr.fileno())


def main() -> None:
    """Run a command; every failure that was foreseen is one line a mistake, without a traceback."""
    standard_streams.open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What its encoding does not have is written as an escape, and fails nothing.
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
        from meshtrio.cli.error_report import describe_error  # none, most of the time

        status, lines = describe_error(exc)
        _print_errors(lines)
    if status == 141:
        # So that the interpreter does not fail in turn to write what is left.
        standard_streams.redirect_to_null(sys.stdout.fileno())
    with contextlib.suppress(BrokenPipeError):
        sys.exit(status if isinstance(status, int) else 0)
