"""`meshtrio serve`: run a mesh."""

from __future__ import annotations

import gc
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
from meshtrio.cli.check import find_warnings, load_and_check, runtime_dir_option
from meshtrio.cli.error_report import describe_error
from meshtrio.cli.serve_log import log_to_descriptor
from meshtrio.cli.serve_signals import ServeSignals
from meshtrio.config import LogConfig, LogFormat, LogLevel, MeshConfig
from meshtrio.config.telemetry import parse_host_port
from meshtrio.supervisor.process.cleanup.mesh_exit import stop_on_mesh_exit
from meshtrio.supervisor.process.cleanup.reparented import become_subreaper
from meshtrio.supervisor.process.proc.resource_usage import read_own_rss
from meshtrio.supervisor.process.spawn.child_process import CHILD_REGISTRY
from meshtrio.systemd.service_manager import ServiceManager
from meshtrio.telemetry.optional_dependencies import check_extras
from meshtrio.upgrade.adoption import Adoption
from meshtrio.upgrade.program import Program
from meshtrio.upgrade.upgrader import Upgrader
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.controlling_terminal import ControllingTerminal
from meshtrio.util.descriptor_limit import DESCRIPTOR_LIMIT
from meshtrio.util.errors import UsageError
from meshtrio.util.malloc_tuning import MALLOC_TUNING
from meshtrio.util.signals import catch_without_effect, stop_signals, upgrade_signals
from meshtrio.util.version import VERSION

_log = logging.getLogger("meshtrio.mesh")

_TRIM_GROWTH = 16 * 1024 * 1024
"""Growth in bytes from which on free memory is returned to the kernel. How much is free cannot be
read; an attempt takes about 15 ms, in a thread."""


@click.command()
@click.argument("config_file", type=click.Path(path_type=Path))
@runtime_dir_option
@click.option(
    "--reload",
    is_flag=True,
    help="Restart plugins when files below their cwd change; reload the config when it changes.",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Serve Prometheus metrics there, at /metrics; overrides the config.",
)
@click.option(
    "--dashboard",
    metavar="HOST:PORT",
    help="Serve the web dashboard there; overrides the config. The log has the URL.",
)
@click.option("--check-upgrade", is_flag=True, hidden=True)
@click.option(
    "--log-format",
    type=click.Choice([each.value for each in LogFormat]),
    help="Console text, or one JSON object per line; by default that of [mesh.log], else console.",
)
@click.option(
    "--log-level",
    type=click.Choice([each.value for each in LogLevel]),
    help="Lowest level to log; by default that of [mesh.log], else info.",
)
def serve(
    config_file: Path,
    runtime_dir: Path | None,
    reload: bool,
    metrics: str | None,
    dashboard: str | None,
    check_upgrade: bool,
    log_format: str | None,
    log_level: str | None,
) -> None:
    """Run the plugins of CONFIG_FILE until Ctrl-C or SIGTERM, then stop them all.

    SIGHUP reloads the config, as `meshtrio reload` does; the result is in the log. A closed
    terminal also sends SIGHUP, and stops the mesh. Under nohup, SIGHUP is ignored. SIGUSR2 upgrades
    the mesh, as `meshtrio upgrade` does.

    The log goes to stderr: lifecycle events, and the output of plugins. The exit status is 0 after
    a stop signal, and 1 if a plugin's failure was escalated to the mesh.
    """
    program = Program.of_this_process()
    # First, since systemd's descriptors are known by their numbers.
    manager = ServiceManager.from_environment()
    adoption = Adoption.from_environment()
    if adoption is not None and adoption.saved.uses_saved_config:
        config = adoption.saved.supervisor.config
    else:
        with _fall_back_on_error(adoption, program, is_trial=check_upgrade):
            config = _load_config(config_file, runtime_dir, metrics, dashboard)
            if reload and importlib.util.find_spec("watchfiles") is None:
                raise UsageError("--reload needs watchfiles: pip install 'meshtrio[reload]'")
            if adoption is not None:
                adoption.check(config)
    if check_upgrade:
        return
    log = attrs.evolve(
        config.log,
        format=LogFormat(log_format) if log_format else config.log.format,
        level=LogLevel(log_level) if log_level else config.log.level,
    )
    with log_to_descriptor(sys.stderr.fileno(), log), _log_failures(log), manager.connected():
        for warning in find_warnings(config):
            _log.warning("%s", warning)
        if adoption is not None:
            adoption.begin()
        catch_without_effect(signal.SIGUSR2)
        DESCRIPTOR_LIMIT.raise_to_hard_limit()
        MALLOC_TUNING.enable()
        trio.run(_serve, config, manager, reload, program, adoption)


