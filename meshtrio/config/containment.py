"""Resource limits and credentials of a plugin's processes."""

from __future__ import annotations

import re

import attrs

from meshtrio.config.validators import at_least, between, require

_is_sha256 = require(
    re.compile(r"[0-9a-f]{64}").fullmatch,
    "must be 64 hexadecimal digits in lower case, as sha256sum prints them",
)


@attrs.frozen
class Rlimits:
    """Resource limits by setrlimit(2), soft and hard, of each process and its children."""

    nofile: int | None = attrs.field(default=None, validator=at_least(0))
    """Maximum number of open file descriptors."""
    address_space: int | None = attrs.field(default=None, validator=at_least(0))
    """Maximum size of the address space, in bytes."""
    cpu: int | None = attrs.field(default=None, validator=at_least(0))
    """Seconds of CPU time, after which the process gets SIGXCPU, and SIGKILL a second later."""
    core: int | None = attrs.field(default=None, validator=at_least(0))
    """Maximum size of a core file, in bytes."""


@attrs.frozen
class Containment:
    """Resource limits and credentials, in force before the program's first instruction.

    The sockets of a plugin that runs as another user are in a folder of its own, and other users
    may traverse the runtime dir.
    """

    rlimits: Rlimits = attrs.field(factory=Rlimits)
    """Resource limits of each process."""
    nice: int | None = attrs.field(default=None, validator=between(-20, 19, "-20 and 19"))
    """Nice value, from -20 to 19."""
    umask: int | None = attrs.field(default=None, validator=between(0, 0o777, "0o000 and 0o777"))
    """File mode creation mask, such as `0o077`."""
    user: str | None = None
    """Name or number of the user that its processes run as, with the user's groups, and its `HOME`,
    `USER` and `LOGNAME` unless `env` sets them. Requires that the mesh run as root."""
    group: str | None = None
    """Name or number of the primary group, instead of the user's own."""
    sha256: str | None = attrs.field(default=None, validator=_is_sha256)
    """SHA-256 of the executable, the first word of `command`. It is checked before each start,
    which fails if it differs."""
    script_sha256: str | None = attrs.field(default=None, validator=_is_sha256)
    """SHA-256 of the script of a command such as `{python} script.py`. It is checked before each
    start, which fails if it differs; and with `start = "fork"` also of what is run."""
    memory: int | None = attrs.field(default=None, validator=at_least(1))
    """Maximum resident memory of the process group, in bytes, checked once a second. A group above
    it is killed, which counts as a failure."""

    @property
    def needs_launcher(self) -> bool:
        """Whether the settings require a launcher process that applies them before exec."""
        unlimited = attrs.evolve(self, sha256=None, script_sha256=None, memory=None)
        return unlimited != Containment()
