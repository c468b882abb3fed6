"""Checks a server by a GET request of HTTP/1.1 (RFC 9112), of whose response only the status line
is read."""

from __future__ import annotations

import re
from contextlib import closing, suppress

import attrs

from meshtrio.config.ready import HttpCheck
from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.probe import SERVING, HealthCheckResult, make_failed_result
from meshtrio.transport.transport import Transport

_MAX_STATUS_LINE_LENGTH = 4096
"""Maximum bytes of a status line."""
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9][0-9])(?: [^\r\n]*)?\r?\n")


@attrs.frozen
class HttpQuery:
    """Sends a request, and judges the status of the response: 200 to 399 is ready."""

    _check: HttpCheck

    async def __call__(self, transport: Transport) -> HealthCheckResult:
        """Make the request on a new connection, which is closed."""
        with closing(transport):
            try:
                await self._send(transport)
                line = await _read_status_line(transport)
            except OSError as exc:
                return make_failed_result(
                    f"it broke the connection ({exc.strerror})", Condition.CLOSING
                )
        if not line:
            return make_failed_result("it closed the connection", Condition.CLOSING)
        found = _STATUS_LINE.match(line)
        if found is None:
            return make_failed_result("its answer is not HTTP/1.1", Condition.FAULTY)
        status = int(found[1])
        if 200 <= status < 400:
            return SERVING
        return HealthCheckResult(True, False, f"it answers GET {self._check.path} with {status}")

    async def _send(self, transport: Transport) -> None:
        """Send the request. Raises OSError."""
        address = self._check.address
        host = f"[{address.host}]" if ":" in address.host else address.host
        request = (
            f"GET {self._check.path} HTTP/1.1\r\nHost: {host}:{address.port}\r\n"
            "User-Agent: meshtrio\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        ).encode("ascii")
        while request:
            sent = transport.try_send([request])
            request = request[sent:]
            if request:
                await transport.wait_writable()


async def _read_status_line(transport: Transport) -> bytes:
    """Read until the end of the status line, or of what may be one. Raises OSError."""
    received = b""
    while b"\n" not in received and len(received) < _MAX_STATUS_LINE_LENGTH:
        data = b""
        with suppress(ConnectionResetError):
            data = await transport.receive(_MAX_STATUS_LINE_LENGTH)
        if not data:
            break
        received += data
    return received
