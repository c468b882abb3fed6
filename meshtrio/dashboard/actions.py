"""What viewers may have the mesh do, if the config allows it."""

from __future__ import annotations

import json
import logging
from typing import Any

import attrs
import purerpc

from meshtrio.dashboard.control_client import to_http_error
from meshtrio.dashboard.json_messages import to_json_value
from meshtrio.dashboard.requests import JSON, HttpError, Request, Response, json_response
from meshtrio.messages import control
from meshtrio.util.text import escape_unprintable

_log = logging.getLogger("meshtrio.dashboard")

_MAX_TEXT = 200


@attrs.frozen
class _Action:
    method: str
    request: Any
    fields: tuple[str, ...] = ("name",)
    """What the page may set. A reload has no path: that of another file would amount to running any
    program."""


_ACTIONS = {
    "start": _Action("Start", control.StartRequest),
    "stop": _Action("Stop", control.StopRequest),
    "restart": _Action("Restart", control.RestartRequest),
    "drain": _Action("Drain", control.DrainRequest),
    "scale": _Action("Scale", control.ScaleRequest, ("name", "instances")),
    "reload": _Action("Reload", control.ReloadRequest, ()),
    "set-log-level": _Action("SetLogLevel", control.SetLogLevelRequest, ("name", "level")),
}


async def act(stub: Any, name: str, request: Request) -> Response:
    """Have the mesh do something, and wait until it is done.

    Args:
        stub: A stub of Control.
        name: The action, such as "restart".
        request: The request, with the fields of the method's request as JSON.

    Raises:
        HttpError: There is no such action, the request is malformed, or the mesh has refused or
            failed.

    Cancellation:
        Ends the wait only.
    """
    action = _ACTIONS.get(name)
    if action is None:
        raise HttpError(404, "NOT_FOUND", f"there is no action {name[:50]!r}")
    message, shown = _parse(action, request)
    what = escape_unprintable(f"{name} {shown}".strip())
    author = f"session {request.session} from {request.peer}"
    _log.info("dashboard: %s, requested by %s", what, author)
    try:
        reply = await getattr(stub, action.method)(message, wait_for_ready=False)
    except purerpc.RpcFailedError as exc:
        text = escape_unprintable(exc.status.status_message)
        _log.warning("dashboard: %s, requested by %s, has failed: %s", what, author, text)
        raise to_http_error(exc) from None
    _log.info("dashboard: %s, requested by %s, is done", what, author)
    return json_response(to_json_value(reply))


def _parse(action: _Action, request: Request) -> tuple[Any, str]:
    """Return the request for Control, and its fields for the log. Raises HttpError."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != JSON:
        raise HttpError(415, "INVALID_ARGUMENT", f"the content-type has to be {JSON}")
    try:
        values = json.loads(request.body or b"{}")
    except (ValueError, RecursionError) as exc:
        raise HttpError(400, "INVALID_ARGUMENT", f"malformed JSON: {exc}") from None
    if not isinstance(values, dict):
        raise HttpError(400, "INVALID_ARGUMENT", "expected an object")
    for key in values:
        if key not in action.fields:
            names = ", ".join(action.fields) or "none"
            text = f"unknown field {key[:50]!r}; the fields are: {names}"
            raise HttpError(400, "INVALID_ARGUMENT", text)
    try:
        message = action.request(**values)
    except (TypeError, ValueError) as exc:
        raise HttpError(400, "INVALID_ARGUMENT", str(exc)[:_MAX_TEXT]) from None
    return message, " ".join(str(value)[:_MAX_TEXT] for value in values.values())
