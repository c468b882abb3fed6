"""The client of a cluster: calls that go from member to member until one answers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from meshtrio.client.channel import open_endpoint_channel
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.etcd.authentication import TokenSource
from meshtrio.etcd.cluster import Cluster
from meshtrio.etcd.endpoints import EtcdEndpoint, parse_endpoints
from meshtrio.etcd.errors import (
    EtcdError,
    EtcdUnavailableError,
)
from meshtrio.etcd.listing import list_prefix
from meshtrio.etcd.members import CALL_TIMEOUT, Member, Members
from meshtrio.etcd.values import (
    KeyValue,
    PrefixChange,
    WatchStatus,
    decode_key_value,
    encode_key,
)
from meshtrio.etcd.watch import PrefixWatch
from meshtrio.messages import etcd as messages
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.util.concurrency import require_trio
from meshtrio.util.errors import UsageError
from meshtrio.util.shared_rng import RNG
from meshtrio.util.tls_config import ClientTlsConfig

_log = logging.getLogger("meshtrio.etcd")

_MAX_MESSAGE_LENGTH = 16 * 1024 * 1024
"""Bytes of the longest response. etcd's values are at most 1.5 MiB by default, and pages and
fragments of watches are split to fit."""


class EtcdClient:
    """Calls a cluster of etcd; `open_client` makes it. Any number of tasks may use it.

    Methods raise `EtcdUnavailableError` after each member had `CALL_TIMEOUT` to answer; an error of
    etcd's own is raised at once. A put or delete that a member has not answered in time was sent to
    another one, and the first may still process it when it continues, after later writes; who needs
    to know watches the keys.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        """Makes the calls, for the parts of this package."""

    @property
    def preferred_endpoint(self) -> str:
        """The endpoint of the member that is called first, as it was given to `open_client`."""
        return self.cluster.members.preferred.url

    # -- keys --------------------------------------------------------------------------------

    async def put(self, key: str, value: bytes, lease: int = 0) -> None:
        """Set the value of a key, and the lease that it ends with; 0 for none.

        Raises:
            EtcdLeaseNotFoundError: There is no such lease any more.
            EtcdError: The call failed.
            UsageError: The key is empty or no valid text.
        """
        request = messages.PutRequest(key=encode_key(key), value=value, lease=lease)
        await self.cluster.call(f"putting {key}", "Put", request)

    async def delete(self, key: str) -> bool:
        """Delete a key.

        Returns:
            Whether it was there; False also if a member deleted it without answering in time.

        Raises:
            EtcdError: The call failed.
            UsageError: The key is empty or no valid text.
        """
        request = messages.DeleteRangeRequest(key=encode_key(key))
        reply = await self.cluster.call(f"deleting {key}", "DeleteRange", request)
        return bool(reply.deleted)

    async def create(self, key: str, value: bytes, lease: int = 0) -> KeyValue | None:
        """Put a key unless it is there, in one step.

        Returns:
            None if it was created, else what is there.

        Raises:
            EtcdLeaseNotFoundError: There is no such lease any more.
            EtcdError: The call failed.
            UsageError: The key is empty or no valid text.
        """
        name = encode_key(key)
        absent = messages.Compare(target=messages.Compare.CREATE_REVISION, key=name)
        absent.create_revision = 0
        put = messages.PutRequest(key=name, value=value, lease=lease)
        request = messages.TxnRequest(
            compare=[absent],
            success=[messages.RequestOperation(put=put)],
            failure=[messages.RequestOperation(range=messages.RangeRequest(key=name))],
        )
        failures: list[EtcdUnavailableError] = []
        reply = await self.cluster.call(f"creating {key}", "Txn", request, failures=failures)
        if reply.succeeded:
            return None
        (stored,) = reply.responses[0].range.keys
        # A member that did not answer in time may have created it.
        is_ours = bool(failures and lease) and (stored.value, stored.lease) == (value, lease)
        return None if is_ours else decode_key_value(stored)

    async def get_prefix(self, prefix: str) -> tuple[list[KeyValue], int]:
        """List the keys with a prefix, all at one revision.

        If no member has a leader it is what a member knows, which may be old; the log says so.

        Returns:
            The keys, and their revision.

        Raises:
            EtcdError: The call failed.
            UsageError: The prefix is no valid text.
        """
        try:
            listing = await list_prefix(self.cluster, prefix)
        except EtcdUnavailableError as exc:
            try:
                listing = await list_prefix(self.cluster, prefix, serializable=True)
            except EtcdError:
                raise exc from None
            _log.warning("%s; using what one member knows, which may be old", exc)
        return listing

    async def watch_prefix(
        self,
        prefix: str,
        on_change: Callable[[PrefixChange], None],
        on_status: Callable[[WatchStatus], None] = lambda status: None,
    ) -> None:
        """Follow the keys with a prefix until cancelled, whatever happens to etcd.

        Args:
            prefix: What the keys begin with; "" for all keys.
            on_change: Called with a snapshot at first, then with changes, and with a snapshot again
                after changes were missed. What it raises ends the watch.
            on_status: Called when changes cease or resume to be received, with each reason, and
                every two seconds, for `lag`.

        Raises:
            UsageError: The prefix is no valid text.
        """
        await PrefixWatch(self.cluster, prefix, on_change, on_status).run()

    # -- leases ------------------------------------------------------------------------------

    async def grant_lease(self, ttl: int) -> tuple[int, int]:
        """Grant a lease; `LeaseKeeper` renews it, too.

        Args:
            ttl: Seconds after which it expires unless it is renewed.

        Returns:
            Its id, and the TTL that etcd has chosen, which may be longer.

        Raises:
            EtcdError: The call failed.
        """
        operation = f"granting a lease of {ttl} s"
        reply = await self.cluster.call(
            operation, "LeaseGrant", messages.LeaseGrantRequest(ttl=ttl)
        )
        if reply.error:
            raise EtcdError(operation, reply.error)
        return reply.id, reply.ttl

    async def revoke_lease(self, lease: int) -> None:
        """Revoke a lease, which deletes its keys.

        Raises:
            EtcdLeaseNotFoundError: There is no such lease any more.
            EtcdError: The call failed.
        """
        request = messages.LeaseRevokeRequest(id=lease)
        await self.cluster.call(f"revoking lease {lease:x}", "LeaseRevoke", request)


