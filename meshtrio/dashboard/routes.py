"""From a request to a response."""

from __future__ import annotations

import html
import logging
from collections.abc import Mapping

import attrs

from meshtrio.dashboard.actions import MAX_BODY_SIZE, Actions
from meshtrio.dashboard.author import describe_author
from meshtrio.dashboard.control_api import ControlApi
from meshtrio.dashboard.json_messages import to_json
from meshtrio.dashboard.query import parse_query
from meshtrio.dashboard.requests_check import Gatekeeper, RefusedError
from meshtrio.dashboard.static_files import StaticFiles
from meshtrio.dashboard.stream import StreamServer
from meshtrio.transport.http_server import HttpRequest, HttpResponse

_log = logging.getLogger("meshtrio.dashboard")

SECURITY_HEADERS = (
    (
        "content-security-policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    ("cross-origin-embedder-policy", "require-corp"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
)
_NO_STORE = ("cache-control", "no-store")
_JSON = (("content-type", "application/json"), _NO_STORE)
_HTML = (("content-type", "text/html; charset=utf-8"), _NO_STORE)
_EVENTS = (("content-type", "text/event-stream"), _NO_STORE, ("x-accel-buffering", "no"))
_API, _ACTIONS, _ASSETS = "/api/", "/api/actions/", "/assets/"


@attrs.frozen
class Routes:
    """Makes the response to each request."""

    gatekeeper: Gatekeeper
    files: StaticFiles
    api: ControlApi
    stream: StreamServer
    actions: Actions

    async def respond(self, request: HttpRequest) -> HttpResponse:
        """Return the response to a request."""
        try:
            return await self._respond(request)
        except RefusedError as exc:
            if request.path.startswith(_API):
                body = to_json({"code": exc.code, "text": str(exc)})
                return HttpResponse(exc.status, _JSON, body)
            return HttpResponse(exc.status, _HTML, _make_page(exc, request.headers))

    async def _respond(self, request: HttpRequest) -> HttpResponse:
        path, headers = request.path, request.headers
        self.gatekeeper.check_site(headers, request.local[0], is_page=path == "/")
        if path == "/" and (query := parse_query(request.query)).keys() >= {"token"}:
            return await self._log_in(request, query["token"])
        session = self.gatekeeper.find_session(headers)
        if path.startswith(_ACTIONS):
            _require_method(request, "POST")
            self.gatekeeper.check_action(headers)
            body = await request.read_body(MAX_BODY_SIZE)
            author = await describe_author(session, request.peer, request.local)
            try:
                reply = await self.actions.act(path.removeprefix(_ACTIONS), body, author)
            finally:
                self.api.forget()
            return HttpResponse(200, _JSON, reply)
        _require_method(request, "GET", "HEAD")
        if path == f"{_API}stream":
            send = await self.stream.open(parse_query(request.query))
            return HttpResponse(200, _EVENTS, stream=send)
        if path.startswith(_API):
            return HttpResponse(
                200, _JSON, await self.api.read(path.removeprefix(_API), request.query)
            )
        return await self._get_file(path, headers)

    async def _log_in(self, request: HttpRequest, token: str) -> HttpResponse:
        _require_method(request, "GET")
        session, cookie = self.gatekeeper.log_in(token)
        _log.info("%s signed in", await describe_author(session, request.peer, request.local))
        return HttpResponse(303, [("location", "/"), ("set-cookie", cookie), _NO_STORE])

    async def _get_file(self, path: str, headers: Mapping[str, str]) -> HttpResponse:
        name = "index.html" if path == "/" else path.removeprefix(_ASSETS)
        if path == "/" or path.startswith(_ASSETS):
            etag = headers.get("if-none-match", "")
            use_gzip = "gzip" in headers.get("accept-encoding", "")
            found = await self.files.get(name, etag=etag, use_gzip=use_gzip)
            if found is not None:
                return found
        raise RefusedError(404, "NOT_FOUND", "there is no such page")


def _require_method(request: HttpRequest, *methods: str) -> None:
    if request.method not in methods:
        raise RefusedError(405, "UNIMPLEMENTED", f"use {' or '.join(methods)}")


def _make_page(refusal: RefusedError, headers: Mapping[str, str]) -> bytes:
    """Return a page for people that says why they do not get the one that they want."""
    hint, head = "", ""
    if refusal.status == 401:
        hint = "<p>Open the URL that <code>meshtrio dashboard</code> prints on the mesh's machine."
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            # By a link of another site: the browser keeps the cookie back, but not of a reload.
            head = '<meta http-equiv="refresh" content="0; url=/">'
    text = html.escape(str(refusal))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>meshtrio</title>{head}'
        f"</head><body><h1>meshtrio</h1><p>{text}</p>{hint}</body></html>\n"
    ).encode()
