"""Calls to a cluster, which go from member to member until one answers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import purerpc
import trio

from meshtrio.etcd.authentication import TokenSource
from meshtrio.etcd.errors import (
    EtcdAuthError,
    EtcdTokenError,
    EtcdUnavailableError,
    combine_failures,
)
from meshtrio.etcd.members import CALL_TIMEOUT, Member, Members, MemberStream
from meshtrio.grpc.metadata import Metadata

_log = logging.getLogger("meshtrio.etcd")

_REQUIRE_LEADER: Metadata = (("hasleader", "true"),)
"""Metadata that has a member without a leader refuse a call at once. Source: etcd-io/etcd:
api/v3rpc/rpctypes/metadatafields.go."""


class Cluster:
    """The members of a cluster, called as one user."""

    def __init__(self, members: Members, tokens: TokenSource) -> None:
        self.members = members
        """All members, of which one is preferred."""
        self._tokens = tokens

    async def call(
        self,
        operation: str,
        method: str,
        request: Any,
        *,
        needs_leader: bool = True,
        failures: list[EtcdUnavailableError] | None = None,
    ) -> Any:
        """Call a unary method of one member after another, until one answers.

        Args:
            operation: What is attempted, for errors.
            method: Name of the method.
            request: Its request.
            needs_leader: Whether a member without a leader shall refuse the call.
            failures: Gets the errors of the members that were called before the one that answered.

        Returns:
            The reply.

        Raises:
            EtcdUnavailableError: No member has answered.
            EtcdError: etcd has refused the call.
        """
        failures = [] if failures is None else failures
        for member in self.members.in_order():
            try:
                reply = await self._call_member(member, operation, method, request, needs_leader)
            except EtcdUnavailableError as exc:
                self.members.leave(member)
                failures.append(exc)
                _log.debug("%s", exc)
            else:
                self.members.prefer(member)
                return reply
        raise combine_failures(operation, failures)

    async def _call_member(
        self, member: Member, operation: str, method: str, request: Any, needs_leader: bool
    ) -> Any:
        """Call a member; once more with another token if it refuses the first."""
        metadata = _REQUIRE_LEADER if needs_leader else ()
        with trio.move_on_after(CALL_TIMEOUT):
            token = await self._tokens.get_metadata(member)
            try:
                return await member.call(operation, method, request, metadata + token)
            except EtcdTokenError:
                if not self._tokens.has_user:
                    raise
                self._tokens.expire(token)
            token = await self._tokens.get_metadata(member)
            return await member.call(operation, method, request, metadata + token)
        raise member.make_timeout_error(operation, CALL_TIMEOUT)

    @asynccontextmanager
    async def open_stream(self, operation: str, method: str) -> AsyncIterator[MemberStream]:
        """Open a bidirectional call to the preferred member, for the block.

        A member without a leader refuses it, and ends it when the leader is lost.

        Args:
            operation: What is attempted, for errors.
            method: Name of the method.

        Yields:
            The call. If it fails within the block because of its member, which the error says,
            another one is preferred from then on.

        Raises:
            EtcdError: It could not be opened.
        """
        member = self.members.preferred
        token: Metadata = ()
        try:
            token = await self._get_token(member, operation)
            await member.wait_connected(operation)
            try:
                call = await member.start_stream(method, _REQUIRE_LEADER + token)
            except purerpc.RpcFailedError as exc:
                raise member.make_error(exc, operation) from None
            async with call:
                yield MemberStream(member, operation, call)
        except EtcdAuthError:
            # etcd may say that a watch is not permitted if it does not know the token.
            self._tokens.expire(token)
            raise
        except EtcdUnavailableError:
            self.members.leave(member)
            raise

    async def _get_token(self, member: Member, operation: str) -> Metadata:
        with trio.move_on_after(CALL_TIMEOUT):
            return await self._tokens.get_metadata(member)
        raise member.make_timeout_error(operation, CALL_TIMEOUT)
