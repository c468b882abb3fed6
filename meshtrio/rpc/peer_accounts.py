"""What peers cost a server: memory, time in the event loop, and abuse, counted by peer.

A limit on one connection bounds nothing if a peer opens a thousand of them, or ever new ones. So a
server has an `PeerAccount` for each peer, which its connections share, and which outlives them for
a while. A `ConnectionAccount` counts the bytes that one connection's calls hold, and with them
those of its account and of the process.

Who a peer is: on a Unix socket its user; but of the server's own user and root each process is a
peer, so that one that misbehaves does not lock out the others, which it could kill anyway. On TCP
it is the client's certificate, or its host (an IPv6 host's /64). A gateway's connection is of many
peers: each call counts for the client that the gateway has passed it on for.

Bytes are of two kinds, with half of each budget for either, so that neither can wait for the other:
those received that no handler has taken, and those that calls work with: requests that handlers
have, and replies that are not read.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Protocol
from urllib.parse import unquote

import purerpc
import trio

from meshtrio.contract import FORWARDED_METADATA_KEY
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.http2.limits import Limits
from meshtrio.rpc.fairness import EventLoopShare
from meshtrio.transport.peer import Peer
from meshtrio.util.malloc_tuning import MALLOC_TUNING
from meshtrio.util.token_bucket import TokenBucket

MIN_CALL_MEMORY = 16 * 1024
"""Bytes that a call with its handler takes at least."""
_MAX_ACCOUNTS = 4096
"""Accounts without a connection or call that are kept."""
_SHARED_BUDGET_FACTOR = 10
"""Processes of one user that may use up their budget of resets at once, and connections of one peer
that may do so with their budgets of frames without content."""
_OVERLOAD_PEER_DIVISOR = 16
"""While the process is over its budget each peer may still have this part of it."""
_INITIAL_REFUSAL = 1.0
"""Seconds for which new connections are refused after abuse; twice as long each time."""
_MAX_REFUSAL = 60.0
_MIN_TRIM_SIZE = 16 * 1024 * 1024
"""Bytes that calls no longer hold for which the kernel is given pages back."""
_WORK_TIMEOUT = 30.0
"""Seconds that a call waits until others of its peer have let go of enough memory."""

PeerKey = tuple[str, str]
"""A kind of peer, and which one of that kind."""


class MemoryTotals:
    """The bytes that all peers of all servers of this process make it hold."""

    def __init__(self) -> None:
        self.received = self.working = 0
        self.peak = 0
        """The most that both were together since memory was last given back."""

    @property
    def held(self) -> int:
        return self.received + self.working


PROCESS_MEMORY = MemoryTotals()
"""The bytes that calls hold in this process."""


async def trim_process_memory() -> None:
    """Return freed memory to the kernel if calls hold much less than at their peak."""
    if PROCESS_MEMORY.peak - PROCESS_MEMORY.held >= _MIN_TRIM_SIZE:
        PROCESS_MEMORY.peak = PROCESS_MEMORY.held
        await MALLOC_TUNING.trim()


class ReservationWaiter(Protocol):
    """A stream that waits until the rest of a large message may be received."""

    def retry_reservation(self) -> bool:
        """Go on if there is room now; false if there is not."""


class PeerAccount:
    """One peer of one server."""

    def __init__(self, name: str, limits: Limits, parent: PeerAccount | None = None) -> None:
        """`parent`: the account of the user, if the peer is one of several processes of it."""
        self.name = name
        self.limits = limits
        self.is_trusted = False
        """Makes calls for many, and is bound by the limits of the process only."""
        self.active_calls = 0
        """Calls under way."""
        self.max_active_calls = max(limits.peer_memory // 2 // MIN_CALL_MEMORY, 1)
        """So many use up the peer's part of the memory by being there."""
        self.connections = 0
        self.received = self.working = 0
        """Bytes of both kinds."""
        self.incomplete_size = 0
        """Of those received, bytes of frames and header blocks that are not complete."""
        self.loop_share = EventLoopShare()
        self.reset_bucket = TokenBucket(limits.reset_burst, limits.reset_rate)
        self.control_bucket = TokenBucket(
            limits.control_burst * _SHARED_BUDGET_FACTOR,
            limits.control_rate * _SHARED_BUDGET_FACTOR,
        )
        self.user_reset_bucket = TokenBucket(
            limits.reset_burst * _SHARED_BUDGET_FACTOR, limits.reset_rate * _SHARED_BUDGET_FACTOR
        )
        """Resets by all processes of a user."""
        if parent is not None:
            self.reset_bucket.parent = parent.user_reset_bucket
        self.large_messages = 0
        """Streams with a message that room was reserved for, until it is taken."""
        self._reservation_waiters: OrderedDict[ReservationWaiter, None] = OrderedDict()
        self.work_waiters = trio.lowlevel.ParkingLot()
        """Calls that wait until others let go of what they work with; each lets in the next."""
        self._abuse_count = 0
        self._last_abuse_at = 0.0
        self._refused_until = 0.0

    def is_idle(self, now: float) -> bool:
        """Whether nothing would be lost with the account."""
        busy = self.connections or self.active_calls or self.received or self.working
        return not busy and now >= self._refused_until

    def exceeded_budget(self, kind: str, fraction: float, size: int = 0) -> str:
        """Which budget it would exceed with `size` more bytes; "" for none.

        Args:
            kind: "received" or "working".
            part: Of the budgets, that may be used.
        """
        limits = self.limits
        held: int = getattr(self, kind) + size
        if not self.is_trusted and held > limits.peer_memory * fraction:
            return f"peer_memory, {limits.peer_memory} bytes for {self.name}"
        total: int = getattr(PROCESS_MEMORY, kind) + size
        if total > limits.process_memory * fraction and (
            held > limits.process_memory * fraction / _OVERLOAD_PEER_DIVISOR
        ):
            return f"process_memory, {limits.process_memory} bytes for all peers"
        return ""

    # -- waiting for room --------------------------------------------------------------------

    def add_reservation_waiter(self, stream: ReservationWaiter) -> None:
        """Have a stream try again when there may be room for its message, in order."""
        self._reservation_waiters[stream] = None

    def remove_reservation_waiter(self, stream: ReservationWaiter) -> None:
        self._reservation_waiters.pop(stream, None)

    def wake_waiters(self) -> None:
        """There is room that was not there before."""
        if self.work_waiters:
            self.work_waiters.unpark()
        while self._reservation_waiters:
            stream, _ = self._reservation_waiters.popitem(last=False)
            if not stream.retry_reservation():
                self._reservation_waiters[stream] = None
                self._reservation_waiters.move_to_end(stream, last=False)
                return

    # -- abuse -------------------------------------------------------------------------------

    def record_abuse(self) -> None:
        """Refuse new connections for a while: one was closed for it."""
        now = trio.current_time()
        if now > self._last_abuse_at + _MAX_REFUSAL:
            self._abuse_count = 0
        seconds = min(_INITIAL_REFUSAL * 2**self._abuse_count, _MAX_REFUSAL)
        self._abuse_count += 1
        self._last_abuse_at, self._refused_until = now, now + seconds

    @property
    def refusal_remaining(self) -> float:
        """Seconds for which its new connections are refused from now on; 0 if they are not."""
        return max(self._refused_until - trio.current_time(), 0.0)


