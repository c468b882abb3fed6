"""Decides which requests are answered: by their host, origin, fetch metadata and session.

What pages of other sites, and other programs of the same browser, could do:

- Read the page by a name of theirs that resolves to this machine (DNS rebinding): `Host` has to be
  a name of ours.
- Have a browser that is logged in send requests (CSRF): the cookie is SameSite=Strict, `Origin` and
  `Sec-Fetch-Site` have to be ours, and changes need one of them.
- Frame the page (clickjacking), or run a script in it: forbidden by the response headers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

import attrs

from meshtrio.dashboard.access_token import Sessions
from meshtrio.dashboard.requests import HTML, HttpError, Request, Response

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = (
    ("content-security-policy", _POLICY),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
)
"""Headers of all responses."""
_LOGIN_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>meshtrio</title>
<h1>This page needs a token</h1>
<p>Open the address that <code>meshtrio dashboard</code> prints on the machine of the mesh.</p>
</html>
"""
_SAFE_METHODS = ("GET", "HEAD")


@attrs.frozen
class Guard:
    """The rules of one dashboard."""

    sessions: Sessions
    scheme: str
    """http or https."""
    port: int
    """The port that it listens on, which is a part of the cookie's name: all ports of a host share
    their cookies."""
    hosts: Collection[str]
    """The names that `Host` may have, in lower case, in addition to loopback and the address that
    was connected to."""

    @property
    def cookie_name(self) -> str:
        """The name of the cookie."""
        return f"meshtrio-dashboard-{self.port}"

    def admit(self, request: Request) -> Request | Response:
        """Return the request with its session, or a response for one that logs in.

        Raises:
            HttpError: It is refused.
        """
        self._check_host(request)
        if request.method in _SAFE_METHODS and request.path == "/" and "token" in request.query:
            return self._log_in(request)
        self._check_origin(request)
        session = self.sessions.find_session(self._find_cookie(request))
        if session is not None:
            return attrs.evolve(request, session=session)
        if request.path == "/":
            return Response(401, HTML, _LOGIN_PAGE.encode())
        text = "this needs a session: open the address that `meshtrio dashboard` prints"
        raise HttpError(401, "UNAUTHENTICATED", text)

    def _log_in(self, request: Request) -> Response:
        if not self.sessions.accepts_token(request.query["token"]):
            return Response(401, HTML, _LOGIN_PAGE.encode())
        value = f"{self.cookie_name}={self.sessions.make_cookie()}"
        secure = "; Secure" if self.scheme == "https" else ""
        cookie = f"{value}; HttpOnly; SameSite=Strict; Path=/{secure}"
        return Response(303, HTML, b"", (("location", "/"), ("set-cookie", cookie)))

    def _check_host(self, request: Request) -> None:
        text = request.headers.get("host", "")
        host = _split_host(text)
        if host is None or not self._is_own_host(host, request.local_host):
            shown = text[:100] or "no host"
            hint = "add the name to hosts in [mesh.dashboard] if it is meant"
            raise HttpError(421, "PERMISSION_DENIED", f"Host: {shown!r} is not this page's; {hint}")

    def _is_own_host(self, host: str, local_host: str) -> bool:
        if host == "localhost" or host in self.hosts or host == local_host:
            return True
        try:
            # Addresses are not subject to DNS; but only loopback is the same for all machines.
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def _check_origin(self, request: Request) -> None:
        headers = request.headers
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        own = f"{self.scheme}://{headers.get('host', '')}".lower()
        if origin is not None and origin.lower() != own:
            raise HttpError(403, "PERMISSION_DENIED", f"Origin: {origin[:100]!r} is not this page")
        is_navigation = headers.get("sec-fetch-mode") == "navigate" and request.path == "/"
        if site not in (None, "same-origin", "none") and not (is_navigation and not origin):
            text = f"a page of another site may not request this (Sec-Fetch-Site: {site[:30]!r})"
            raise HttpError(403, "PERMISSION_DENIED", text)
        if request.method in _SAFE_METHODS:
            return
        if origin is None and site != "same-origin":
            raise HttpError(403, "PERMISSION_DENIED", "changes are for this page's own requests")

    def _find_cookie(self, request: Request) -> str:
        for part in request.headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.cookie_name:
                return value
        return ""


def _split_host(text: str) -> str | None:
    """Return the host of "host[:port]" in lower case, without brackets; None if malformed."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        port = port.removeprefix(":") if bracket else "malformed"
    else:
        host, _, port = text.partition(":")
    is_port = not port or (port.isascii() and port.isdecimal())
    return host.lower().removesuffix(".") if host and is_port else None
