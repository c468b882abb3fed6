"""What a plugin's processes may use, and as whom they run."""

from __future__ import annotations

import re

import attrs
from attrs.validators import ge, optional

_SHA256 = re.compile(r"[0-9a-f]{64}")


def _check_sha256(_: object, __: object, value: str | None) -> None:
    if value is not None and not _SHA256.fullmatch(value):
        raise ValueError("must be 64 hexadecimal digits in lower case, as sha256sum prints them")


def _check_umask(_: object, __: object, value: int | None) -> None:
    if value is not None and not 0 <= value <= 0o777:
        raise ValueError("must be between 0o000 and 0o777")


def _check_nice(_: object, __: object, value: int | None) -> None:
    if value is not None and not -20 <= value <= 19:
        raise ValueError("must be between -20 and 19")


@attrs.frozen
class Rlimits:
    """setrlimit(2), soft and hard alike, for the process and what it starts."""

    nofile: int | None = attrs.field(default=None, validator=optional(ge(0)))
    """Open files."""
    address_space: int | None = attrs.field(default=None, validator=optional(ge(0)))
    """Bytes."""
    cpu: int | None = attrs.field(default=None, validator=optional(ge(0)))
    """Seconds of CPU time; then it gets SIGXCPU, and SIGKILL a second later."""
    core: int | None = attrs.field(default=None, validator=optional(ge(0)))
    """Bytes of a core file."""


@attrs.frozen
class Containment:
    """In force before the program's first instruction.

    The sockets of a plugin that runs as somebody else are in a folder of its own, and others may
    pass through the runtime dir.
    """

    rlimits: Rlimits = attrs.field(factory=Rlimits)
    """Limits of each of its processes."""
    nice: int | None = attrs.field(default=None, validator=_check_nice)
    """-20 to 19."""
    umask: int | None = attrs.field(default=None, validator=_check_umask)
    """As in `0o077`."""
    user: str | None = None
    """Name or number; its groups come with it, and its `HOME`, `USER` and `LOGNAME` unless `env`
    sets them. For a mesh that runs as root."""
    group: str | None = None
    """Name or number, instead of the user's own."""
    sha256: str | None = attrs.field(default=None, validator=_check_sha256)
    """Of the executable, the first word of `command`, checked before every start: another one is
    not started."""
    memory: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Bytes that the process group may have resident in memory, looked at once a second; it is
    killed above that, which counts as a failure."""

    @property
    def needs_launcher(self) -> bool:
        by_launcher = (self.nice, self.umask, self.user, self.group)
        return self.rlimits != Rlimits() or any(value is not None for value in by_launcher)
