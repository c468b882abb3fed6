"""POST /api/actions/NAME: what viewers may have the mesh do, if its config says so."""

from __future__ import annotations

import logging

import attrs

from meshtrio.dashboard.control_client import ControlClient
from meshtrio.dashboard.json_messages import message_to_plain, to_json
from meshtrio.dashboard.query import parse_object
from meshtrio.dashboard.requests_check import RefusedError

_log = logging.getLogger("meshtrio.dashboard")

MAX_BODY_SIZE = 16 * 1024
_MAX_ACTIONS = 16
"""Maximum number of actions that are under way; some take minutes."""
_MAX_LOGGED = 300


@attrs.frozen
class _Action:
    method: str
    fields: tuple[str, ...]
    """The fields that viewers may set. Not `path` of a reload: another file may run anything."""


_ACTIONS = {
    "start": _Action("Start", ("name",)),
    "stop": _Action("Stop", ("name",)),
    "restart": _Action("Restart", ("name",)),
    "drain": _Action("Drain", ("name",)),
    "scale": _Action("Scale", ("name", "instances")),
    "set-log-level": _Action("SetLogLevel", ("name", "level")),
    "reload": _Action("Reload", ()),
}


class Actions:
    """Carries out what viewers ask for."""

    def __init__(self, client: ControlClient, *, allowed: bool) -> None:
        """Initialize; `allowed` is `control` of the config."""
        self._client = client
        self._allowed = allowed
        self._count = 0
        """Number of actions that are under way."""

    async def act(self, name: str, body: bytes, author: str) -> bytes:
        """Carry out an action, log it, and return the reply of Control as JSON.

        It is carried out to its end even if the viewer goes away meanwhile.

        Raises RefusedError.
        """
        if not self._allowed:
            text = "viewers may not change anything: control is not true in [mesh.dashboard]"
            raise RefusedError(403, "PERMISSION_DENIED", text)
        action = _ACTIONS.get(name)
        if action is None:
            text = f"no such action; choose from {', '.join(_ACTIONS)}"
            raise RefusedError(404, "NOT_FOUND", text)
        values = parse_object(body)
        request = self._client.make_request(action.method, values, action.fields)
        what = " ".join([name, *(str(value)[:_MAX_LOGGED] for value in values.values())])
        if self._count >= _MAX_ACTIONS:
            text = f"{_MAX_ACTIONS} actions of viewers are under way, the maximum"
            raise RefusedError(429, "RESOURCE_EXHAUSTED", text)
        self._count += 1
        try:
            _log.info("%s: %s", author, what)
            reply = await self._client.call(action.method, request)
        except RefusedError as exc:
            _log.warning("%s: %s failed: %s: %s", author, what, exc.code, exc)
            raise
        finally:
            self._count -= 1
        _log.info("%s: %s: done", author, what)
        return to_json(message_to_plain(reply))
