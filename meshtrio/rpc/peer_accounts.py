"""The resources that peers use on a server: memory, time of the event loop, and abuse.

A limit on one connection bounds nothing if a peer opens a thousand of them, or one after another.
So a server has a `PeerAccount` for each peer, which its connections share and which outlives them
for a while. A `ConnectionAccount` counts the bytes that the calls of one connection hold, and adds
them to the totals of its peer and of the process.

A peer is a user on a Unix socket, except that each process of the server's own user and of root is
a peer of its own: one that misbehaves must not lock out others. On TCP it is a client certificate,
or else a host (of an IPv6 host, its /64). The connection of a proxy is of many peers: each call
counts for the client that the proxy has forwarded it for.

Bytes are of two kinds, each with half of every budget, so that neither can wait for the other:
"received" are those that no handler has taken; "working" are requests that handlers have and
replies that are not read.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

import purerpc
import trio

from meshtrio.contract import FORWARDED_METADATA_KEY
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.http2.limits import Limits
from meshtrio.rpc.connection_limiter import ConnectionRejectedError
from meshtrio.rpc.fairness import EventLoopShare
from meshtrio.transport.peer import Peer
from meshtrio.util.malloc_tuning import MALLOC_TUNING
from meshtrio.util.record import Record
from meshtrio.util.token_bucket import TokenBucket

MIN_CALL_MEMORY = 16 * 1024
"""Minimum size of a call with its handler, in bytes."""
_MAX_ACCOUNTS = 4096
"""Number of accounts from which on idle ones are dropped."""
_MAX_CLIENT_ACCOUNTS = 1024
"""Number of a proxy's client accounts that a connection keeps while they are not in use."""
_SHARED_BUDGET_FACTOR = 10
"""Ratio of a budget of all processes of a user, or all connections of a peer, to a single one."""
_OVERLOAD_PEER_DIVISOR = 16
"""Divisor of the process budget that each peer may use while the process is over its budget."""
_INITIAL_REFUSAL = 1.0
"""Seconds for which new connections are refused after abuse; it doubles each time."""
_MAX_REFUSAL = 60.0
_MIN_TRIM_SIZE = 16 * 1024 * 1024
"""Size of memory that calls have released, in bytes, from which on it is trimmed."""
_WORK_TIMEOUT = 30.0
"""Seconds for which a call waits until others of its peer have released enough memory."""

PeerKey = tuple[str, str]
"""A kind of peer, and its name within that kind."""


_FRACTION_TEXTS = {1.0: "", 0.5: "half of ", 0.25: "a quarter of ", 0.125: "an eighth of "}


class BudgetSetting(Record):
    """The setting that a memory budget comes from, for errors."""

    __slots__ = ("name", "ratio")

    def __init__(self, name: str, ratio: float = 1.0) -> None:
        self.name = name
        """The name of the setting, as users write it."""
        self.ratio = ratio
        """Ratio of the budget to the value of the setting: 1, 0.5 or 0.25."""

    def describe(self, budget: int, fraction: float, whose: str) -> str:
        """Return the bytes of a fraction (1, 0.5 or 0.25) of the budget, and the setting."""
        share = _FRACTION_TEXTS[fraction * self.ratio]
        return f"{int(budget * fraction)} bytes for {whose} ({share}{self.name})"


_CONNECTION_MEMORY, _PEER_MEMORY, _PROCESS_MEMORY = map(
    BudgetSetting, ("connection_memory", "peer_memory", "process_memory")
)


class BudgetSettings:
    """The settings of a server's memory budgets; by default those of `Limits`."""

    __slots__ = ("connection", "peer", "process")

    def __init__(
        self,
        connection: BudgetSetting = _CONNECTION_MEMORY,
        peer: BudgetSetting = _PEER_MEMORY,
        process: BudgetSetting = _PROCESS_MEMORY,
    ) -> None:
        self.connection = connection
        """Of the budget of a connection."""
        self.peer = peer
        """Of the budget of a peer."""
        self.process = process
        """Of the budget of the process."""


