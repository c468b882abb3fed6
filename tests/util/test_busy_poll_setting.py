"""The maximum time of busy polling, from options and the environment."""

from __future__ import annotations

import os

import pytest

from meshtrio.util.busy_poll_setting import (
    DEFAULT_MAX_BUSY_POLL,
    format_max_busy_poll,
    resolve_max_busy_poll,
)
from meshtrio.util.errors import UsageError

VARIABLE = "MESHTRIO_BUSY_POLL"


@pytest.fixture(autouse=True)
def cpus(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The CPUs that the process may use: two."""
    found = {0, 5}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: found)
    return found


@pytest.mark.parametrize(
    ("option", "expected"),
    [(None, DEFAULT_MAX_BUSY_POLL), (0, 0.0), (0.0002, 0.0002), (0.01, 0.01)],
)
def test_the_option_or_the_default(option: float | None, expected: float) -> None:
    assert resolve_max_busy_poll(option, {}) == expected
    assert resolve_max_busy_poll(option, {VARIABLE: ""}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("off", 0.0), ("0us", 0.0), ("500us", 0.0005), ("0.5ms", 0.0005)),
        *(("10ms", 0.01), ("12.5us", 0.0000125)),
    ],
)
@pytest.mark.parametrize("option", [None, 0.0, 0.001])
def test_the_variable_overrides_the_option(
    text: str, expected: float, option: float | None
) -> None:
    assert resolve_max_busy_poll(option, {VARIABLE: text}) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        *("on", "0.5", "500", "1s", "us", "-5us", "11ms", "nanms", "1e3us", "5 us", "٣us"),
        "1" * 10_000 + "us",
    ],
)
def test_an_invalid_variable_is_refused_by_name_with_the_choices(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_max_busy_poll(None, {VARIABLE: text})
    expected = 'set "off", or the maximum time of a poll, such as "500us" or "0.5ms", up to 10ms'
    assert str(caught.value) == f"{VARIABLE}={text!r}: {expected}"


@pytest.mark.parametrize("option", [-0.1, 0.011, float("nan"), float("inf")])
@pytest.mark.parametrize("variable", ["", "off"])
def test_an_invalid_option_is_refused(option: float, variable: str) -> None:
    with pytest.raises(UsageError, match=r"max_busy_poll is in seconds, from 0 .* to 0\.01"):
        resolve_max_busy_poll(option, {VARIABLE: variable})


def test_a_process_with_one_cpu_never_polls(cpus: set[int]) -> None:
    cpus.remove(0)
    assert resolve_max_busy_poll(0.001, {}) == 0.0
    assert resolve_max_busy_poll(None, {VARIABLE: "1ms"}) == 0.0


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.01, 0.0000125])
def test_a_maximum_is_formatted_as_it_is_parsed(seconds: float) -> None:
    text = format_max_busy_poll(seconds)
    assert resolve_max_busy_poll(None, {VARIABLE: text}) == pytest.approx(seconds)
