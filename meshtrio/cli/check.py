"""`meshtrio check`: validate a config."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from meshtrio.cli.formatting import format_count
from meshtrio.config import MeshConfig, ProgramConfig, load
from meshtrio.discovery.dns.discovery import check_dns_installed
from meshtrio.runtime_dir import directory
from meshtrio.telemetry.optional_dependencies import check_extras
from meshtrio.util.errors import ConfigError
from meshtrio.util.executable_check import describe_privilege_change
from meshtrio.util.text import escape_unprintable

runtime_dir_option = click.option(
    "--runtime-dir",
    type=click.Path(path_type=Path),
    help="Folder of the sockets; by default the config's, else below $XDG_RUNTIME_DIR or /tmp.",
)


def load_and_check(config_file: Path, folder: Path | None) -> MeshConfig:
    """Read a config and run every check that needs nothing to be started.

    Raises ConfigError with all problems.
    """
    config = load(config_file, runtime_dir=folder)
    problems: list[str] = []
    for check in (
        directory.validate,
        check_dns_installed,
        check_extras,
    ):
        try:
            check(config)
        except ConfigError as exc:
            problems += [f"{config_file}: {problem}" for problem in exc.problems]
    if problems:
        raise ConfigError(problems)
    return config


def find_warnings(config: MeshConfig) -> list[str]:
    """Return warnings about settings that are valid but probably not intended."""
    programs: list[tuple[str, ProgramConfig]]
    programs = [(f"plugin {plugin.name!r}", plugin) for plugin in config.plugins]
    programs += [(f"task {task.name!r}", task) for task in config.tasks]
    found = ((name, describe_privilege_change(each.program())) for name, each in programs)
    return [f"{name}: {warning}" for name, warning in found if warning]


@click.command()
@click.argument("config_file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@runtime_dir_option
def check(config_file: Path, as_json: bool, runtime_dir: Path | None) -> None:
    """Report every mistake in CONFIG_FILE; start nothing.

    Warn about programs that this user could not stop once they run, such as set-user-ID ones.
    """
    try:
        config = load_and_check(config_file, runtime_dir)
    except ConfigError as exc:
        if not as_json:
            raise
        _print_result(config_file, mistakes=exc.problems, warnings=[])
        sys.exit(2)
    warnings, plugins = find_warnings(config), len(config.plugins)
    instances = sum(plugin.instances for plugin in config.plugins)
    if as_json:
        counted = {"plugins": plugins, "instances": instances, "tasks": len(config.tasks)}
        _print_result(config_file, **counted, mistakes=[], warnings=warnings)
        return
    for warning in warnings:
        click.echo(escape_unprintable(f"{config_file}: warning: {warning}"), err=True)
    counts = f"{format_count(plugins, 'plugin')}, {format_count(instances, 'instance')}"
    if config.tasks:
        counts += f", {format_count(len(config.tasks), 'task')}"
    click.echo(escape_unprintable(f"{config_file}: {counts}: no mistakes"))


def _print_result(config_file: Path, **found: object) -> None:
    from meshtrio.cli.json_output import print_json

    print_json({"file": str(config_file), **found})