class MemoryTotals:
    """The bytes that the calls of all servers of this process hold."""

    __slots__ = ("peak", "received", "reserved", "working")

    def __init__(self) -> None:
        self.received = 0
        self.reserved = 0
        """The part of `received` that is of large messages for which room was reserved."""
        self.working = 0
        self.peak = 0
        """The maximum of both together since memory was last trimmed."""

    @property
    def held(self) -> int:
        """The bytes of both kinds."""
        return self.received + self.working


PROCESS_MEMORY = MemoryTotals()
"""The bytes that calls hold in this process."""


async def trim_process_memory() -> None:
    """Return freed memory to the kernel if calls hold much less than at their peak."""
    if PROCESS_MEMORY.peak - PROCESS_MEMORY.held >= _MIN_TRIM_SIZE:
        PROCESS_MEMORY.peak = PROCESS_MEMORY.held
        await MALLOC_TUNING.trim()


if TYPE_CHECKING:  # Making a Protocol would delay the start of plugins.

    class ReservationWaiter(Protocol):
        """A stream that waits for room for the rest of a large message."""

        def retry_reservation(self) -> bool: ...


class PeerAccount:
    """The resources that one peer uses on one server."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        budget_settings: BudgetSettings,
        parent: PeerAccount | None = None,
    ) -> None:
        """Open an account; `parent` is that of the user if the peer is one of its processes."""
        self.name = name
        self.limits = limits
        self.budget_settings = budget_settings
        self.is_trusted = False
        """Whether the peer is a proxy for many clients, bound by the limits of the process only."""
        self.active_calls = 0
        """Number of open calls."""
        self.max_active_calls = max(limits.peer_memory // 2 // MIN_CALL_MEMORY, 1)
        """Number of calls whose minimum size uses up the peer's memory."""
        self.connections = 0
        self.received = self.reserved = self.working = 0
        self.incomplete_size = 0
        """Size of incomplete frames and header blocks, in bytes, which is part of `received`."""
        self.loop_share = EventLoopShare()
        self.reset_bucket = TokenBucket(limits.reset_burst, limits.reset_rate)
        factor = _SHARED_BUDGET_FACTOR
        self.control_bucket = TokenBucket(
            limits.control_burst * factor, limits.control_rate * factor
        )
        self.user_reset_bucket = TokenBucket(
            limits.reset_burst * factor, limits.reset_rate * factor
        )
        """Limits the resets of all processes of a user."""
        if parent is not None:
            self.reset_bucket.parent = parent.user_reset_bucket
        self.large_messages = 0
        """Number of streams with a reservation for a large message, until it is taken."""
        self.reservation_waiters: OrderedDict[ReservationWaiter, None] = OrderedDict()
        """Streams that retry their reservation when there may be room, in order."""
        self.work_waiters = trio.lowlevel.ParkingLot()
        """Calls that wait for working memory; each one that continues wakes the next."""
        self.work_timeout = _WORK_TIMEOUT
        """Seconds that a call waits until others have released enough memory."""
        self.initial_refusal, self.max_refusal = _INITIAL_REFUSAL, _MAX_REFUSAL
        """Seconds for which new connections are refused after abuse, the first time and at most."""
        self._abuse_count = 0
        self._last_abuse_at = 0.0
        self._refused_until = 0.0

    def is_idle(self, now: float) -> bool:
        """Return whether the account can be dropped."""
        busy = self.connections or self.active_calls or self.received or self.working
        return not busy and now >= self._refused_until

    def exceeded_budget(
        self, held_by_connection: int, held: int, held_by_process: int, fraction: float
    ) -> str:
        """Describe the budget of which the held bytes exceed a fraction; "" for none."""
        limits, settings = self.limits, self.budget_settings
        if not self.is_trusted:
            budget = limits.connection_memory
            if held_by_connection > budget * fraction:
                return settings.connection.describe(budget, fraction, "one connection")
            if held > limits.peer_memory * fraction:
                return settings.peer.describe(limits.peer_memory, fraction, self.name)
        process_budget = limits.process_memory * fraction
        if held_by_process > process_budget and held > process_budget / _OVERLOAD_PEER_DIVISOR:
            return settings.process.describe(limits.process_memory, fraction, "all peers")
        return ""

    def wake_waiters(self) -> None:
        """Wake waiting calls and streams, because memory was released."""
        if self.work_waiters:
            self.work_waiters.unpark()
        while self.reservation_waiters:
            stream, _ = self.reservation_waiters.popitem(last=False)
            if not stream.retry_reservation():
                self.reservation_waiters[stream] = None
                self.reservation_waiters.move_to_end(stream, last=False)
                return

    def record_abuse(self) -> None:
        """Refuse new connections for a while, because one was closed for abuse."""
        now = trio.current_time()
        if now > self._last_abuse_at + self.max_refusal:
            self._abuse_count = 0
        seconds = min(self.initial_refusal * 2**self._abuse_count, self.max_refusal)
        self._abuse_count += 1
        self._last_abuse_at, self._refused_until = now, now + seconds

    @property
    def refusal_remaining(self) -> float:
        """Seconds for which new connections are refused from now on; 0 if they are not."""
        return max(self._refused_until - trio.current_time(), 0.0)


