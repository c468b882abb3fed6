"""Keeps the keys of this node in etcd."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial

import trio

from meshtrio.cluster.own_endpoints import make_own_entries
from meshtrio.config import DiscoveryConfig
from meshtrio.discovery.etcd_entries import EntryError, NodeEntry, make_node_key, parse_entry
from meshtrio.discovery.node_services import StoredEntry
from meshtrio.discovery.registry import Registry
from meshtrio.etcd import EtcdClient, EtcdError, EtcdLeaseNotFoundError, KeyValue, LeaseKeeper
from meshtrio.util.backoff import Backoff
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.log_once import OncePerReasonLogger
from meshtrio.util.shared_rng import RNG
from meshtrio.util.version import VERSION

_log = logging.getLogger("meshtrio.discovery")

_BACKOFF = Backoff(initial=0.1, maximum=5.0, multiplier=2.0, jitter=0.5)
"""Delays between attempts to write to etcd."""
_CLAIM_INTERVAL = 5.0
"""Seconds between attempts to claim a name that another mesh has, unless its key is deleted."""
_MAX_CONCURRENT_WRITES = 16
_FLUSH_TIMEOUT = 1.0
"""Seconds for which the stop of a plugin waits until etcd has deleted its key."""


class Publisher:
    """Claims the name of this node, and keeps the keys of its endpoints."""

    def __init__(
        self,
        config: DiscoveryConfig,
        registry: Registry,
        client: EtcdClient,
        keeper: LeaseKeeper,
        stored: Mapping[str, StoredEntry],
    ) -> None:
        """Publish nothing until `run`; `stored` has this node's keys, as etcd reports them."""
        self.problem = ""
        """Why this node is not registered, or its keys not up to date; "" if they are."""
        self.run_id = secrets.token_hex(8)
        """Identifies the run of this mesh in its node's value."""
        self.claim_event = trio.Event()
        """Set to try at once to claim the name: its key may have been deleted."""
        self._config, self._registry, self._name = config, registry, config.node_name
        self._client, self._keeper, self._stored = client, keeper, stored
        self.since = time.time()
        """The Unix time at which the mesh was started."""
        self._published: dict[str, bytes] = {}
        """The values of keys that were put with the current lease."""
        self._in_flight: dict[str, bytes] = {}
        """The values of keys that are being put."""
        self._disturbed: set[str] = set()
        """Those of them that etcd has reported with other values meanwhile, or as deleted."""
        self._keys_by_service: dict[str, set[str]] = {}
        self._changed = registry.follow_changes()
        self._is_claimed = False
        self._was_claimed = False
        self._is_seen = False
        """Whether etcd has reported the node's key since it was claimed."""
        self._lease: int | None = None
        """The lease to publish with."""
        self._idle = trio.Event()
        """Set when etcd has what the registry has."""
        self._failures = 0
        self._problem_log = OncePerReasonLogger(_log)

    @property
    def is_registered(self) -> bool:
        """Whether the node's key is this mesh's, and its lease valid."""
        return self._is_claimed and self._keeper.lease_id == self._lease is not None

    async def run(self) -> None:
        """Publish until cancelled; the end of the lease deletes the keys."""
        lease = None
        while True:
            lease = await self._keeper.wait_for_lease(other_than=lease)
            try:
                async with open_collapsing_nursery() as nursery:
                    nursery.start_soon(self._cancel_at_next_lease, lease, nursery.cancel_scope)
                    await self._publish_with(lease)
            except EtcdLeaseNotFoundError:
                self._keeper.mark_lost(lease)
            finally:
                self._published.clear()
                self._is_claimed, self._idle = False, trio.Event()

    async def _cancel_at_next_lease(self, lease: int, scope: trio.CancelScope) -> None:
        await self._keeper.wait_for_lease(other_than=lease)
        scope.cancel()

    def on_nodes_changed(self, entry: NodeEntry | None) -> None:
        """Follow the key of this node, as etcd reports it; None if it is gone.

        Somebody may have deleted it, or another mesh have taken it.
        """
        is_own = entry is not None and entry.id == self.run_id
        if entry is None:
            self.claim_event.set()
        if is_own:
            self._is_seen = True
        elif self._is_claimed and self._is_seen and self._lease is not None:
            # With another lease the name is claimed anew.
            self._keeper.mark_lost(self._lease)

    def on_own_keys_changed(self, keys: Iterable[str]) -> None:
        """Compare what etcd reports of this node's keys with what it is to have.

        A write that a member has not answered in time may be executed after a later one.
        """
        if not self._is_claimed:
            return
        for key in keys:
            stored = self._stored.get(key)
            if key in self._in_flight:
                # The put may be executed before or after what is reported.
                is_same = stored is not None and stored.value == self._in_flight[key]
                if stored is None or not is_same or stored.lease != self._keeper.lease_id:
                    self._disturbed.add(key)
                continue
            if stored is None:
                is_expected = self._published.pop(key, None) is None
            else:
                value = stored.value if stored.lease == self._keeper.lease_id else b""
                is_expected = self._published.get(key) == value
                self._published[key] = value
            if not is_expected:
                service = self._get_service(key)
                self._keys_by_service.setdefault(service, set()).add(key)
                self._changed.mark(service)

    def _get_service(self, key: str) -> str:
        return key.removeprefix(f"{self._config.prefix}/").rsplit("/", 2)[0]

    async def flush(self) -> None:
        """Wait until etcd has what the registry has, at most `_FLUSH_TIMEOUT` seconds.

        Returns at once if this node is not registered.
        """
        if self._is_claimed and not self.problem:
            with trio.move_on_after(_FLUSH_TIMEOUT):
                while self._changed.services or not self._idle.is_set():
                    await self._idle.wait()

    # -- the node ------------------------------------------------------------------------------

    async def _publish_with(self, lease: int) -> None:
        """Publish with a lease until it is lost. Raises EtcdLeaseNotFoundError."""
        self._is_claimed = self._is_seen = False
        self._lease = lease
        self._keys_by_service.clear()
        self._changed.services |= set(self._registry.services())
        await self._retry(lease, partial(self._claim, lease))
        self._is_claimed = True
        self.on_own_keys_changed(list(self._stored))  # Somebody may have put some meanwhile.
        while True:
            await self._retry(lease, partial(self._write_changes, lease))
            self._idle.set()
            await self._changed.wait()
            self._idle = trio.Event()

    async def _retry(self, lease: int, write: Callable[[], Awaitable[None]]) -> None:
        """Repeat an operation while the lease lasts. Raises EtcdLeaseNotFoundError."""
        while True:
            try:
                await write()
            except EtcdLeaseNotFoundError:
                raise
            except EtcdError as exc:
                self._set_problem(str(exc), type(exc).__name__)
                self._failures += 1
                await trio.sleep(_BACKOFF.delay(self._failures, RNG))
                if self._keeper.lease_id != lease:
                    raise EtcdLeaseNotFoundError("publishing", "the lease is lost") from None
            else:
                self._failures = 0
                self._set_problem("")
                return

    def _set_problem(self, problem: str, kind: str = "") -> None:
        """Set the problem, "" for none, and log it if there was none of its kind before."""
        self.problem = problem
        if problem:
            effect = "its keys are not up to date" if self._is_claimed else "it is not registered"
            self._problem_log.log(kind or problem, "node %s: %s: %s", self._name, effect, problem)
        else:
            self._problem_log.reset()

    async def _claim(self, lease: int) -> None:
        """Put the node's key; waits while another mesh has the name. Raises EtcdError."""
        name, config = self._name, self._config
        entry = NodeEntry(
            name, config.advertise or "", config.zone, self.run_id, self.since, VERSION
        )
        key, value = make_node_key(config.prefix, name), entry.make_value()
        while True:
            self.claim_event = trio.Event()
            other = await self._client.create(key, value, lease)
            if other is None:
                self._log_claim()
                return
            stored = self._parse_node(key, other)
            if stored is not None and stored.id == self.run_id:  # Put with an earlier lease.
                await self._client.put(key, value, lease)
                self._log_claim()
                return
            self._set_problem(_describe_owner(name, stored))
            with trio.move_on_after(_CLAIM_INTERVAL):
                await self.claim_event.wait()
            if self._keeper.lease_id != lease:
                raise EtcdLeaseNotFoundError("claiming the node", "the lease is lost")

    def _log_claim(self) -> None:
        # The key of an earlier lease may have been there still, or have gone with that.
        _log.info("registered as node %s%s", self._name, " again" if self._was_claimed else "")
        self._was_claimed = True

    def _parse_node(self, key: str, stored: KeyValue) -> NodeEntry | None:
        """Parse the value of a node's key; None if it is none."""
        try:
            entry = parse_entry(self._config.prefix, key, stored.value)
        except EntryError:
            return None
        return entry if isinstance(entry, NodeEntry) else None

    # -- endpoints -----------------------------------------------------------------------------

    async def _write_changes(self, lease: int) -> None:
        """Write what has changed. Raises EtcdError; what was not written stays to be."""
        services = set(self._changed.services)
        puts, deletes = self._compare(services)
        self._changed.services -= services
        limiter = trio.CapacityLimiter(_MAX_CONCURRENT_WRITES)
        errors: list[EtcdError] = []

        async def write(operation: Callable[[], Awaitable[object]]) -> None:
            async with limiter:
                try:
                    await operation()
                except EtcdError as exc:
                    errors.append(exc)

        async with trio.open_nursery() as nursery:
            for key, value in puts.items():
                nursery.start_soon(write, partial(self._put, key, value, lease))
            for key in deletes:
                nursery.start_soon(write, partial(self._delete, key))
        if errors:
            self._changed.services |= services
            lost = [exc for exc in errors if isinstance(exc, EtcdLeaseNotFoundError)]
            raise (lost or errors)[0]

    def _compare(self, services: set[str]) -> tuple[dict[str, bytes], set[str]]:
        """Return the keys to put, with their values, and those to delete."""
        puts, deletes = dict[str, bytes](), set[str]()
        for service in services:
            entries = {}
            if self._registry.has_service(service):
                state = self._registry.resolve(service)
                entries = make_own_entries(service, state, self._config)
            values = {key: entry.make_value() for key, entry in entries.items()}
            before = self._keys_by_service.get(service, set())
            puts |= {k: v for k, v in values.items() if self._published.get(k) != v}
            unwanted = before - values.keys()
            deletes |= {key for key in unwanted if key in self._published or key in self._stored}
            self._keys_by_service[service] = before | values.keys()
        return puts, deletes

    async def _put(self, key: str, value: bytes, lease: int) -> None:
        self._in_flight[key] = value
        try:
            await self._client.put(key, value, lease)
        finally:
            del self._in_flight[key]
        is_certain = key not in self._disturbed
        self._disturbed.discard(key)
        self._published[key] = value if is_certain else b""
        if not is_certain:
            self._changed.mark(self._get_service(key))

    async def _delete(self, key: str) -> None:
        await self._client.delete(key)
        self._published.pop(key, None)


def _describe_owner(name: str, entry: NodeEntry | None) -> str:
    """Describe why a node's name is taken: by the mesh with this entry, None if it is malformed."""
    gateway = ""
    if entry is not None:
        gateway = f", with the gateway {entry.address}" if entry.address else ", without a gateway"
    text = f"another mesh has the name {name!r}{gateway}"
    return f"{text}; set [mesh.discovery] node to another name, or end that mesh"
