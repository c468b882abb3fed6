"""The meshtrio.v1.Logging servicer: the log level of its own process."""

from __future__ import annotations

from typing import Any

import purerpc

from meshtrio.messages import logging as messages
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.util.errors import UsageError
from meshtrio.util.log_level import ProcessLogLevel

_SERVICE = messages.DESCRIPTOR.services_by_name["Logging"]

# The methods have their names from the proto.
# ruff: noqa: N802


class LoggingServicer:
    """Returns and changes the log level of the process that serves it."""

    def __init__(self, level: ProcessLogLevel) -> None:
        self._level = level
        self.service = service_from_descriptor(_SERVICE, self)

    async def GetLevel(self, request: Any) -> Any:
        return messages.GetLevelResponse(level=self._level.name)

    async def SetLevel(self, request: Any) -> Any:
        try:
            self._level.set(request.level)
        except UsageError as exc:
            raise purerpc.InvalidArgumentError(str(exc)) from None
        return messages.SetLevelResponse()
