"""The token of a user, which goes with each call."""

from __future__ import annotations

import trio

from meshtrio.etcd.errors import EtcdAuthError, EtcdError
from meshtrio.etcd.members import Member
from meshtrio.grpc.metadata import Metadata
from meshtrio.messages import etcd as messages

_METADATA_KEY = "token"
_NO_AUTH_TEXT = "authentication is not enabled"


class TokenSource:
    """Authenticates a user when a token is needed, for all calls of a client together."""

    def __init__(self, user: str | None, password: str | None) -> None:
        """Without a user there is no token."""
        self._user, self._password = user, password
        self._metadata: Metadata | None = () if user is None else None
        self._lock = trio.Lock()

    @property
    def has_user(self) -> bool:
        """Whether another token can be had."""
        return self._user is not None

    async def get_metadata(self, member: Member) -> Metadata:
        """Return metadata with a token, for which the member is asked if there is none.

        Empty if there is no user, or if etcd does not authenticate users.

        Raises:
            EtcdAuthError: The user or the password is wrong.
            EtcdError: The call failed.
        """
        if self._metadata is None:
            async with self._lock:
                if self._metadata is None:
                    self._metadata = await self._authenticate(member)
        return self._metadata

    def expire(self, metadata: Metadata) -> None:
        """Drop the token that a call was refused with, unless there is another one already."""
        if self.has_user and self._metadata is metadata:
            self._metadata = None

    async def _authenticate(self, member: Member) -> Metadata:
        operation = f"authenticating user {self._user!r}"
        request = messages.AuthenticateRequest(name=self._user, password=self._password)
        try:
            reply = await member.call(operation, "Authenticate", request)
        except EtcdAuthError:
            raise
        except EtcdError as exc:
            if _NO_AUTH_TEXT in exc.reason:
                return ()
            raise
        return ((_METADATA_KEY, reply.token),)