@asynccontextmanager
async def open_client(
    endpoints: Sequence[str],
    *,
    tls: ClientTlsConfig | None = None,
    user: str | None = None,
    password: str | None = None,
) -> AsyncIterator[EtcdClient]:
    """Open a client of a cluster of etcd, for the block. Does not wait for a connection.

    Args:
        endpoints: The members, each `http://host:port` or `https://host:port`.
        tls: TLS configuration for https; by default the system's authorities are trusted.
        user: The user to authenticate; None if etcd needs none, or knows the client's certificate.
        password: The user's password.

    Yields:
        The client.

    Raises:
        UsageError: An endpoint has another form, a user has no password, or `tls` is given and no
            endpoint is https.
    """
    require_trio("open_client")
    parsed = parse_endpoints(endpoints)
    if tls is not None and not any(each.is_tls for each in parsed):
        raise UsageError("TLS is configured for etcd, but its endpoints are http://; use https://")
    if (user is None) != (password is None):
        raise UsageError("etcd needs both a user and a password, or neither")
    for endpoint in parsed:
        if not (endpoint.is_tls or endpoint.is_loopback):
            _log.warning("etcd at %s is spoken to without TLS; use https://", endpoint.url)
    async with AsyncExitStack() as stack:
        members = [await _open_member(stack, each, tls) for each in parsed]
        # Clients spread over the members.
        first = RNG.randrange(len(members))
        yield EtcdClient(Cluster(Members(members, first), TokenSource(user, password)))


async def _open_member(
    stack: AsyncExitStack, endpoint: EtcdEndpoint, tls: ClientTlsConfig | None
) -> Member:
    address = endpoint.address
    channel = open_endpoint_channel(
        Endpoint(id=address, address=address),
        traced=False,
        tls=(tls or ClientTlsConfig()) if endpoint.is_tls else None,
        timeouts=Timeouts(handshake=CALL_TIMEOUT),
        max_receive_message_length=_MAX_MESSAGE_LENGTH,
        max_busy_poll=0.0,
    )
    return Member(endpoint.url, await stack.enter_async_context(channel))
