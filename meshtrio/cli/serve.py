"""`meshtrio serve`: run a mesh until Ctrl-C or SIGTERM."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import click
import trio

from meshtrio import mesh
from meshtrio.cli.check import load_checked, runtime_dir_option, warnings_about
from meshtrio.cli.failures import explain
from meshtrio.cli.serve_log import logging_to
from meshtrio.config import LogConfig, LogFormat, LogLevel, MeshConfig
from meshtrio.errors import UsageError
from meshtrio.rpc.memory import freeze_startup_objects, trim_heap
from meshtrio.structured import open_nursery_of_one, told_to_stop
from meshtrio.supervise.processes import subreaper
from meshtrio.supervise.processes.descriptors import LIMIT
from meshtrio.supervise.processes.mesh_end import stop_with_mesh
from meshtrio.supervise.processes.orphans import only_meshes_start_children
from meshtrio.supervise.processes.usage import own_resident

_log = logging.getLogger("meshtrio.mesh")

_GROWTH = 16 * 1024 * 1024
"""Growth in bytes from which on free memory is returned to the kernel. How much is free cannot be
read; an attempt takes about 15 ms, in a thread."""


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
@click.option(
    "--log-format",
    type=click.Choice([each.value for each in LogFormat]),
    help="For people, or a JSON object a line; by default as [mesh.log] says, else console.",
)
@click.option(
    "--log-level",
    type=click.Choice([each.value for each in LogLevel]),
    help="Leave out what matters less; by default as [mesh.log] says, else info.",
)
def serve(
    config_file: Path,
    runtime_dir: Path | None,
    reload: bool,
    metrics: str | None,
    log_format: str | None,
    log_level: str | None,
) -> None:
    """Run the plugins of CONFIG_FILE until Ctrl-C, SIGTERM or SIGHUP, then stop them all.

    A terminal that is closed sends SIGHUP; where that is ignored, as below nohup, it goes on.

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
    log = attrs.evolve(
        config.log,
        format=LogFormat(log_format) if log_format else config.log.format,
        level=LogLevel(log_level) if log_level else config.log.level,
    )
    with logging_to(sys.stderr.fileno(), log), _failures_logged(log):
        for warning in warnings_about(config):
            _log.warning("%s", warning)
        LIMIT.raise_to_hard()
        trio.run(_serve, config, reload)


def with_metrics(config: MeshConfig, where: str) -> MeshConfig:
    """Raises UsageError for what is not host:port."""
    try:
        return attrs.evolve(config, telemetry=attrs.evolve(config.telemetry, metrics=where))
    except ValueError as exc:
        raise UsageError(f"--metrics: {exc}") from None


@contextmanager
def _failures_logged(log: LogConfig) -> Iterator[None]:
    """Where each line is to be JSON, what ends the mesh is a record, and not lines of text."""
    try:
        yield
    except Exception as exc:
        if log.format is not LogFormat.JSON:
            raise
        try:
            status, lines = explain(exc)
        except Exception:
            _log.critical("the mesh failed", exc_info=exc)
            status, lines = 1, []
        for line in lines:
            _log.critical("%s", line.removeprefix("meshtrio: "))
        raise click.exceptions.Exit(status) from None


async def _serve(config: MeshConfig, reload: bool) -> None:
    only_meshes_start_children()
    subreaper.become()
    with told_to_stop(for_good=True) as signals:
        async with open_nursery_of_one() as beside:
            async with open_nursery_of_one() as nursery:
                running = await nursery.start(mesh.main, config)
                freeze_startup_objects()
                nursery.start_soon(trim_heap_periodically)
                beside.start_soon(stop_with_mesh)
                _log.info("the mesh is up, its socket is %s; Ctrl-C stops it", running.socket)
                if reload:
                    from meshtrio.cli.reloading import follow_changes  # few want it

                    nursery.start_soon(follow_changes, running)
                number = await anext(signals)
                _log.info("%s: stopping", signal.Signals(number).name)
                beside.start_soon(_reassure, signals)
                nursery.cancel_scope.cancel()
            beside.cancel_scope.cancel()


async def trim_heap_periodically(interval: float = 10.0) -> None:
    """Return free memory to the kernel while this process is much larger than it was.

    Args:
        interval: Seconds between two looks at the resident memory of this process.

    Cancellation: at any time.
    """
    least = math.inf
    while True:
        with suppress(OSError):  # Out of descriptors, for example; the next look may succeed.
            if own_resident() - least > _GROWTH:
                await trim_heap()
            least = min(least, own_resident())
        await trio.sleep(interval)


async def _reassure(signals: AsyncIterator[int]) -> None:
    """Who presses Ctrl-C again learns what is waited for, and what would be quicker."""
    number = await anext(signals)
    name, pid = signal.Signals(number).name, os.getpid()
    text = "%s: still stopping; plugins have their stop_timeout (kill -9 %d ends them all at once)"
    _log.info(text, name, pid)
