"""The variables of systemd's protocols, and what is no value for them."""

from __future__ import annotations

import pytest

from meshtrio.systemd.variables import ServiceVariables, take_variables

PID = 4711


@pytest.mark.parametrize(
    ("values", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "4711"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "4712"}, None),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": "1"}, 0.01),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "1_000_000"}, None),
        ({"WATCHDOG_USEC": "1e6"}, None),
        ({"WATCHDOG_USEC": "٣"}, None),
        ({"WATCHDOG_USEC": "9" * 400}, None),
        ({"WATCHDOG_USEC": "18446744073709551615"}, 18446744073709551615 / 2e6),
    ],
)
def test_interval_of_messages_to_the_watchdog(
    values: dict[str, str], interval: float | None
) -> None:
    assert ServiceVariables(values, PID).ping_interval() == interval


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        ({}, (0, [])),
        ({"LISTEN_FDS": "2"}, (0, [])),
        ({"LISTEN_PID": "4712", "LISTEN_FDS": "2"}, (0, [])),
        ({"LISTEN_PID": "-1", "LISTEN_FDS": "2"}, (0, [])),
        ({"LISTEN_PID": "4711"}, (0, [])),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "2"}, (2, [])),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, (2, ["a", "b"])),
        ({"LISTEN_PID": "4711", "LISTEN_FDS": "1000000"}, (1000000, [])),
    ],
)
def test_passed_descriptors(values: dict[str, str], passed: tuple[int, list[str]]) -> None:
    assert ServiceVariables(values, PID).passed_descriptors() == passed


@pytest.mark.parametrize("text", ["", "x", "-1", "1.0", "+1", " 1", "9" * 21])
def test_malformed_number_of_descriptors(text: str) -> None:
    variables = ServiceVariables({"LISTEN_PID": str(PID), "LISTEN_FDS": text}, PID)
    with pytest.raises(ValueError, match="is not a number of descriptors"):
        variables.passed_descriptors()


def test_they_are_removed_from_the_environment_whatever_they_are() -> None:
    ours = {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "x", "LISTEN_PIDFDID": "7", "LISTEN_FDS": "1"}
    environ = {"PATH": "/bin", **ours}
    variables = take_variables(environ, PID)
    assert environ == {"PATH": "/bin"}
    assert variables.values == {name: text for name, text in ours.items() if text}
