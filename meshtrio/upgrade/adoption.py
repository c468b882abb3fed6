"""Taking over, in the new program, what the old one has handed over."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import ExitStack

import attrs

from meshtrio.config import MeshConfig
from meshtrio.runtime_dir import directory
from meshtrio.supervisor.process.cleanup.reparented import adopt_subreaper
from meshtrio.transport.listener import LISTENERS, tcp_listener
from meshtrio.transport.tls import make_server_ssl_context
from meshtrio.upgrade.program import Program
from meshtrio.upgrade.signal_hold import take_signals
from meshtrio.upgrade.state import STATE_VARIABLE, read_state
from meshtrio.util.descriptor_limit import DESCRIPTOR_LIMIT
from meshtrio.util.errors import ConfigError, UsageError
from meshtrio.util.tls_config import ServerTlsConfig

_log = logging.getLogger("meshtrio.mesh")

_ADDRESS_KEYS = {
    "gateway": "[mesh.gateway] listen",
    "metrics": "[mesh.telemetry] metrics",
    "dashboard": "[mesh.dashboard] listen",
}
_FIXED = ("cgroup", "discovery")
"""Settings, apart from the runtime dir, that an upgrade cannot change."""


class Adoption:
    """The state that this program was executed with, until `commit`."""

    def __init__(self, descriptor: int) -> None:
        """Read the state. Raises UsageError if this version cannot use it."""
        self._descriptor = descriptor
        self.saved = read_state(descriptor)

    @classmethod
    def from_environment(cls) -> Adoption | None:
        """Return the state that this program was executed with, if it was in an upgrade.

        Raises:
            UsageError: This version cannot use it.
        """
        text = os.environ.pop(STATE_VARIABLE, None)
        return cls(int(text)) if text is not None and text.isdecimal() else None

    def check(self, config: MeshConfig) -> None:
        """Check that this program can take over with a config; nothing is changed.

        Raises:
            ConfigError: The config cannot be used.
            UsageError: The config changes what is fixed.
        """
        saved, before = self.saved, self.saved.supervisor.config
        if str(directory.resolve_runtime_dir(config)) != saved.runtime_dir:
            raise UsageError(
                f"runtime_dir cannot be changed by an upgrade from {saved.runtime_dir}"
            )
        for fixed in _FIXED:
            if getattr(config, fixed) != getattr(before, fixed):
                raise UsageError(f"{fixed} cannot be changed by an upgrade; restart the mesh")
        self._check_passed_sockets(config)
        saved.initial_config(config)
        with ExitStack() as stack:
            for key, address in _tcp_addresses(config).items():
                if address not in saved.listeners and key not in saved.passed_sockets:
                    try:
                        stack.enter_context(tcp_listener(address))
                    except UsageError as exc:
                        raise UsageError(f"{_ADDRESS_KEYS[key]}: {exc}") from None
        _check_tls("gateway", config.gateway.tls)
        _check_tls("dashboard", config.dashboard.tls)

    def _check_passed_sockets(self, config: MeshConfig) -> None:
        before, after = _tcp_addresses(self.saved.supervisor.config), _tcp_addresses(config)
        for name in self.saved.passed_sockets:
            if before.get(name) != after.get(name):
                text = "is the port of a socket that systemd has passed; restart the mesh"
                raise UsageError(f"{_ADDRESS_KEYS[name]} {text} to change it")

    def begin(self) -> None:
        """Take over what belongs to the process itself, and the listening sockets."""
        saved = self.saved
        adopt_subreaper(is_one=saved.supervisor.processes.is_subreaper)
        LISTENERS.inherit(saved.listeners)
        if saved.program is not None:
            DESCRIPTOR_LIMIT.adopt(saved.program.descriptor_limit)

    def fall_back(self, program: Program, problem: str) -> None:
        """Execute the program again, with the config that was in force before.

        Returns if this is the program that was so executed: nothing more is tried.
        """
        saved = self.saved
        if saved.uses_saved_config:
            return
        execution = attrs.evolve(
            saved.execution,
            number=saved.execution.number + 1,
            failures=saved.execution.failures + 1,
            problem=problem,
        )
        program.execute(attrs.evolve(saved, execution=execution, uses_saved_config=True))

    def deliver_signals(self) -> None:
        """Restore the mask of signals, and deliver those that arrived during the upgrade."""
        program = self.saved.program
        if program is None:
            return
        caught = take_signals(program.signal_pipe)
        signal.pthread_sigmask(signal.SIG_SETMASK, program.blocked_signals)
        for number in caught:
            signal.raise_signal(number)

    def commit(self) -> None:
        """End the adoption: the processes are supervised, and the state is not needed any more."""
        LISTENERS.close_inherited()
        for descriptor in set(self.saved.descriptors()):
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                continue  # It was closed meanwhile.
        os.close(self._descriptor)


def _check_tls(where: str, tls: ServerTlsConfig | None) -> None:
    """Raise ConfigError if files of TLS cannot be used."""
    if tls is None:
        return
    try:
        make_server_ssl_context(tls.certificate, tls.key, tls.client_ca)
    except OSError as exc:
        text = f"mesh: {where}: tls: cannot be used: {exc.strerror or exc}"
        raise ConfigError([text]) from None


def _tcp_addresses(config: MeshConfig) -> dict[str, str]:
    """Return the addresses of the mesh's TCP ports, by their names in `_ADDRESS_KEYS`."""
    found = {}
    if config.gateway.listen is not None:
        found["gateway"] = config.gateway.listen
    if config.telemetry.metrics is not None:
        found["metrics"] = f"tcp:{config.telemetry.metrics}"
    if config.dashboard.listen is not None:
        found["dashboard"] = f"tcp:{config.dashboard.listen}"
    return found
