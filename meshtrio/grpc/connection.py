"""An HTTP/2 connection that carries gRPC."""

from __future__ import annotations

from meshtrio.grpc.headers import parse_request_headers, parse_response_headers, parse_trailers
from meshtrio.http2.connection import H2Connection, Role
from meshtrio.http2.limits import Limits
from meshtrio.http2.receiver import HeaderParsers

_PARSERS = HeaderParsers(parse_request_headers, parse_response_headers, parse_trailers)


class GrpcConnection(H2Connection):
    """An `H2Connection` whose events carry `RequestHeaders`, `ResponseHeaders` and `Trailers`."""

    def __init__(self, role: Role, limits: Limits | None = None) -> None:
        """Start a connection; see `H2Connection`."""
        super().__init__(role, _PARSERS, limits)