def _load_config(
    config_file: Path, runtime_dir: Path | None, metrics: str | None, dashboard: str | None
) -> MeshConfig:
    for option, address in (("--metrics", metrics), ("--dashboard", dashboard)):
        try:
            parse_host_port(address or "localhost:1")
        except ValueError as exc:
            raise UsageError(f"{option}: {exc}") from None
    config = load_and_check(config_file, runtime_dir)
    assert config.source is not None
    source = attrs.evolve(config.source, metrics=metrics, dashboard=dashboard)
    config = source.override(config)
    check_extras(config)
    return config


@contextmanager
def _fall_back_on_error(
    adoption: Adoption | None, program: Program, *, is_trial: bool
) -> Iterator[None]:
    """If an error follows an upgrade, execute the program again with the config from before."""
    try:
        yield
    except Exception as exc:
        if adoption is not None and not is_trial:
            adoption.fall_back(program, str(exc))
        raise


@contextmanager
def _log_failures(log: LogConfig) -> Iterator[None]:
    """In a JSON log, log the error that ends the mesh as records too."""
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


async def _serve(
    config: MeshConfig,
    manager: ServiceManager,
    reload: bool,
    program: Program,
    adoption: Adoption | None,
) -> None:
    CHILD_REGISTRY.is_exclusive = True
    if adoption is None:
        become_subreaper()
    terminal = ControllingTerminal()
    with (
        stop_signals(ignore_afterwards=True) as signals,
        upgrade_signals() as requests,
    ):
        if adoption is not None:
            adoption.deliver_signals()
        async with open_collapsing_nursery() as signal_tasks:
            async with open_collapsing_nursery() as nursery:
                running = await nursery.start(mesh.run_service, config, manager, adoption)
                upgrader = mesh.make_upgrader(running, program)
                nursery.start_soon(upgrader.run)
                nursery.start_soon(_upgrade_on_signal, upgrader, requests)
                gc.freeze()  # Collections look at what is created from here on, and are shorter.
                nursery.start_soon(trim_heap_periodically)
                signal_tasks.start_soon(stop_on_mesh_exit)
                _log_start(running, adoption)
                if reload:
                    from meshtrio.cli.auto_reload import reload_on_changes

                    nursery.start_soon(reload_on_changes, running)
                await ServeSignals(running, terminal).run(signals)
                signal_tasks.start_soon(_report_second_signal, signals)
                nursery.cancel_scope.cancel()
            signal_tasks.cancel_scope.cancel()


def _log_start(running: mesh.Mesh, adoption: Adoption | None) -> None:
    if adoption is None:
        _log.info("the mesh is up, its socket is %s; Ctrl-C stops it", running.socket)
    elif adoption.saved.uses_saved_config:
        text = "the upgrade has failed: %s; the mesh goes on with the config from before"
        _log.error(text, adoption.saved.execution.problem)
    else:
        text = "the mesh was upgraded from %s to %s; its plugins have kept running"
        _log.info(text, adoption.saved.version, VERSION)


async def _upgrade_on_signal(upgrader: Upgrader, signals: AsyncIterator[int]) -> None:
    """Upgrade the mesh on SIGUSR2; errors are logged by the upgrader."""
    async for _ in signals:
        with suppress(UsageError):
            await upgrader.request()


async def trim_heap_periodically(interval: float = 10.0) -> None:
    """Return free memory to the kernel while this process is much larger than it was.

    `interval`: seconds between two looks at the resident memory of this process.
    """
    least = math.inf
    while True:
        with suppress(OSError):  # Out of descriptors, for example; the next look may succeed.
            if read_own_rss() - least > _TRIM_GROWTH:
                await MALLOC_TUNING.trim()
            least = min(least, read_own_rss())
        await trio.sleep(interval)


async def _report_second_signal(signals: AsyncIterator[int]) -> None:
    """Log, on a second stop signal, what the shutdown waits for and how to end it at once."""
    number: int = signal.SIGHUP
    while number == signal.SIGHUP:  # It has no effect while the mesh stops.
        number = await anext(signals)
    name, pid = signal.Signals(number).name, os.getpid()
    text = "%s: still stopping; plugins have their stop_timeout (kill -9 %d ends them all at once)"
    _log.info(text, name, pid)
