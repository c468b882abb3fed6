"""Who a request comes from: Host, Origin, cookies and tokens. Pure."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

import attrs

from meshtrio.config import DashboardConfig

_COOKIE_VERSION = b"meshtrio dashboard cookie 1\0"
_SESSION_SIZE = 6
"""Bytes of a session's name, which tells viewers apart in the log; the proof is what follows it."""


class RefusedError(Exception):
    """A request that is refused; the text says why, and what to do."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        """Name of the gRPC status that has the same meaning."""


@attrs.frozen
class Gatekeeper:
    """Decides who is let in."""

    config: DashboardConfig
    token: str = attrs.field(repr=False)

    # -- sites -------------------------------------------------------------------------------

    def check_site(self, headers: Mapping[str, str], local_host: str, *, is_page: bool) -> None:
        """Check that a request names this server, and that no other site has caused it.

        Args:
            headers: Those of the request.
            local_host: The address that the client has connected to.
            is_page: Whether it is for the page itself, to which other sites may have links.

        Raises:
            RefusedError: It does not.
        """
        host = headers.get("host", "")
        if not self._is_own_name(_split_host(host), local_host):
            text = "this is not the name of the dashboard; add it to hosts in [mesh.dashboard]"
            raise RefusedError(403, "PERMISSION_DENIED", f"Host {host[:100]!r}: {text}")
        origin = headers.get("origin")
        if origin is not None and not self._is_own_origin(origin, host):
            text = f"requests from {origin[:100]!r} are refused"
            raise RefusedError(403, "PERMISSION_DENIED", text)
        site = headers.get("sec-fetch-site", "none")
        if not is_page and site not in ("same-origin", "none"):
            raise RefusedError(403, "PERMISSION_DENIED", "requests from other sites are refused")

    def check_action(self, headers: Mapping[str, str]) -> None:
        """Check that the dashboard's own page has sent a request that changes something.

        To be called after `check_site`. Raises RefusedError.
        """
        if "origin" not in headers and headers.get("sec-fetch-site") != "same-origin":
            text = "a request that changes something needs an Origin"
            raise RefusedError(403, "PERMISSION_DENIED", text)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            text = "the content-type has to be application/json"
            raise RefusedError(415, "INVALID_ARGUMENT", text)

    def _is_own_name(self, name: str, local_host: str) -> bool:
        address = self.config.address
        names = {"localhost", local_host, *(each.lower() for each in self.config.hosts)}
        if address is not None:
            names.add(address.host.lower())
        return _normalize_host(name) in map(_normalize_host, names)

    def _is_own_origin(self, origin: str, host: str) -> bool:
        scheme, _, rest = origin.partition("://")
        # Without TLS there may be a proxy with TLS in front.
        schemes = ("http", "https") if self.config.tls is None else ("https",)
        return scheme in schemes and rest.lower() == host.lower()

    # -- viewers -----------------------------------------------------------------------------

    @property
    def cookie_name(self) -> str:
        """Name of the cookie; it has the port, since cookies are those of a host."""
        address = self.config.address
        return f"meshtrio-{0 if address is None else address.port}"

    def log_in(self, token: str) -> tuple[str, str]:
        """Return the name of a new session, and the cookie of a viewer who knows the token.

        Raises RefusedError.
        """
        if not hmac.compare_digest(token.encode(errors="replace"), self.token.encode()):
            raise RefusedError(401, "UNAUTHENTICATED", "the token is wrong")
        session = secrets.token_hex(_SESSION_SIZE)
        flags = "; Path=/; HttpOnly; SameSite=Strict"
        if self.config.tls is not None:
            flags += "; Secure"
        return session, f"{self.cookie_name}={session}.{self._prove(session)}{flags}"

    def find_session(self, headers: Mapping[str, str]) -> str:
        """Return the name of the session that a request belongs to. Raises RefusedError."""
        for part in headers.get("cookie", "").replace(",", ";").split(";"):
            name, _, value = part.strip().partition("=")
            session, _, proof = value.partition(".")
            expected = self._prove(session)
            if name == self.cookie_name and hmac.compare_digest(
                proof.encode(errors="replace"), expected.encode()
            ):
                return session
        raise RefusedError(401, "UNAUTHENTICATED", "no valid cookie; open the URL with the token")

    def _prove(self, session: str) -> str:
        data = _COOKIE_VERSION + session.encode(errors="replace")
        return hmac.new(self.token.encode(), data, hashlib.sha256).hexdigest()


def _split_host(host: str) -> str:
    """Return the name of a Host field, without the port; "" if it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or "" if host.isprintable() else ""
    except ValueError:
        return ""


def _normalize_host(host: str) -> str:
    """Return a host in one form of several: IPv4 addresses may be written as IPv6."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower().removesuffix(".")
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
