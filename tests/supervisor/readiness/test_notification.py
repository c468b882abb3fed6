"""The notifications of sd_notify(3), parsed."""

from __future__ import annotations

import pytest

from meshtrio.supervisor.readiness.notification import Notification, parse_notification


@pytest.mark.parametrize(
    ("datagram", "found"),
    [
        (b"READY=1", Notification(is_ready=True)),
        (b"READY=1\n", Notification(is_ready=True)),
        (b"READY=0\nSTOPPING=yes\nWATCHDOG=2", Notification()),
        (b"STATUS=a=b\nREADY=1", Notification(is_ready=True, status="a=b")),
        (b"STOPPING=1", Notification(is_stopping=True)),
        (b"RELOADING=1\nMONOTONIC_USEC=5\nMAINPID=1\nFDSTORE=1\nX_OWN=\xff", Notification()),
        (b"WATCHDOG=1", Notification(is_alive=True)),
        (b"WATCHDOG=trigger", Notification(has_failed=True)),
        (b"WATCHDOG_USEC=1500000", Notification(watchdog_interval=1.5)),
        (b"WATCHDOG_USEC=0", Notification()),
        (b"EXTEND_TIMEOUT_USEC=2000000", Notification(extension=2.0)),
        (b"EXTEND_TIMEOUT_USEC=18446744073709551615", Notification(extension=18446744073709.551)),
    ],
)
def test_assignments(datagram: bytes, found: Notification) -> None:
    assert parse_notification(datagram) == found


@pytest.mark.parametrize(
    "datagram", [b"", b"\n", b"=", b"=1", b"READY", b"\xff" * 4096, b"\0" * 100, b"\n" * 4096]
)
def test_no_assignments(datagram: bytes) -> None:
    assert parse_notification(datagram) is None


@pytest.mark.parametrize(
    "number", [b"", b"-1", b"1.5", b"x", b"infinity", b" 1", b"1 ", b"9" * 21, "²".encode()]
)
def test_what_is_no_number_is_ignored(number: bytes) -> None:
    datagram = b"EXTEND_TIMEOUT_USEC=" + number + b"\nWATCHDOG_USEC=" + number
    assert parse_notification(datagram) == Notification()


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (b"", ""),
        (b"  ready to serve ", "ready to serve"),
        (b"\x1b[2J\x07\x9b", "\\x1b[2J\\x07\ufffd"),
        ("\u202egnp".encode(), "\\u202egnp"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a\0b\rc", "a\\x00b\\rc"),
        (b"x" * 4000, "x" * 199 + "…"),
        (b"\x1b" * 4000, ("\\x1b" * 50)[:199] + "…"),
    ],
)
def test_a_status_is_short_and_printable(status: bytes, shown: str) -> None:
    found = parse_notification(b"STATUS=" + status)
    assert found is not None
    assert found.status == shown
