"""`meshtrio serve`: run a mesh until Ctrl-C or SIGTERM."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import click
import trio

from meshtrio import mesh
from meshtrio.cli.check import find_warnings, load_and_check, runtime_dir_option
from meshtrio.cli.error_report import describe_error
from meshtrio.cli.serve_log import log_to_descriptor
from meshtrio.config import LogConfig, LogFormat, LogLevel, MeshConfig
from meshtrio.errors import UsageError
from meshtrio.supervisor.process.cleanup import subreaper
from meshtrio.supervisor.process.cleanup.mesh_exit import stop_on_mesh_exit
from meshtrio.supervisor.process.spawn.child_registry import CHILD_REGISTRY
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.descriptor_limit import DESCRIPTOR_LIMIT
from meshtrio.util.malloc_tuning import MALLOC_TUNING
from meshtrio.util.stop_signals import stop_signals

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
    config = load_and_check(config_file, runtime_dir)
    if metrics is not None:
        config = override_metrics(config, metrics)
    if reload and importlib.util.find_spec("watchfiles") is None:
        raise UsageError(
            "--reload needs watchfiles, which is not here: pip install 'meshtrio[reload]'"
        )
    log = attrs.evolve(
        config.log,
        format=LogFormat(log_format) if log_format else config.log.format,
        level=LogLevel(log_level) if log_level else config.log.level,
    )
    with log_to_descriptor(sys.stderr.fileno(), log), _log_failures(log):
        for warning in find_warnings(config):
            _log.warning("%s", warning)
        DESCRIPTOR_LIMIT.raise_to_hard_limit()
        MALLOC_TUNING.enable()
        trio.run(_serve, config, reload)


def override_metrics(config: MeshConfig, address: str) -> MeshConfig:
    """Raises UsageError for what is not host:port."""
    try:
        return attrs.evolve(config, telemetry=attrs.evolve(config.telemetry, metrics=address))
    except ValueError as exc:
        raise UsageError(f"--metrics: {exc}") from None


@contextmanager
def _log_failures(log: LogConfig) -> Iterator[None]:
    """Where each line is to be JSON, what ends the mesh is a record, and not lines of text."""
    try:
        yield
    except Exception as exc:
        if log.format is not LogFormat.JSON:
            raise
        try:
            status, lines = describe_error(exc)
        except Exception:
            _log.critical("the mesh failed", exc_info=exc)
            status, lines = 1, []
        for line in lines:
            _log.critical("%s", line.removeprefix("meshtrio: "))
        raise click.exceptions.Exit(status) from None


async def _serve(config: MeshConfig, reload: bool) -> None:
    CHILD_REGISTRY.is_exclusive = True
    subreaper.become_subreaper()
    with stop_signals(ignore_afterwards=True) as signals:
        async with open_collapsing_nursery() as beside:
            async with open_collapsing_nursery() as nursery:
                running = await nursery.start(mesh.main, config)
                beside.start_soon(stop_on_mesh_exit)
                _log.info("the mesh is up, its socket is %s; Ctrl-C stops it", running.socket)
                if reload:
                    from meshtrio.cli.auto_reload import reload_on_changes  # few want it

                    nursery.start_soon(reload_on_changes, running)
                number = await anext(signals)
                _log.info("%s: stopping", signal.Signals(number).name)
                beside.start_soon(_report_second_signal, signals)
                nursery.cancel_scope.cancel()
            beside.cancel_scope.cancel()


async def _report_second_signal(signals: AsyncIterator[int]) -> None:
    """Who presses Ctrl-C again learns what is waited for, and what would be quicker."""
    number = await anext(signals)
    name, pid = signal.Signals(number).name, os.getpid()
    text = "%s: still stopping; plugins have their stop_timeout (kill -9 %d ends them all at once)"
    _log.info(text, name, pid)
