"""`meshtrio serve`: run a mesh until Ctrl-C or SIGTERM."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import click
import trio

from meshtrio import mesh
from meshtrio.cli.check import load_checked, runtime_dir_option
from meshtrio.cli.logs import logging_to
from meshtrio.config import MeshConfig
from meshtrio.structured import open_nursery_of_one

_log = logging.getLogger("meshtrio.mesh")


@click.command()
@click.argument("config_file", type=click.Path(path_type=Path))
@runtime_dir_option
def serve(config_file: Path, runtime_dir: Path | None) -> None:
    """Run the plugins of CONFIG_FILE until Ctrl-C or SIGTERM, then stop them all."""
    config = load_checked(config_file, runtime_dir)
    with logging_to(sys.stderr.fileno()):
        trio.run(_serve, config)


async def _serve(config: MeshConfig) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_nursery_of_one() as nursery:
            running = await nursery.start(mesh.main, config)
            _log.info("the mesh is up, its socket is %s; Ctrl-C stops it", running.socket)
            number = await anext(aiter(signals))
            _log.info("%s: stopping", signal.Signals(number).name)
            nursery.cancel_scope.cancel()
