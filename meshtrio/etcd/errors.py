"""The errors of calls to etcd, and what each of its answers means."""

from __future__ import annotations

from collections.abc import Sequence

import purerpc

from meshtrio.util.errors import MeshtrioError
from meshtrio.util.text import escape_unprintable


class EtcdError(MeshtrioError):
    """A call to etcd failed; the text says which, at which member, why, and what to do."""

    default_hint = ""
    """What to do about errors of this class."""

    def __init__(
        self, operation: str, reason: str, *, member: str = "", hint: str | None = None
    ) -> None:
        where = f"etcd at {member}" if member else "etcd"
        hint = self.default_hint if hint is None else hint
        text = f"{where}: {operation} failed: {reason}"
        super().__init__(escape_unprintable(f"{text}; {hint}" if hint else text))
        self.operation = operation
        """What was attempted, as a phrase: "putting meshtrio/a"."""
        self.reason = reason
        """Why it failed."""
        self.member = member
        """The endpoint of the member that was called; "" if all of them were."""


class EtcdUnavailableError(EtcdError):
    """No member answered; the call may have been processed."""

    default_hint = "check that etcd runs, and its endpoints"


class EtcdNoLeaderError(EtcdUnavailableError):
    """The cluster has no leader, or this member is cut off from it."""

    default_hint = "check that most members of the cluster run and reach each other"


class EtcdAuthError(EtcdError):
    """etcd does not accept the user, the password, or that the user may do this."""

    default_hint = "check the user, the password and the user's roles"


class EtcdTokenError(EtcdAuthError):
    """etcd does not accept a call's token, or that it has none; another token may help."""

    default_hint = "etcd requires a user and password"


class EtcdNoSpaceError(EtcdError):
    """etcd's database has reached its quota: reads work, and nothing can be written."""

    default_hint = (
        "compact and defragment it or raise --quota-backend-bytes, then run `etcdctl alarm disarm`"
    )


class EtcdLeaseNotFoundError(EtcdError):
    """etcd has no such lease: it has expired, or was revoked."""

    default_hint = "grant another one"


class EtcdCompactedError(EtcdError):
    """etcd has discarded the history that was asked for, or has another one."""

    default_hint = "list the keys again"


class EtcdTooLargeError(EtcdError):
    """A response is larger than this client accepts, or a request than etcd does."""

    default_hint = "store a smaller value"


_BY_TEXT: Sequence[tuple[str, type[EtcdError]]] = (
    ("database space exceeded", EtcdNoSpaceError),
    ("lease not found", EtcdLeaseNotFoundError),
    ("revision has been compacted", EtcdCompactedError),
    ("is a future revision", EtcdUnavailableError),  # The member lags behind the others.
    ("no leader", EtcdNoLeaderError),
    ("invalid auth token", EtcdTokenError),
    ("revision of auth store is old", EtcdTokenError),
    ("revision in header is old", EtcdTokenError),
    ("user name is empty", EtcdTokenError),
    ("user name not found", EtcdAuthError),
    ("authentication failed", EtcdAuthError),
    ("permission denied", EtcdAuthError),
    ("request is too large", EtcdTooLargeError),
    ("received a message of", EtcdTooLargeError),
)
"""Errors by a part of the status message. Source: etcd-io/etcd:api/v3rpc/rpctypes/error.go; codes
do not distinguish these, and some differ from version to version."""
_CODE = purerpc.StatusCode
_BY_CODE = {
    _CODE.PERMISSION_DENIED: EtcdAuthError,
    _CODE.UNAUTHENTICATED: EtcdTokenError,
    **dict.fromkeys(
        (
            _CODE.UNAVAILABLE,
            _CODE.DEADLINE_EXCEEDED,
            _CODE.UNKNOWN,
            _CODE.INTERNAL,
            _CODE.CANCELLED,
            _CODE.DATA_LOSS,
            _CODE.UNIMPLEMENTED,
        ),
        EtcdUnavailableError,
    ),
}
"""Errors by status code, if the text is not known. Those that say nothing about the request are the
member's problem, and another one may do better."""


def find_error_class(text: str) -> type[EtcdError] | None:
    """Find the error that a status message or the reason of a cancelled watch is about."""
    return next((kind for part, kind in _BY_TEXT if part in text), None)


def error_from_status(
    error: purerpc.RpcFailedError, operation: str, member: str, channel: str
) -> EtcdError:
    """Return the error for a call that ended with a status other than OK.

    `channel` is the channel's name for the member, which is left out of the reason.
    """
    text = str(error.status.status_message or "") or error.status.status_code.name
    kind = find_error_class(text) or _BY_CODE.get(error.status.status_code, EtcdError)
    text = text.partition("; raise it with")[0]  # This client's limit is fixed.
    for prefix in (f"{channel} is unavailable: ", f"{channel}: "):
        text = text.removeprefix(prefix)
    return kind(operation, text, member=member)


def combine_failures(
    operation: str, failures: Sequence[EtcdUnavailableError]
) -> EtcdUnavailableError:
    """Return the error of a call that no member answered."""
    if len(failures) == 1:
        return failures[0]
    no_leader = any(isinstance(each, EtcdNoLeaderError) for each in failures)
    kind = EtcdNoLeaderError if no_leader else EtcdUnavailableError
    return kind(operation, ", ".join(f"{each.member}: {each.reason}" for each in failures))