class ConnectionAccount:
    """The bytes that the calls of one peer hold on one connection."""

    __slots__ = ("peer_account", "received", "reserved", "working")

    def __init__(self, peer_account: PeerAccount) -> None:
        self.peer_account = peer_account
        self.received = 0
        self.reserved = 0
        """The part of `received` that is of large messages for which room was reserved."""
        self.working = 0

    def add_received(self, size: int, reserved: int = 0) -> None:
        """Count received bytes, and those of them that are reserved; negative ones are released."""
        self.received += size
        self.peer_account.received += size
        PROCESS_MEMORY.received += size
        if reserved:
            self.reserved += reserved
            self.peer_account.reserved += reserved
            PROCESS_MEMORY.reserved += reserved
        if size < 0:
            self.peer_account.wake_waiters()
        elif PROCESS_MEMORY.held > PROCESS_MEMORY.peak:
            PROCESS_MEMORY.peak = PROCESS_MEMORY.held

    def add_incomplete(self, size: int) -> str:
        """Count bytes of incomplete frames; describe the budget that they exceed, "" for none."""
        peer, fraction = self.peer_account, 0.5
        peer.incomplete_size += size
        self.add_received(size)
        budget = peer.limits.peer_memory
        if size <= 0 or peer.is_trusted or peer.incomplete_size <= budget * fraction:
            return ""
        return peer.budget_settings.peer.describe(budget, fraction, peer.name)

    def add_working(self, size: int) -> None:
        """Count bytes that calls work with; a negative size releases them."""
        self.working += size
        self.peer_account.working += size
        PROCESS_MEMORY.working += size
        if size < 0:
            self.peer_account.wake_waiters()
        elif PROCESS_MEMORY.held > PROCESS_MEMORY.peak:
            PROCESS_MEMORY.peak = PROCESS_MEMORY.held

    def exceeded_receive_budget(self) -> str:
        """Describe the budget that the received bytes exceed; "" for none.

        Those of large messages do not count: they were let in one after the other, and what others
        send meanwhile must not fail because of them.
        """
        peer, memory = self.peer_account, PROCESS_MEMORY
        held, held_by_peer = self.received - self.reserved, peer.received - peer.reserved
        return peer.exceeded_budget(held, held_by_peer, memory.received - memory.reserved, 0.5)

    def exceeded_reservation_budget(self, size: int) -> str:
        """Describe the budget that a large message of `size` bytes would exceed; "" for none."""
        peer, in_process = self.peer_account, PROCESS_MEMORY.received + size
        return peer.exceeded_budget(self.received + size, peer.received + size, in_process, 0.25)

    def exceeded_work_budget(self, *, fraction: float = 0.5) -> str:
        """Describe the budget that the working bytes exceed; "" for none."""
        peer = self.peer_account
        return peer.exceeded_budget(self.working, peer.working, PROCESS_MEMORY.working, fraction)

    async def wait_for_work_budget(self) -> None:
        """Wait until calls work with less than half of the budgets.

        Raises:
            ResourceExhaustedError: It took too long. A caller may wait for this call before it
                reads the reply of another one, which would be a deadlock.
        """
        waiting, timeout = self.peer_account.work_waiters, self.peer_account.work_timeout
        budget = self.exceeded_work_budget()
        try:
            with trio.move_on_after(timeout):
                while budget:
                    await waiting.park()
                    budget = self.exceeded_work_budget()
        finally:
            if not budget:
                waiting.unpark()
        if budget:
            raise purerpc.ResourceExhaustedError(
                f"no memory for the call within {timeout:g} s: requests and unread replies of "
                f"other calls exceed {budget}"
            )


