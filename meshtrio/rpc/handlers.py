"""The handlers of a server, by the path of their method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from meshtrio.rpc.method import Handler
from meshtrio.rpc.purerpc_compat import collect_handlers

_log = logging.getLogger("meshtrio.rpc")


FoundHandler = Handler | str | None
"""The handler of a method, or why the servicer of its service cannot be made, which is the message
of the status that the call fails with; None if the method is unknown."""


class HandlerTable:
    """Finds handlers, and makes servicers that are needed for the first time."""

    def __init__(self, servicers: Iterable[Any]) -> None:
        self.handlers: dict[str, Handler] = collect_handlers(servicers)
        """The handlers of all servicers that were made, by path."""
        self._lazy_servicers: dict[str, Callable[[], Any]] = {}

    def add_lazy_servicer(self, service: str, factory: Callable[[], Any]) -> None:
        """Serve a service by a servicer that is made when the service is first called.

        If the factory raises, the error is logged and the call fails with UNAVAILABLE; the next
        call tries again, because modules cannot be imported while file descriptors are exhausted.
        """
        self._lazy_servicers[service] = factory

    def find(self, path: str) -> FoundHandler:
        """Return the handler of a method; None if the method is unknown."""
        handler = self.handlers.get(path)
        if handler is None and self._lazy_servicers:
            service = path[1:].partition("/")[0]
            if service in self._lazy_servicers:
                return self._make_servicer(service) or self.handlers.get(path)
        return handler

    def _make_servicer(self, service: str) -> str | None:
        """Make the servicer of a service; return the reason if that fails."""
        try:
            self.handlers |= collect_handlers([self._lazy_servicers[service]()])
        except Exception as exc:
            error = exc.strerror if isinstance(exc, OSError) else None
            _log.error("%s cannot be served now: %s", service, exc, exc_info=None if error else exc)
            reason = error or "its servicer cannot be created; see the log of the process"
            return f"{service} is unavailable: {reason}; call again later"
        del self._lazy_servicers[service]
        return None
