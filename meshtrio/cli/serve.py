"""`meshtrio serve`: run a mesh until Ctrl-C or SIGTERM."""

from __future__ import annotations

import importlib.util
import logging
import signal
import sys
from pathlib import Path

import attrs
import click
import trio

from meshtrio import mesh
from meshtrio.cli.check import load_checked, runtime_dir_option
from meshtrio.cli.serve_log import logging_to
from meshtrio.config import MeshConfig
from meshtrio.errors import UsageError
from meshtrio.structured import open_nursery_of_one

_log = logging.getLogger("meshtrio.mesh")


@click.command(short_help="Run the plugins of a config until Ctrl-C or SIGTERM.")
@click.argument("config_file", type=click.Path(path_type=Path))
@runtime_dir_option
@click.option(
    "--reload",
    is_flag=True,
    help="Renew plugins when files below their cwd change, and reload the config when it does.",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Serve metrics for Prometheus there, at /metrics; goes before the config's.",
)
def serve(config_file: Path, runtime_dir: Path | None, reload: bool, metrics: str | None) -> None:
    """Run the plugins of CONFIG_FILE until Ctrl-C or SIGTERM, then stop them all.

    The log goes to stderr: what happens to plugins, and what they write. Stopped in good order the
    exit status is 0; it is 1 where a plugin's failure was escalated to the mesh.
    """
    config = load_checked(config_file, runtime_dir)
    if metrics is not None:
        config = with_metrics(config, metrics)
    if reload and importlib.util.find_spec("watchfiles") is None:
        raise UsageError(
            "--reload needs watchfiles, which is not here: pip install 'meshtrio[reload]'"
        )
    with logging_to(sys.stderr.fileno()):
        trio.run(_serve, config, reload)


def with_metrics(config: MeshConfig, where: str) -> MeshConfig:
    """Raises UsageError for what is not host:port."""
    try:
        return attrs.evolve(config, telemetry=attrs.evolve(config.telemetry, metrics=where))
    except ValueError as exc:
        raise UsageError(f"--metrics: {exc}") from None


async def _serve(config: MeshConfig, reload: bool) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_nursery_of_one() as nursery:
            running = await nursery.start(mesh.main, config)
            _log.info("the mesh is up, its socket is %s; Ctrl-C stops it", running.socket)
            if reload:
                from meshtrio.cli.reloading import follow_changes  # few want it

                nursery.start_soon(follow_changes, running)
            number = await anext(aiter(signals))
            _log.info("%s: stopping", signal.Signals(number).name)
            nursery.cancel_scope.cancel()