class PeerAccounts:
    """The accounts of one server."""

    def __init__(self, limits: Limits, budget_settings: BudgetSettings | None = None) -> None:
        """Create the accounts; errors name the `budget_settings`, by default those of `Limits`."""
        self._limits = limits
        self._budget_settings = budget_settings or BudgetSettings()
        self._accounts: OrderedDict[PeerKey, PeerAccount] = OrderedDict()
        self._clients: dict[str | bytes, PeerAccount] = {}
        """Accounts of forwarded clients, by the metadata value that describes them."""

    def __len__(self) -> int:
        return len(self._accounts)

    def for_peer(self, peer: Peer, *, trusted: bool = False) -> PeerAccount:
        """Return the account of a peer, opened when it is first seen."""
        kind, name = key = _peer_key(peer)
        if trusted:
            key = ("trusted", name)
        is_process = kind == "process"
        parent = self._get_or_create(("processes of uid", str(peer.uid))) if is_process else None
        account = self._get_or_create(key, parent)
        if trusted:
            account.is_trusted, account.max_active_calls = True, 2**62
        return account

    def check_not_refused(self, peer: Peer) -> None:
        """Raise ConnectionRejectedError while new connections of a peer are refused."""
        account = self._accounts.get(_peer_key(peer))
        if account is not None and account.refusal_remaining:
            seconds = f"{account.refusal_remaining:.1f} s"
            why = "one was closed with ENHANCE_YOUR_CALM"
            text = f"new connections of {account.name} are refused for {seconds}: {why}"
            raise ConnectionRejectedError(text)

    def for_forwarded_client(self, headers: RequestHeaders) -> PeerAccount | None:
        """Return the account of the client that a proxy has forwarded a call for, if it has."""
        for key, value in reversed(headers.metadata):
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
        account = PeerAccount(" ".join(key), self._limits, self._budget_settings, parent)
        self._accounts[key] = account
        return account


class ClientAccounts:
    """The accounts of a proxy's clients on one connection, for which each call is charged."""

    def __init__(self, accounts: PeerAccounts, own_account: ConnectionAccount) -> None:
        self._accounts, self._own_account = accounts, own_account
        self._client_accounts: dict[PeerAccount, ConnectionAccount] = {}

    def account_for(self, headers: RequestHeaders) -> ConnectionAccount:
        """Return the account of the client of a call; the proxy's own if it names no client."""
        peer_account = self._accounts.for_forwarded_client(headers)
        if peer_account is None:
            return self._own_account
        account = self._client_accounts.get(peer_account)
        if account is None:
            if len(self._client_accounts) >= _MAX_CLIENT_ACCOUNTS:
                self._client_accounts = {
                    peer: each
                    for peer, each in self._client_accounts.items()
                    if each.received or each.working or peer.active_calls
                }
            account = self._client_accounts[peer_account] = ConnectionAccount(peer_account)
        return account


def _peer_key(peer: Peer) -> PeerKey:
    if peer.uid is not None:
        if peer.is_own_user_or_root:
            return "process", str(peer.pid)
        return "user", str(peer.uid)
    if peer.subject or peer.subject_alt_names:
        return "certificate", ", ".join((*peer.subject_attributes, *peer.subject_alt_names))
    return "host", _network_of_host(peer.address.rpartition(":")[0].strip("[]"))


def _network_of_host(host: str) -> str:
    """Return the network that counts as one host: an IPv6 host may use any address of its /64."""
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
    """Return the last client that a proxy's metadata describes, without its port."""
    client = unquote(forwarded.rpartition(",")[2].strip())
    address, _, rest = client.partition(" ")
    if client.startswith("uid ") or ":" not in address:
        return client
    if "(without" not in rest and rest:
        return rest  # A client with a certificate may have any address.
    return _network_of_host(address.rpartition(":")[0].strip("[]"))
