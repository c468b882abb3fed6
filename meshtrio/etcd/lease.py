"""Keeps a lease: grants, renews, and grants another one when it is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio

from meshtrio.etcd.client import EtcdClient
from meshtrio.etcd.errors import EtcdError, EtcdLeaseNotFoundError
from meshtrio.etcd.lease_state import LeaseState
from meshtrio.etcd.members import CALL_TIMEOUT, MemberStream
from meshtrio.messages import etcd as messages
from meshtrio.util.backoff import Backoff
from meshtrio.util.log_once import OncePerReasonLogger
from meshtrio.util.record import FrozenRecord
from meshtrio.util.shared_rng import RNG

_log = logging.getLogger("meshtrio.etcd")

_REVOKE_TIMEOUT = 2.0
"""Seconds for which the end of `run` waits to revoke the lease, which else expires by itself."""
_BACKOFF = Backoff(initial=0.1, maximum=2.0, multiplier=2.0, jitter=0.5)
"""Delays between attempts: short, since a lease that is not renewed has only its TTL."""


def read_boot_clock() -> float:
    """Return CLOCK_BOOTTIME, which goes on while the process is stopped or the host suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseStatus(FrozenRecord):
    """The state of a `LeaseKeeper`."""

    lease_id: int | None
    """The lease, None without one."""
    problem: str = ""
    """Why it is not renewed, as a sentence for people; "" if it is."""


class LeaseKeeper:
    """Keeps a lease while `run` runs.

    A lease that was lost is followed by another one, to which keys have to be put again. The old
    one is not revoked, which would delete them in between: a put moves a key to the new lease.
    """

    def __init__(
        self, client: EtcdClient, ttl: int, *, clock: Callable[[], float] = read_boot_clock
    ) -> None:
        """Hold no lease until `run`.

        Args:
            client: The cluster.
            ttl: Seconds after which the lease expires unless it is renewed.
            clock: CLOCK_BOOTTIME in seconds.
        """
        self._client = client
        self._ttl = ttl
        self._clock = clock
        # After a third of the TTL, two members can be silent before the lease expires. A cluster
        # that is merely busy may take a second.
        self._renewal_timeout = min(max(ttl / 6, 1.0), CALL_TIMEOUT)
        self._state = LeaseState()
        self._granted = trio.Event()
        """Set, and replaced, with each lease."""
        self._lost = trio.Event()
        """Set, and replaced, when the lease was lost."""
        self._problem_log = OncePerReasonLogger(_log)
        """Logs each kind of problem once until a renewal succeeds: members fail in turn."""
        self._failures = 0
        self.renewals = 0
        """Number of renewals."""

    @property
    def losses(self) -> int:
        """Number of leases that were lost: revoked, expired, or not renewed in time."""
        has_expired = self._state.granted_id is not None and self.lease_id is None
        return self._state.losses + has_expired

    @property
    def lease_id(self) -> int | None:
        """The lease, None without one.

        The clock is read each time, so that a process which was stopped for longer than the TTL
        gets None before it does anything else.
        """
        return self._state.get_current(self._clock())

    @property
    def expires_at(self) -> float:
        """When the lease expires unless it is renewed, by CLOCK_BOOTTIME."""
        return self._state.expires_at

    def adopt(self, lease: int, expires_at: float) -> None:
        """Keep a lease that this process held before it has executed itself again."""
        now = self._clock()
        self._state.grant(lease, expires_at - now, now)

    async def wait_for_lease(self, other_than: int | None = None) -> int:
        """Wait for a lease other than this one, and return it."""
        while True:
            lease = self.lease_id
            if lease is not None and lease != other_than:
                return lease
            await self._granted.wait()

    def mark_lost(self, lease: int) -> None:
        """Grant another lease, since etcd does not have this one: a put has failed with it.

        Does nothing if there is another one already.
        """
        if self._state.granted_id == lease:
            self._state.lose()
            self._lost.set()
            self._lost = trio.Event()

    async def run(self, on_status: Callable[[LeaseStatus], None] = lambda status: None) -> None:
        """Keep a lease until cancelled, whatever happens to etcd.

        Args:
            on_status: Called with each lease, each reason why there is none or it is not renewed,
                and when it is again. What it raises ends this.

        Cancellation: revokes the lease, which deletes its keys; waits at most two seconds for it.
        """
        try:
            while True:
                try:
                    await self._hold_lease(on_status)
                except EtcdError as exc:
                    self._problem_log.log(type(exc).__name__, "%s; retrying", exc)
                    on_status(LeaseStatus(self.lease_id, str(exc)))
                self._failures += 1
                # Not in the way of another lease if this one was merely revoked.
                await trio.sleep(_BACKOFF.delay(self._failures, RNG))
        finally:
            await self._revoke()

    async def _hold_lease(self, on_status: Callable[[LeaseStatus], None]) -> None:
        """Grant a lease if there is none, and renew it until that fails. Raises EtcdError."""
        self._state.lose_expired(self._clock())
        if self._state.granted_id is None:
            await self._grant()
            on_status(LeaseStatus(self.lease_id))
        operation = f"renewing lease {self._state.granted_id or 0:x}"
        async with self._client.cluster.open_stream(operation, "LeaseKeepAlive") as stream:
            while True:
                await self._renew(stream, operation)
                if self._failures:
                    self._failures = 0
                    self._problem_log.reset()
                    on_status(LeaseStatus(self.lease_id))
                with trio.move_on_after(self._ttl / 3):
                    await self._lost.wait()

    async def _grant(self) -> None:
        sent_at = self._clock()
        lease, ttl = await self._client.grant_lease(self._ttl)
        self._state.grant(lease, ttl, sent_at)
        self._granted.set()
        self._granted = trio.Event()

    async def _renew(self, stream: MemberStream, operation: str) -> None:
        """Renew the lease once.

        Raises:
            EtcdLeaseNotFoundError: The lease is lost.
            EtcdError: The call failed.
        """
        sent_at = self._clock()
        self._state.lose_expired(sent_at)
        lease = self._state.granted_id
        if lease is not None:
            await stream.send(messages.LeaseKeepAliveRequest(id=lease))
            reply = await stream.receive(self._renewal_timeout)
            is_same = self._state.granted_id == lease
            if is_same and self._state.renew(reply.ttl, sent_at, self._clock()):
                self.renewals += 1
                return
        reason = "it has expired, or was revoked"
        raise EtcdLeaseNotFoundError(operation, reason, member=stream.member.url)

    async def _revoke(self) -> None:
        lease = self.lease_id
        self._state.release()
        if lease is None:
            return
        with trio.move_on_after(_REVOKE_TIMEOUT, shield=True):
            try:
                await self._client.revoke_lease(lease)
            except EtcdError as exc:
                _log.info("%s", exc)
