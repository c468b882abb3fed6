"""The values that limits may have."""

from __future__ import annotations

import math
from typing import Any

import pytest

from meshtrio.http2.limits import Limits

LIMITS = Limits()
WINDOWS = ("stream_window", "connection_window")
MINIMUMS = dict.fromkeys(Limits.__slots__, 1) | {
    **dict.fromkeys(WINDOWS, 65_535),
    "max_frame_size": 16_384,
    "max_header_list_size": 1024,
    "absolute_max_header_list_size": 1024,
    "max_send_header_list_size": 1024,
    **dict.fromkeys(("max_message_size", "max_send_message_size"), 0),
    **dict.fromkeys(("control_rate", "reset_rate", "reset_grace"), 0),
}
MAXIMUMS = {**dict.fromkeys(WINDOWS, 2**31 - 1), "max_frame_size": 2**24 - 1}


def change(name: str, value: Any) -> Limits:
    return LIMITS.replace(**{name: value})


@pytest.mark.parametrize(("name", "minimum"), MINIMUMS.items())
def test_a_limit_has_a_least_value(name: str, minimum: int) -> None:
    assert getattr(change(name, minimum), name) == minimum
    with pytest.raises(ValueError, match=f"^'{name}' must be >= {minimum}: {minimum - 1}$"):
        change(name, minimum - 1)
    with pytest.raises(ValueError, match=f"^'{name}' must be >= {minimum}: nan$"):
        change(name, math.nan)


@pytest.mark.parametrize(("name", "maximum"), MAXIMUMS.items())
def test_windows_and_frames_have_a_greatest_size(name: str, maximum: int) -> None:
    assert getattr(change(name, maximum), name) == maximum
    with pytest.raises(ValueError, match=f"^'{name}' must be <= {maximum}: {maximum + 1}$"):
        change(name, maximum + 1)


def test_the_text_of_limits_has_the_order_of_their_arguments() -> None:
    assert repr(LIMITS).startswith("Limits(max_connections=4096, max_connections_per_peer=1024, ")
    assert repr(LIMITS).endswith(", reset_rate=200.0, reset_grace=0.01)")
