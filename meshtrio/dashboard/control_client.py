"""Calls of the dashboard to `meshtrio.v1.Control`, at the mesh socket, as those of the CLI."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import purerpc

from meshtrio.client.channel import connect_to
from meshtrio.client.mesh_connection import mesh_socket_endpoint
from meshtrio.client.multicallable import DynamicStub
from meshtrio.dashboard.json_messages import to_json_value
from meshtrio.dashboard.requests import HttpError
from meshtrio.grpc.status import StatusCode, status_code_name
from meshtrio.http2.limits import UNLIMITED
from meshtrio.messages import control, tap

_CONTROL = control.DESCRIPTOR.services_by_name["Control"]
_ALL = 2**32 - 1
_HTTP_STATUSES = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.FAILED_PRECONDITION: 409,
    StatusCode.ABORTED: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}

Query = Mapping[str, str]


@asynccontextmanager
async def control_stub(mesh_socket: Path) -> AsyncIterator[Any]:
    """Open a channel for the block; yields a stub of Control. It connects with the first call."""
    endpoint = mesh_socket_endpoint(mesh_socket)
    async with connect_to(endpoint, max_receive_message_length=UNLIMITED) as channel:
        yield DynamicStub(channel, _CONTROL)


def to_http_error(exc: purerpc.RpcFailedError) -> HttpError:
    """Convert the status of a failed call."""
    code = exc.status.int_value
    return HttpError(
        _HTTP_STATUSES.get(StatusCode(code), 500) if code in list(StatusCode) else 500,
        status_code_name(code),
        exc.status.status_message,
    )


# -- replies as JSON -------------------------------------------------------------------------


async def read(stub: Any, name: str, query: Query) -> dict[str, Any]:
    """Return a reply of Control as JSON values.

    Args:
        stub: A stub of Control.
        name: The name by which the page knows it, such as "tree".
        query: The parameters.

    Raises:
        HttpError: There is no such reply, or a parameter is malformed.
        RpcFailedError: The call has failed.
    """
    if name == "events":
        return await _read_events(stub, query)
    found = _READ_METHODS.get(name)
    if found is None:
        raise HttpError(404, "NOT_FOUND", f"the API has no {name[:100]!r}")
    method, make_request = found
    reply = await getattr(stub, method)(make_request(query), wait_for_ready=False)
    return to_json_value(reply)


async def _read_events(stub: Any, query: Query) -> dict[str, Any]:
    request = control.WatchEventsRequest(
        names=parse_names(query), last=parse_number(query, "last", _ALL)
    )
    return {"events": [to_json_value(each) async for each in stub.WatchEvents(request)]}


def _history_request(query: Query) -> Any:
    return control.GetHistoryRequest(
        names=parse_names(query),
        since=parse_float(query, "since"),
        before=parse_number(query, "before", 0),
    )


_READ_METHODS: dict[str, tuple[str, Any]] = {
    "instances": ("ListInstances", lambda q: control.ListInstancesRequest(names=parse_names(q))),
    "tree": ("GetTree", lambda _: control.GetTreeRequest()),
    "statistics": ("GetStatistics", lambda _: control.GetStatisticsRequest()),
    "services": (
        "ListServiceStates",
        lambda q: control.ListServiceStatesRequest(services=parse_names(q)),
    ),
    "nodes": ("ListNodes", lambda _: control.ListNodesRequest()),
    "execution": ("GetExecution", lambda _: control.GetExecutionRequest()),
    "log-levels": ("GetLogLevels", lambda q: control.GetLogLevelsRequest(names=parse_names(q))),
    "config": ("GetConfig", lambda _: control.GetConfigRequest()),
    "history": ("GetHistory", _history_request),
}


# -- requests of streams ---------------------------------------------------------------------


def events_request(query: Query) -> Any:
    """Return the request of the last `events`, and those to come."""
    return control.WatchEventsRequest(last=parse_number(query, "events", 0), follow=True)


def history_request(query: Query) -> Any:
    """Return the request of changes of lives from now on."""
    return control.WatchHistoryRequest(since=time.time(), follow=True)


def logs_request(query: Query) -> Any:
    """Return the request of the output of the plugins in `logs`."""
    last = parse_number(query, "log_last", 200)
    return control.ReadLogsRequest(names=parse_names(query, "logs"), last=last, follow=True)


def calls_request(query: Query) -> Any:
    """Return the request of the calls of the plugins in `tap`, as they end."""
    wanted = tap.WatchCallsRequest(
        method=query.get("tap_method", ""),
        failed=query.get("tap_failed", "") in ("1", "true"),
        at_least=parse_float(query, "tap_at_least"),
    )
    return control.WatchCallsOfRequest(names=parse_names(query, "tap"), calls=wanted)


# -- parameters ------------------------------------------------------------------------------


def parse_names(query: Query, key: str = "names") -> list[str]:
    """Parse names that are separated by commas; none, for all, if it is missing or "*"."""
    text = query.get(key, "")
    return [] if text == "*" else [name for name in text.split(",") if name]


def parse_number(query: Query, key: str, default: int) -> int:
    """Parse a count from 0 to 2^32 - 1. Raises HttpError."""
    text = query.get(key, "")
    if not text:
        return default
    if text.isascii() and text.isdecimal() and int(text[:20]) <= _ALL:
        return int(text)
    raise HttpError(400, "INVALID_ARGUMENT", f"{key}: must be a whole number, not {text[:50]!r}")


def parse_float(query: Query, key: str) -> float:
    """Parse a number, 0 if it is missing. Raises HttpError."""
    text = query.get(key, "")
    try:
        value = float(text or 0)
    except ValueError:
        value = -1.0
    if 0 <= value < 1e15:
        return value
    raise HttpError(400, "INVALID_ARGUMENT", f"{key}: must be a number, not {text[:50]!r}")