class ConnectionAccount:
    """The bytes that the calls of one peer on one connection hold."""

    __slots__ = ("peer_account", "received", "working")

    def __init__(self, peer_account: PeerAccount) -> None:
        self.peer_account = peer_account
        self.received = self.working = 0

    def add_received(self, size: int) -> None:
        """Count bytes that were received, or with a negative size are gone or taken."""
        self.received += size
        self.peer_account.received += size
        PROCESS_MEMORY.received += size
        if size < 0:
            self.peer_account.wake_waiters()
        elif PROCESS_MEMORY.held > PROCESS_MEMORY.peak:
            PROCESS_MEMORY.peak = PROCESS_MEMORY.held

    def add_incomplete(self, size: int) -> bool:
        """Count bytes of a frame that is not complete; false if the peer has too much of that."""
        account = self.peer_account
        account.incomplete_size += size
        self.add_received(size)
        over = size > 0 and account.incomplete_size > account.limits.peer_memory // 2
        return account.is_trusted or not over

    def add_working(self, size: int) -> None:
        """Count bytes that calls work with, or with a negative size no longer do."""
        self.working += size
        self.peer_account.working += size
        PROCESS_MEMORY.working += size
        if size < 0:
            self.peer_account.wake_waiters()
        elif PROCESS_MEMORY.held > PROCESS_MEMORY.peak:
            PROCESS_MEMORY.peak = PROCESS_MEMORY.held

    @property
    def is_in_use(self) -> bool:
        return bool(self.received or self.working or self.peer_account.active_calls)

    def exceeded_receive_budget(self, size: int = 0, *, fraction: float = 0.5) -> str:
        """Which budget `size` more received bytes would exceed; "" for none."""
        return self._exceeded_budget("received", fraction, size)

    def exceeded_work_budget(self, *, fraction: float = 0.5) -> str:
        """Which budget the calls exceed by what they work with; "" for none."""
        return self._exceeded_budget("working", fraction, 0)

    async def wait_for_work_budget(self) -> None:
        """Wait until calls work with less than half of the budgets.

        Raises ResourceExhaustedError if that takes too long: a caller may wait for a call before it
        reads the reply of another, which would wait for ever.
        """
        waiting, budget = self.peer_account.work_waiters, self.exceeded_work_budget()
        try:
            with trio.move_on_after(_WORK_TIMEOUT):
                while budget:
                    await waiting.park()
                    budget = self.exceeded_work_budget()
        finally:
            if not budget:
                waiting.unpark()
        if budget:
            raise purerpc.ResourceExhaustedError(
                "the call waited for memory without success: others' requests and unread replies "
                f"use too much of {budget}"
            )

    def _exceeded_budget(self, kind: str, fraction: float, size: int) -> str:
        account = self.peer_account
        limit = account.limits.connection_memory
        held: int = getattr(self, kind) + size
        if not account.is_trusted and held > limit * fraction:
            return f"connection_memory, {limit} bytes"
        return account.exceeded_budget(kind, fraction, size)


class RefusedForAbuseError(Exception):
    """New connections of a peer are refused; the text says for how long, and why."""


class PeerAccounts:
    """The accounts of one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._accounts: OrderedDict[PeerKey, PeerAccount] = OrderedDict()
        self._clients: dict[str | bytes, PeerAccount] = {}
        """By how the gateway describes them."""

    def for_peer(self, peer: Peer, *, trusted: bool = False) -> PeerAccount:
        """Return the account of a peer, made when it is first seen."""
        kind, name = key = _peer_key(peer)
        if trusted:
            key = ("trusted", name)
        account = self._accounts.get(key)
        if account is None:
            parent = None
            if kind == "process":
                parent = self._get_or_create(("processes of uid", str(peer.uid)))
            account = self._get_or_create(key, parent)
            if trusted:
                account.is_trusted, account.max_active_calls = True, 2**62
        return account

    def check_not_refused(self, peer: Peer) -> None:
        """Raise RefusedForAbuseError if new connections of a peer are refused for abuse."""
        account = self._accounts.get(_peer_key(peer))
        if account is not None and account.refusal_remaining:
            raise RefusedForAbuseError(
                f"new connections of {account.name} are refused for "
                f"{account.refusal_remaining:.1f} s: "
                "one was closed with ENHANCE_YOUR_CALM"
            )

    def for_forwarded_client(self, head: RequestHeaders) -> PeerAccount | None:
        """Return the account of the client that a gateway has passed a call on for, if it has."""
        for key, value in reversed(head.metadata):
            if key == FORWARDED_METADATA_KEY:
                account = self._clients.get(value)
                if account is None:
                    if len(self._clients) >= _MAX_ACCOUNTS:
                        self._clients.clear()
                    account = self._get_or_create(("client", _strip_port(str(value))))
                    self._clients[value] = account
                return account
        return None

    def _get_or_create(self, key: PeerKey, parent: PeerAccount | None = None) -> PeerAccount:
        account = self._accounts.get(key)
        if account is not None:
            return account
        if len(self._accounts) >= _MAX_ACCOUNTS:
            self._clients.clear()
            now = trio.current_time()
            idle = next((key for key, each in self._accounts.items() if each.is_idle(now)), None)
            if idle is not None:
                del self._accounts[idle]
        account = self._accounts[key] = PeerAccount(" ".join(key), self._limits, parent)
        return account


def _peer_key(peer: Peer) -> PeerKey:
    if peer.uid is not None:
        if peer.uid in (0, os.geteuid()):
            return "process", str(peer.pid)
        return "user", str(peer.uid)
    if peer.subject or peer.subject_alt_names:
        return "certificate", ", ".join((*peer.subject_attributes, *peer.subject_alt_names))
    return "host", _network_of_host(peer.address.rpartition(":")[0].strip("[]"))


def _network_of_host(host: str) -> str:
    """The hosts that count as one: a host has as many IPv6 addresses as it likes."""
    import ipaddress  # few plugins listen on TCP

    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 6 and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _strip_port(forwarded: str) -> str:
    """The last client in a gateway's description, see `PeerProcess.__str__`, without its port."""
    client = unquote(forwarded.rpartition(",")[2].strip())
    address, _, rest = client.partition(" ")
    if client.startswith("uid ") or ":" not in address:
        return client
    if "(without" not in rest and rest:
        return rest  # A client with a certificate may come from anywhere.
    return _network_of_host(address.rpartition(":")[0].strip("[]"))
