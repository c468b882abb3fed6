"""The static table of header compression, RFC 7541 Appendix A."""

from __future__ import annotations

_NAMES_WITHOUT_VALUE = b"""
    accept-language accept-ranges accept access-control-allow-origin age allow authorization
    cache-control content-disposition content-encoding content-language content-length
    content-location content-range content-type cookie date etag expect expires from host if-match
    if-modified-since if-none-match if-range if-unmodified-since last-modified link location
    max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after server
    set-cookie strict-transport-security transfer-encoding user-agent vary via www-authenticate
"""

STATIC_TABLE: tuple[tuple[bytes, bytes], ...] = (
    (b":authority", b""),
    *((b":method", method) for method in (b"GET", b"POST")),
    *((b":path", path) for path in (b"/", b"/index.html")),
    *((b":scheme", scheme) for scheme in (b"http", b"https")),
    *((b":status", status) for status in b"200 204 206 304 400 404 500".split()),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    *((name, b"") for name in _NAMES_WITHOUT_VALUE.split()),
)
"""Fields by index, of which the first is 1."""
