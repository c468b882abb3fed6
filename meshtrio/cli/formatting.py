"""Human-readable numbers, times and changes; '-' for values that are none."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

_UNITS = "BKMGTP"
_CHANGE_KINDS = ("added", "removed", "restarted", "scaled", "adjusted")


def format_duration(seconds: float) -> str:
    """`7.4s`, `3m12s`, `5h03m`, `4d02h`."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def format_latency(seconds: float) -> str:
    """`350us`, `1.2ms`, `3.40s`."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f}us"
    return f"{seconds * 1e3:.1f}ms" if seconds < 1 else f"{seconds:.2f}s"


def format_size(count: float) -> str:
    """Bytes as `512B`, `21.3M`; K is 1024."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f}{unit}" if unit == "B" else f"{count:.1f}{unit}"


def format_rate(per_second: float) -> str:
    return f"{per_second:.1f}" if per_second < 100 else f"{per_second:.0f}"


def format_percent(fraction: float) -> str:
    return f"{fraction * 100:.1f}"


def format_time(time: float) -> str:
    """Format a local time, with the date unless it is today; '-' for an invalid time."""
    try:
        then = datetime.fromtimestamp(time)
    except (ValueError, OverflowError, OSError):
        return "-"
    text = f"{then:%H:%M:%S}.{then.microsecond // 1000:03}"
    return text if then.date() == datetime.now().date() else f"{then:%Y-%m-%d} {text}"


def format_count(number: int, singular: str, plural: str = "") -> str:
    """`1 instance`, `2 instances`."""
    return f"{number} {singular}" if number == 1 else f"{number} {plural or singular + 's'}"


def describe_changes(reloaded: Any) -> list[str]:
    """Describe a reload, in one line for each kind of change."""
    named = {kind: getattr(reloaded, kind) for kind in _CHANGE_KINDS}
    lines = [f"{kind} {', '.join(names)}" for kind, names in named.items() if names]
    return lines or ["nothing has changed"]
