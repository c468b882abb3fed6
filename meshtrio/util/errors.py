"""The exceptions of `meshtrio.errors` that need no purerpc, for the packages that do not either."""

from __future__ import annotations

import errno

RESOURCE_EXHAUSTED_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""errno values that mean that this process or the system is out of resources. Compare trio's
`ACCEPT_CAPACITY_ERRNOS`."""


class MeshtrioError(Exception):
    """Base class of the errors that are not the outcome of a call."""


class ConfigError(MeshtrioError):
    """A config was rejected, before anything was started or changed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        """All that is wrong with the config, each with its file, key and reason."""


class UsageError(MeshtrioError):
    """A call of meshtrio's API with wrong arguments, or in the wrong place."""


class UnknownNameError(UsageError):
    """The mesh has no plugin, group or instance of this name; the text lists those it has."""


for _error in (MeshtrioError, ConfigError, UsageError, UnknownNameError):
    _error.__module__ = "meshtrio.errors"  # Where users find them.


def unwrap_exception_group(exc: BaseException) -> BaseException:
    """Return the single exception within nested groups, or `exc` itself if there are several."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc
