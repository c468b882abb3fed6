"""What peers cost a server: memory, time in the event loop, and abuse, counted by peer.

A limit on one connection bounds nothing if a peer opens a thousand of them, or ever new ones. So a
server has an `Account` for each peer, which its connections share, and which outlives them for a
while. A `Ledger` counts the bytes that one connection's calls hold, and with them those of its
account and of the process.

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

from meshtrio.contract import MESH_FORWARDED
from meshtrio.rpc.fairness import Share
from meshtrio.rpc.peer import Peer
from meshtrio.wire.budget import Budget
from meshtrio.wire.heads import RequestHead
from meshtrio.wire.limits import Limits

CALL_COST = 16 * 1024
"""Bytes that a call with its handler takes at least."""
_MAX_ACCOUNTS = 4096
"""Accounts without a connection or call that are kept."""
_MANY = 10
"""Processes of one user that may use up their budget of resets at once, and connections of one peer
that may do so with their budgets of frames without content."""
_PART_OF_ONE = 16
"""While the process is over its budget each peer may still have this part of it."""
_REFUSED_FOR = 1.0
"""Seconds for which new connections are refused after abuse; twice as long each time."""
_MAX_REFUSED_FOR = 60.0
_WORK_TIMEOUT = 30.0
"""Seconds that a call waits until others of its peer have let go of enough memory."""

Key = tuple[str, str]
"""A kind of peer, and which one of that kind."""


class Total:
    """The bytes that all peers of all servers of this process make it hold."""

    def __init__(self) -> None:
        self.received = self.working = 0
        self.peak = 0
        """The most that both were together since memory was last given back."""

    @property
    def held(self) -> int:
        return self.received + self.working


PROCESS = Total()


class Reserving(Protocol):
    """A stream that waits until the rest of a large message may be received."""

    def retry_reservation(self) -> bool:
        """Go on if there is room now; false if there is not."""


class Account:
    """One peer of one server."""

    def __init__(self, name: str, limits: Limits, parent: Account | None = None) -> None:
        """`parent`: the account of the user, if the peer is one of several processes of it."""
        self.name = name
        self.limits = limits
        self.is_trusted = False
        """Makes calls for many, and is bound by the limits of the process only."""
        self.calls = 0
        """Calls under way."""
        self.max_calls = max(limits.peer_memory // 2 // CALL_COST, 1)
        """So many use up the peer's part of the memory by being there."""
        self.connections = 0
        self.received = self.working = 0
        """Bytes of both kinds."""
        self.partial = 0
        """Of those received, bytes of frames and header blocks that are not complete."""
        self.share = Share()
        self.resets = Budget(limits.reset_burst, limits.reset_rate)
        self.control = Budget(limits.control_burst * _MANY, limits.control_rate * _MANY)
        self.all_resets = Budget(limits.reset_burst * _MANY, limits.reset_rate * _MANY)
        """Resets by all processes of a user."""
        if parent is not None:
            self.resets.parent = parent.all_resets
        self.large = 0
        """Streams with a message that room was reserved for, until it is taken."""
        self._reserving: OrderedDict[Reserving, None] = OrderedDict()
        self.waiting = trio.lowlevel.ParkingLot()
        """Calls that wait until others let go of what they work with; each lets in the next."""
        self._offences = 0
        self._last_offence = 0.0
        self._refused_until = 0.0

    def is_idle(self, now: float) -> bool:
        """Whether nothing would be lost with the account."""
        busy = self.connections or self.calls or self.received or self.working
        return not busy and now >= self._refused_until

    def is_over(self, kind: str, part: float, size: int = 0) -> str:
        """Which budget it would exceed with `size` more bytes; "" for none.

        Args:
            kind: "received" or "working".
            part: Of the budgets, that may be used.
        """
        limits = self.limits
        held: int = getattr(self, kind) + size
        if not self.is_trusted and held > limits.peer_memory * part:
            return f"peer_memory, {limits.peer_memory} bytes for {self.name}"
        total: int = getattr(PROCESS, kind) + size
        if total > limits.process_memory * part and (
            held > limits.process_memory * part / _PART_OF_ONE
        ):
            return f"process_memory, {limits.process_memory} bytes for all peers"
        return ""

    # -- waiting for room --------------------------------------------------------------------

    def wait_to_reserve(self, stream: Reserving) -> None:
        """Have a stream try again when there may be room for its message, in order."""
        self._reserving[stream] = None

    def stop_reserving(self, stream: Reserving) -> None:
        self._reserving.pop(stream, None)

    def offer_room(self) -> None:
        """There is room that was not there before."""
        if self.waiting:
            self.waiting.unpark()
        while self._reserving:
            stream, _ = self._reserving.popitem(last=False)
            if not stream.retry_reservation():
                self._reserving[stream] = None
                self._reserving.move_to_end(stream, last=False)
                return

    # -- abuse -------------------------------------------------------------------------------

    def note_abuse(self) -> None:
        """Refuse new connections for a while: one was closed for it."""
        now = trio.current_time()
        if now > self._last_offence + _MAX_REFUSED_FOR:
            self._offences = 0
        seconds = min(_REFUSED_FOR * 2**self._offences, _MAX_REFUSED_FOR)
        self._offences += 1
        self._last_offence, self._refused_until = now, now + seconds

    @property
    def refused_for(self) -> float:
        """Seconds for which its new connections are refused from now on; 0 if they are not."""
        return max(self._refused_until - trio.current_time(), 0.0)


class Ledger:
    """The bytes that the calls of one peer on one connection hold."""

    __slots__ = ("account", "received", "working")

    def __init__(self, account: Account) -> None:
        self.account = account
        self.received = self.working = 0

    def add_received(self, size: int) -> None:
        """Count bytes that were received, or with a negative size are gone or taken."""
        self.received += size
        self.account.received += size
        PROCESS.received += size
        if size < 0:
            self.account.offer_room()
        elif PROCESS.held > PROCESS.peak:
            PROCESS.peak = PROCESS.held

    def add_partial(self, size: int) -> bool:
        """Count bytes of a frame that is not complete; false if the peer has too much of that."""
        account = self.account
        account.partial += size
        self.add_received(size)
        over = size > 0 and account.partial > account.limits.peer_memory // 2
        return account.is_trusted or not over

    def add_working(self, size: int) -> None:
        """Count bytes that calls work with, or with a negative size no longer do."""
        self.working += size
        self.account.working += size
        PROCESS.working += size
        if size < 0:
            self.account.offer_room()
        elif PROCESS.held > PROCESS.peak:
            PROCESS.peak = PROCESS.held

    @property
    def is_used(self) -> bool:
        return bool(self.received or self.working or self.account.calls)

    def too_much_received(self, size: int = 0, *, part: float = 0.5) -> str:
        """Which budget `size` more received bytes would exceed; "" for none."""
        return self._is_over("received", part, size)

    def too_much_work(self, *, part: float = 0.5) -> str:
        """Which budget the calls exceed by what they work with; "" for none."""
        return self._is_over("working", part, 0)

    async def wait_to_work(self) -> None:
        """Wait until calls work with less than half of the budgets.

        Raises ResourceExhaustedError if that takes too long: a caller may wait for a call before it
        reads the reply of another, which would wait for ever.
        """
        waiting, budget = self.account.waiting, self.too_much_work()
        try:
            with trio.move_on_after(_WORK_TIMEOUT):
                while budget:
                    await waiting.park()
                    budget = self.too_much_work()
        finally:
            if not budget:
                waiting.unpark()
        if budget:
            raise purerpc.ResourceExhaustedError(
                "the call waited for memory without success: others' requests and unread replies "
                f"use too much of {budget}"
            )

    def _is_over(self, kind: str, part: float, size: int) -> str:
        account = self.account
        limit = account.limits.connection_memory
        held: int = getattr(self, kind) + size
        if not account.is_trusted and held > limit * part:
            return f"connection_memory, {limit} bytes"
        return account.is_over(kind, part, size)


class RefusedForAbuseError(Exception):
    """New connections of a peer are refused; the text says for how long, and why."""


class Accounts:
    """The accounts of one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._accounts: OrderedDict[Key, Account] = OrderedDict()
        self._clients: dict[str | bytes, Account] = {}
        """By how the gateway describes them."""

    def of(self, peer: Peer, *, trusted: bool = False) -> Account:
        """Return the account of a peer, made when it is first seen."""
        kind, name = key = _key_of(peer)
        if trusted:
            key = ("trusted", name)
        account = self._accounts.get(key)
        if account is None:
            parent = None
            if kind == "process":
                parent = self._account(("processes of uid", str(peer.uid)))
            account = self._account(key, parent)
            if trusted:
                account.is_trusted, account.max_calls = True, 2**62
        return account

    def check(self, peer: Peer) -> None:
        """Raise RefusedForAbuseError if new connections of a peer are refused for abuse."""
        account = self._accounts.get(_key_of(peer))
        if account is not None and account.refused_for:
            raise RefusedForAbuseError(
                f"new connections of {account.name} are refused for {account.refused_for:.1f} s: "
                "one was closed with ENHANCE_YOUR_CALM"
            )

    def of_client(self, head: RequestHead) -> Account | None:
        """Return the account of the client that a gateway has passed a call on for, if it has."""
        for key, value in reversed(head.metadata):
            if key == MESH_FORWARDED:
                account = self._clients.get(value)
                if account is None:
                    if len(self._clients) >= _MAX_ACCOUNTS:
                        self._clients.clear()
                    account = self._account(("client", _without_port(str(value))))
                    self._clients[value] = account
                return account
        return None

    def _account(self, key: Key, parent: Account | None = None) -> Account:
        account = self._accounts.get(key)
        if account is not None:
            return account
        if len(self._accounts) >= _MAX_ACCOUNTS:
            self._clients.clear()
            now = trio.current_time()
            idle = next((key for key, each in self._accounts.items() if each.is_idle(now)), None)
            if idle is not None:
                del self._accounts[idle]
        account = self._accounts[key] = Account(" ".join(key), self._limits, parent)
        return account


def _key_of(peer: Peer) -> Key:
    if peer.uid is not None:
        if peer.uid in (0, os.geteuid()):
            return "process", str(peer.pid)
        return "user", str(peer.uid)
    if peer.subject or peer.names:
        return "certificate", ", ".join((*peer.attributes, *peer.names))
    return "host", _network(peer.address.rpartition(":")[0].strip("[]"))


def _network(host: str) -> str:
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


def _without_port(forwarded: str) -> str:
    """The last client in a gateway's description, see `Peer.__str__`, without its port."""
    client = unquote(forwarded.rpartition(",")[2].strip())
    address, _, rest = client.partition(" ")
    if client.startswith("uid ") or ":" not in address:
        return client
    if "(without" not in rest and rest:
        return rest  # A client with a certificate may come from anywhere.
    return _network(address.rpartition(":")[0].strip("[]"))
