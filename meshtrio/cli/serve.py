"""`meshtrio serve`: run a mesh until Ctrl-C or SIGTERM."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import click
import trio

from meshtrio import mesh
from meshtrio.cli.check import load_checked, runtime_dir_option
from meshtrio.config import MeshConfig
from meshtrio.structured import open_nursery_of_one

_log = logging.getLogger("meshtrio.mesh")


@click.command()
@click.argument("config_file", type=click.Path(path_type=Path))
@runtime_dir_option
def serve(config_file: Path, runtime_dir: Path | None) -> None:
    """Run the plugins of CONFIG_FILE until Ctrl-C or SIGTERM, then stop them all."""
    config = load_checked(config_file, runtime_dir)
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    trio.run(_serve, config)


async def _serve(config: MeshConfig) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_nursery_of_one() as nursery:
            running = await nursery.start(mesh.main, config)
            _log.info("the mesh is up, its socket is %s; Ctrl-C stops it", running.socket)
            number = await anext(aiter(signals))
            _log.info("%s: stopping", signal.Signals(number).name)
            nursery.cancel_scope.cancel()


class _Formatter(logging.Formatter):
    """One line a record; a plugin's output is marked with its name, the mesh's own is not."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(mark)s%(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        if record.name.startswith("meshtrio.plugin."):
            plugin, instance = record.__dict__["plugin"], record.__dict__["instance"]
            record.mark = f"{plugin}/{instance} | "
        else:
            level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
            record.mark = f"mesh: {level}"
        return super().format(record)
