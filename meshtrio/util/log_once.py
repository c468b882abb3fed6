"""Logging a failure that repeats: once for each reason, or when the reason changes."""

from __future__ import annotations

import logging
from collections.abc import Hashable


class OncePerReasonLogger:
    """Logs the first warning for each reason, and nothing after `max_reasons` of them.

    The limit bounds memory and log if reasons come from a peer.
    """

    def __init__(self, logger: logging.Logger, *, max_reasons: int = 1000) -> None:
        self._logger = logger
        self._max_reasons = max_reasons
        self._logged: set[Hashable] = set()

    def log(self, reason: Hashable, message: str, *args: object) -> None:
        """Log a message unless one was logged for this reason."""
        if reason not in self._logged and len(self._logged) < self._max_reasons:
            self._logged.add(reason)
            self._logger.warning(message, *args)

    def reset(self) -> None:
        """Forget all reasons: the failure is over."""
        self._logged.clear()


class ReasonChangeLogger:
    """Logs a message if its reason differs from that of the message before it.

    `reset` marks the failure as over: the next message is logged whatever its reason.
    """

    def __init__(self, logger: logging.Logger, *, level: int = logging.WARNING) -> None:
        self._logger = logger
        self._level = level
        self._reason: Hashable = None

    def log(self, reason: Hashable, message: str, *args: object) -> None:
        """Log a message if the reason, which is not None, is new."""
        if reason != self._reason:
            self._reason = reason
            self._logger.log(self._level, message, *args)

    def reset(self) -> None:
        """Log the next message whatever its reason."""
        self._reason = None
