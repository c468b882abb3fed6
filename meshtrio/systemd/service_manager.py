"""What the service manager gives to `meshtrio serve`, and what it is told."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meshtrio.systemd.listen_fds import PassedSockets, take_sockets
from meshtrio.systemd.notifier import Notifier
from meshtrio.systemd.notify_socket import NotifySocket
from meshtrio.systemd.status_text import shorten_line
from meshtrio.systemd.variables import ServiceVariables, take_variables
from meshtrio.util.errors import unwrap_exception_group

if TYPE_CHECKING:
    from meshtrio.supervisor.operations import Operations
    from meshtrio.supervisor.supervisor import Supervisor

_STDERR = 2


class ServiceManager:
    """The service manager that has started this process; without one, an object without effect."""

    def __init__(self, variables: ServiceVariables, sockets: PassedSockets) -> None:
        """Use the variables and sockets that were taken; see `from_environment`."""
        self.variables = variables
        self.sockets = sockets
        self._notify = NotifySocket(None)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> ServiceManager:
        """Take what systemd has passed, and remove its variables.

        To be called before the process opens descriptors or starts others.

        Raises:
            UsageError: A socket cannot be used.
        """
        variables = take_variables(environ, os.getpid())
        return cls(variables, take_sockets(variables))

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Send notifications during the block; if it fails, the reason is the last status."""
        self._notify = NotifySocket(self.variables.values.get("NOTIFY_SOCKET"))
        try:
            yield
        except (Exception, BaseExceptionGroup) as exc:
            self._notify.send(f"STATUS=failed: {shorten_line(str(unwrap_exception_group(exc)))}")
            raise
        finally:
            self._notify.close()

    def watch(self, supervisor: Supervisor, operations: Operations) -> None:
        """Report the state of a mesh that is about to run."""
        if not self._notify.is_open:
            return
        ping_interval = self.variables.ping_interval()
        if ping_interval is not None:
            # systemd ends a stuck process by SIGABRT; the log then has what it was doing.
            faulthandler.enable(_STDERR, all_threads=True)
        notifier = Notifier(self._notify, supervisor, ping_interval)
        supervisor.on_turn = notifier.on_turn
        operations.report_reload = notifier.reloading
