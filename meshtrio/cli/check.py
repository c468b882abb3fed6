"""`meshtrio check`: is a config right."""

from __future__ import annotations

from pathlib import Path

import click

from meshtrio import runtime_dir
from meshtrio.config import MeshConfig, load

runtime_dir_option = click.option(
    "--runtime-dir",
    type=click.Path(path_type=Path),
    help="Folder of the sockets; by default that of the config, of $XDG_RUNTIME_DIR or of /tmp.",
)


def load_checked(config_file: Path, folder: Path | None) -> MeshConfig:
    """Read a config and hold it to all that can be told before anything is started.

    Raises ConfigError with every mistake.
    """
    config = load(config_file, runtime_dir=folder)
    runtime_dir.check(config)
    return config


@click.command()
@click.argument("config_file", type=click.Path(path_type=Path))
@runtime_dir_option
def check(config_file: Path, runtime_dir: Path | None) -> None:
    """Report every mistake in CONFIG_FILE; starts nothing."""
    config = load_checked(config_file, runtime_dir)
    count = sum(plugin.instances for plugin in config.plugins)
    click.echo(f"{config_file}: {len(config.plugins)} plugins, {count} instances: no mistakes")
