"""The maximum time of busy polling, from an option and the environment.

The policy that it limits is `meshtrio.transport.busy_poll`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping

from meshtrio.contract import MESHTRIO_BUSY_POLL
from meshtrio.util.errors import UsageError

DEFAULT_MAX_BUSY_POLL = 0.0005
"""Maximum time of a poll, in seconds, if nothing else is set.

A call that is answered later than that would gain little: a wake-up takes 0.01 to 0.1 ms. And a
process that is called 1,000 times a second does not even try to poll.
"""
HIGHEST_MAX_BUSY_POLL = 0.01
"""Highest maximum that can be set, in seconds."""
_DURATION = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(us|ms)"
_SECONDS_PER_UNIT = {"us": 1e-6, "ms": 1e-3}


def resolve_max_busy_poll(option: float | None, environ: Mapping[str, str] = os.environ) -> float:
    """Return the maximum time of a poll in seconds, 0 if there is to be no busy polling.

    It is 0 on a single CPU, where the peer could not run during a poll.

    Args:
        option: The option of the program, in seconds; None for the default.
        environ: The environment, whose MESHTRIO_BUSY_POLL overrides the option.

    Raises:
        UsageError: The variable or the option is invalid.
    """
    if option is None:
        option = DEFAULT_MAX_BUSY_POLL
    elif not is_max_busy_poll(option):
        text = f"max_busy_poll is in seconds, from 0 (no busy polling) to {HIGHEST_MAX_BUSY_POLL:g}"
        raise UsageError(f"{text}, not {option!r}")
    text = environ.get(MESHTRIO_BUSY_POLL, "")
    if text:
        option = _parse(text)
    return option if len(os.sched_getaffinity(0)) > 1 else 0.0


def is_max_busy_poll(seconds: float) -> bool:
    """Return whether a number of seconds may be set; NaN may not."""
    return 0 <= seconds <= HIGHEST_MAX_BUSY_POLL


def format_max_busy_poll(seconds: float) -> str:
    """Return a maximum as MESHTRIO_BUSY_POLL has it."""
    return f"{seconds * 1e6:.3f}us" if seconds else "off"


def _parse(text: str) -> float:
    if text == "off":
        return 0.0
    match = re.fullmatch(_DURATION, text, re.ASCII)
    seconds = float(match[1]) * _SECONDS_PER_UNIT[match[2]] if match else math.inf
    if not is_max_busy_poll(seconds):
        choices = '"off", or the maximum time of a poll, such as "500us" or "0.5ms"'
        highest = f"{HIGHEST_MAX_BUSY_POLL * 1e3:g}ms"
        raise UsageError(f"{MESHTRIO_BUSY_POLL}={text!r}: set {choices}, up to {highest}")
    return seconds
