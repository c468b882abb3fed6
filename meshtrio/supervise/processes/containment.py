"""What comes before a process: its command with its limits, its environment, its executable's hash;
and what it uses once it runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs
import trio

from meshtrio import contract
from meshtrio.address import ServerTlsFiles
from meshtrio.config import PluginConfig
from meshtrio.supervise.processes import launcher_main

_LAUNCHER = str(Path(launcher_main.__file__))


class WrongExecutableError(OSError):
    """The executable is not the one that the config promised."""


def command_of(config: PluginConfig, cgroup: Path | None = None) -> list[str]:
    """The command that is executed: the plugin's own, or the launcher's in front of it."""
    contained = config.containment
    if not contained.needs_launcher and cgroup is None:
        return config.argv()
    settings = json.dumps({**attrs.asdict(contained), "cgroup": cgroup and str(cgroup)})
    return [sys.executable, "-I", "-S", _LAUNCHER, settings, *config.argv()]


def environment_of(config: PluginConfig, own: Mapping[str, str]) -> dict[str, str]:
    """What a plugin inherits, its `env`, and `own`: what the mesh tells it.

    What a mesh that is itself a plugin has been told by its own mesh, is for nobody else.
    """
    inherited = {k: v for k, v in os.environ.items() if k not in contract.ENVIRONMENT}
    if config.inherit_env is not None:
        inherited = {name: value for name, value in inherited.items() if name in config.inherit_env}
    return {**inherited, **config.env, **own}


def environment_of_tls(files: ServerTlsFiles) -> dict[str, str]:
    """What a plugin is told that is to serve with TLS."""
    told = {
        contract.PLUGIN_TLS_CERTIFICATE: str(files.certificate),
        contract.PLUGIN_TLS_KEY: str(files.key),
    }
    if files.client_ca is not None:
        told[contract.PLUGIN_TLS_CLIENT_CA] = str(files.client_ca)
    return told


def environment_of_lengths(config: PluginConfig) -> dict[str, str]:
    """Give the variables for the lengths of messages that the config sets."""
    lengths = {
        contract.PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH: config.max_receive_message_length,
        contract.PLUGIN_MAX_SEND_MESSAGE_LENGTH: config.max_send_message_length,
    }
    return {name: str(length) for name, length in lengths.items() if length is not None}


async def check_executable(config: PluginConfig) -> None:
    """Compare the executable's SHA-256 with the config's, if it has one.

    Raises WrongExecutableError. What is checked is what the path leads to now: whoever can replace
    the file in the moment before it is executed is not kept from it.
    """
    expected = config.containment.sha256
    if expected is None:
        return
    program = shutil.which(config.argv()[0], path=config.env.get("PATH"))
    if program is None:
        raise WrongExecutableError(f"{config.argv()[0]!r} is not there")
    found = await trio.to_thread.run_sync(_sha256, program)
    if found != expected:
        raise WrongExecutableError(f"{program} has SHA-256 {found}, not {expected}")


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
