"""What /proc says about processes (proc(5)).

Everything in /proc is bytes: any process, of any user, can give itself a name that is not UTF-8 or
that looks like the rest of an entry. An entry that cannot be read or parsed is left out; it never
affects what is said about other processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import attrs

from meshtrio.errors import OUT_OF_RESOURCES

_NUMBERED = 22
"""How many fields after the name are used, of the 50 that current kernels have."""


@attrs.frozen
class Stat:
    """The parts of `/proc/PID/stat` that are used here."""

    pid: int
    state: str
    """One letter, such as "R" for running or "Z" for a zombie."""
    parent: int
    """The pid of its parent."""
    group: int
    """The id of its process group."""
    session: int
    """The id of its session."""
    ticks: int
    """CPU time in clock ticks, of the process and of the children it has waited for."""
    pages: int
    """Resident memory, in pages."""

    @property
    def alive(self) -> bool:
        """Whether it is neither a zombie nor dead."""
        return self.state not in "ZX"


def parse_stat(content: bytes) -> Stat | None:
    """Parse the content of `/proc/PID/stat`; None if it is malformed.

    The second field is the process's name in parentheses. The name may itself hold spaces,
    parentheses and newlines, so the fields are counted from the last closing parenthesis.
    """
    before, _, after = content.rpartition(b")")
    fields = after.split()
    if not before or len(fields) < _NUMBERED or len(fields[0]) != 1 or not fields[0].isalpha():
        return None
    try:
        return Stat(
            pid=int(before.partition(b"(")[0]),
            state=fields[0].decode("ascii"),
            parent=int(fields[1]),
            group=int(fields[2]),
            session=int(fields[3]),
            ticks=sum(map(int, fields[11:15])),
            pages=int(fields[21]),
        )
    except ValueError:
        return None


def pids() -> list[int]:
    """The processes that can be seen; with `hidepid`, only the user's own.

    Raises:
        OSError: /proc cannot be listed.
    """
    return [int(name) for name in os.listdir(b"/proc") if name.isdigit()]


def stats() -> Iterator[Stat]:
    """Yield the stat of each process that can be read.

    Raises:
        OSError: /proc cannot be listed, or this process is out of descriptors or memory.
    """
    for pid in pids():
        found = stat_of(pid)
        if found is not None:
            yield found


def stat_of(pid: int) -> Stat | None:
    """The stat of one process; None if it has ended, is hidden from us or cannot be parsed.

    Raises:
        OSError: this process is out of descriptors or memory.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return parse_stat(file.read())
    except OSError as exc:
        if exc.errno in OUT_OF_RESOURCES:
            raise
        return None


def resident_pages_of_self() -> int:
    """This process's resident memory in pages.

    Raises:
        OSError: it cannot be read.
    """
    with open("/proc/self/statm", "rb", buffering=0) as file:
        content = file.read()
    try:
        return int(content.split()[1])
    except (ValueError, IndexError):
        raise OSError(f"/proc/self/statm has {content!r}") from None
