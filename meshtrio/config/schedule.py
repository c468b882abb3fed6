"""Schedules in cron's syntax: when a task is run. Pure: the caller passes the time.

Syntax and the changes of daylight saving time are those of Debian's cron, by `cronsim`: a job of
one time a day whose time is skipped runs right after the change, and one whose time comes twice
runs once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
_LOCALTIME = Path("/etc/localtime")


class Schedule:
    """The times of a cron expression in a time zone."""

    def __init__(self, expression: str, timezone: str | None = None) -> None:
        """Parse the expression. `timezone`: a name as Europe/Berlin; None for the local time.

        Raises ValueError, with the field that is wrong, and if there is never a time.
        """
        from cronsim import CronSim, CronSimError  # Most meshes have no schedules.

        self._parse, self._expression = CronSim, expression
        self._zone = _local_zone() if timezone is None else find_zone(timezone)
        try:
            self._parse(expression, datetime.fromtimestamp(0, self._zone))
        except CronSimError as exc:
            raise ValueError(_describe_error(expression, str(exc))) from None
        if next(self.times_after(0), None) is None:
            raise ValueError(f"{expression!r} is never: no date matches all of its fields")

    def times_after(self, time: float) -> Iterator[float]:
        """Yield all times of the schedule after a Unix time, in order."""
        try:
            start = datetime.fromtimestamp(time, self._zone)
            for found in self._parse(self._expression, start):
                yield found.timestamp()
        except (OverflowError, ValueError):  # The end of the calendar, in the year 9999.
            return


def find_zone(name: str) -> ZoneInfo:
    """Return a time zone by its name. Raises ValueError if it is not known here."""
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        text = f"{name!r} is not a time zone of this machine, as Europe/Berlin"
        raise ValueError(f"{text}; the zones are in the package tzdata") from None


def _local_zone() -> tzinfo | None:
    """Return the zone of this machine, as the C library finds it: by $TZ, or /etc/localtime."""
    from zoneinfo import ZoneInfo

    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        if name:
            return find_zone(name)
        with _LOCALTIME.open("rb") as file:
            return ZoneInfo.from_file(file, key="localtime")
    except (ValueError, OSError):
        # Rules such as CET-1CEST, or a machine without a zone: the offset of now.
        return datetime.now().astimezone().tzinfo


def _describe_error(expression: str, text: str) -> str:
    """Describe what is wrong: cronsim names the field, as in "Bad hour"."""
    fields = expression.split()
    names = _FIELDS if len(fields) == 5 else ("second", *_FIELDS)
    if len(fields) != len(names):
        return (
            f"{expression!r} has {len(fields)} fields; it has five, {', '.join(_FIELDS)}, or six, "
            "with seconds first"
        )
    name = text.removeprefix("Bad ")
    if name not in names:
        return f"{expression!r}: {text}"
    position = names.index(name)
    return f"{expression!r}: the {name}, field {position + 1}, cannot be {fields[position]!r}"
