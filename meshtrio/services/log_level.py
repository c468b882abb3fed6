"""meshtrio.v1.Logging: from which level on a plugin's process logs."""

from __future__ import annotations

from typing import Any

import purerpc

from meshtrio.errors import UsageError
from meshtrio.levels import ProcessLevel
from meshtrio.messages import logging as messages
from meshtrio.rpc.dynamic import service_of

# The methods have their names from the proto.
# ruff: noqa: N802


class LoggingServicer:
    """Changes the level of the process that it is served in."""

    def __init__(self, level: ProcessLevel) -> None:
        self._level = level
        self.service = service_of(messages.DESCRIPTOR.services_by_name["Logging"], self)

    async def GetLevel(self, request: Any) -> Any:
        return messages.GetLevelResponse(level=self._level.name)

    async def SetLevel(self, request: Any) -> Any:
        try:
            self._level.heed(request.level)
        except UsageError as exc:
            raise purerpc.InvalidArgumentError(str(exc)) from None
        return messages.SetLevelResponse()
