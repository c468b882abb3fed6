"""Whether a lease can be relied on: pure, with times in seconds of CLOCK_BOOTTIME."""

from __future__ import annotations


class LeaseState:
    """The lease that a process holds, if it does, and until when at least.

    Times are those at which requests were sent: etcd counts a TTL from when it processes them,
    which is later, so that it keeps the lease longer than this.
    """

    def __init__(self) -> None:
        self._lease_id: int | None = None
        self._expires_at = 0.0
        self.losses = 0
        """Number of leases that were lost."""

    @property
    def granted_id(self) -> int | None:
        """The lease that was granted and not lost, though it may have expired."""
        return self._lease_id

    @property
    def expires_at(self) -> float:
        """When the lease expires unless it is renewed."""
        return self._expires_at

    def get_current(self, now: float) -> int | None:
        """Return the lease, None without one or if it may have expired."""
        return self._lease_id if now < self._expires_at else None

    def grant(self, lease_id: int, ttl: float, sent_at: float) -> None:
        """Hold a lease, which was requested at `sent_at`, for `ttl` seconds."""
        self._lease_id, self._expires_at = lease_id, sent_at + ttl

    def renew(self, ttl: float, sent_at: float, now: float) -> bool:
        """Hold the lease for `ttl` seconds from `sent_at`; 0 if etcd does not have it.

        Returns:
            False if the lease is lost: etcd does not have it, or it may have expired before the
            renewal, when others could have seen its keys gone.
        """
        self.lose_expired(now)
        if ttl <= 0:
            self.lose()
        if self._lease_id is None:
            return False
        self._expires_at = max(self._expires_at, sent_at + ttl)
        return True

    def lose_expired(self, now: float) -> None:
        """Lose the lease if it may have expired."""
        if now >= self._expires_at:
            self.lose()

    def lose(self) -> None:
        """Hold no lease any more, without wanting to."""
        if self._lease_id is not None:
            self.losses += 1
            self.release()

    def release(self) -> None:
        """Hold no lease any more."""
        self._lease_id, self._expires_at = None, 0.0
