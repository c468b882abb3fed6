"""Parses the notifications of sd_notify(3). Pure.

A notification is one datagram of lines `NAME=value`. Names that are not known are ignored, as
systemd does: the protocol has more of them, and programs may add their own.
"""

from __future__ import annotations

import attrs

from meshtrio.util.text import escape_unprintable

_MAX_STATUS_LENGTH = 200
"""Maximum characters of a status that are kept."""
_DIGITS = 20
"""Digits of the longest number of microseconds, which has 64 bits."""
_MICROSECONDS = 1e6


@attrs.frozen
class Notification:
    """What a process reports."""

    is_ready: bool = False
    """READY=1: it is ready, or has been reloaded."""
    is_stopping: bool = False
    """STOPPING=1: it is about to exit."""
    status: str | None = None
    """STATUS=: what it is doing, on one printable line; None if it does not say."""
    is_alive: bool = False
    """WATCHDOG=1: it is alive."""
    has_failed: bool = False
    """WATCHDOG=trigger: it has found that it is not, and is to be ended."""
    watchdog_interval: float | None = None
    """WATCHDOG_USEC=: seconds from one WATCHDOG=1 to the next, at most."""
    extension: float | None = None
    """EXTEND_TIMEOUT_USEC=: seconds from now on for which it needs more time."""


def parse_notification(datagram: bytes) -> Notification | None:
    """Parse a datagram; None if no line of it is an assignment."""
    pairs = (line.partition(b"=") for line in datagram.split(b"\n"))
    values = {name: value for name, equals, value in pairs if name and equals}
    if not values:
        return None
    status, watchdog = values.get(b"STATUS"), values.get(b"WATCHDOG")
    return Notification(
        is_ready=values.get(b"READY") == b"1",
        is_stopping=values.get(b"STOPPING") == b"1",
        status=None if status is None else _clean_status(status),
        is_alive=watchdog == b"1",
        has_failed=watchdog == b"trigger",
        watchdog_interval=_parse_microseconds(values.get(b"WATCHDOG_USEC", b"")) or None,
        extension=_parse_microseconds(values.get(b"EXTEND_TIMEOUT_USEC", b"")),
    )


def _clean_status(status: bytes) -> str:
    # Escaping costs time for each character, of which one has 4 bytes at most.
    beginning = status.strip()[: 4 * (_MAX_STATUS_LENGTH + 1)]
    text = escape_unprintable(beginning.decode("utf-8", "replace").strip())
    return text if len(text) <= _MAX_STATUS_LENGTH else text[: _MAX_STATUS_LENGTH - 1] + "…"


def _parse_microseconds(digits: bytes) -> float | None:
    """Return seconds; None if it is not a number."""
    if not digits.isdigit() or len(digits) > _DIGITS:
        return None
    return int(digits) / _MICROSECONDS
