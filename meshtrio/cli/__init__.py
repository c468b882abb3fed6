"""The command line: `meshtrio`, or `python -m meshtrio`.

Exit status: 0 done, 1 it failed, 2 bad usage or config.
"""

from __future__ import annotations

import sys

import click
import purerpc

from meshtrio import __version__
from meshtrio.cli.call import call
from meshtrio.cli.check import check
from meshtrio.cli.gen import gen
from meshtrio.cli.ps import ps
from meshtrio.cli.serve import serve
from meshtrio.errors import ConfigError, MeshFailedError, MeshtrioError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="meshtrio")
def commands() -> None:
    """Run plugins as processes that talk gRPC, and call them by name."""


for command in (serve, check, ps, call, gen):
    commands.add_command(command)


def main() -> None:
    """Run a command; every failure that was foreseen is one line a mistake, without a traceback."""
    try:
        commands(prog_name="meshtrio")
    except ConfigError as exc:
        _fail(2, exc.problems)
    except MeshFailedError as exc:
        _fail(1, [str(exc)])
    except MeshtrioError as exc:
        _fail(2, [str(exc)])
    except purerpc.RpcFailedError as exc:
        _fail(1, [f"{exc.status.status_code.name}: {exc.status.status_message}"])


def _fail(status: int, problems: list[str]) -> None:
    for problem in problems:
        print(f"meshtrio: {problem}", file=sys.stderr)
    sys.exit(status)
