"""A mesh as a node: its tasks in etcd, from start to end."""

from __future__ import annotations

import logging

import attrs
import trio

from meshtrio.cluster.follower import Follower
from meshtrio.cluster.password import read_password
from meshtrio.cluster.publisher import Publisher
from meshtrio.config import DiscoveryConfig
from meshtrio.discovery.etcd_entries import NodeEntry
from meshtrio.discovery.node_services import NodeServices
from meshtrio.discovery.registry import Registry
from meshtrio.etcd import LeaseKeeper, LeaseStatus, open_client
from meshtrio.util.concurrency import open_collapsing_nursery

_log = logging.getLogger("meshtrio.discovery")

_FIRST_SNAPSHOT_TIMEOUT = 1.0
"""Seconds for which the start of a mesh waits for etcd."""


@attrs.frozen(kw_only=True)
class SavedNode:
    """What a node hands over in an upgrade."""

    run_id: str
    since: float
    lease: int | None = None
    expires_at: float = 0.0
    """When the lease expires unless it is renewed, by CLOCK_BOOTTIME."""


class Node:
    """This mesh as one of several; `run` owns its tasks."""

    def __init__(
        self, config: DiscoveryConfig, registry: Registry, adopted: SavedNode | None = None
    ) -> None:
        """Do nothing until `run`; `adopted` is what was handed over in an upgrade."""
        self.config = config
        self._adopted = adopted
        self.services = NodeServices(config.prefix, config.node_name, config.zone, config.peer_tls)
        """The nodes, and their services."""
        self.follower = Follower(self.services, registry, config.prefix)
        self.lease_status = LeaseStatus(None)
        """The state of this node's lease."""
        self.keeper: LeaseKeeper | None = None
        self.publisher: Publisher | None = None
        self._registry = registry

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register, and follow others, until cancelled; then revoke the lease.

        Has started once it knows the services of others, or after a second without etcd.

        Raises:
            UsageError: The password cannot be read, or TLS files cannot be used.
        """
        config = self.config
        client = open_client(
            config.etcd, tls=config.tls, user=config.user, password=read_password(config)
        )
        async with client as etcd:
            self.keeper = LeaseKeeper(etcd, config.ttl)
            self.publisher = Publisher(config, self._registry, etcd, self.keeper, self.services.own)
            if self._adopted is not None:
                self._adopt(self._adopted, self.keeper, self.publisher)
            self._registry.withdraw = self.publisher.flush
            self.follower.on_own_keys_changed = self.publisher.on_own_keys_changed
            self.follower.on_nodes_changed = self._on_nodes_changed
            async with open_collapsing_nursery() as nursery:
                nursery.start_soon(self.keeper.run, self._on_lease_status)
                nursery.start_soon(self.publisher.run)
                nursery.start_soon(self.follower.run, etcd)
                # So that what starts with the mesh finds services, if etcd is there.
                with trio.move_on_after(_FIRST_SNAPSHOT_TIMEOUT):
                    await self.follower.has_snapshot.wait()
                task_status.started()

    def _adopt(self, saved: SavedNode, keeper: LeaseKeeper, publisher: Publisher) -> None:
        publisher.run_id, publisher.since = saved.run_id, saved.since
        if saved.lease is not None:
            keeper.adopt(saved.lease, saved.expires_at)
            self.lease_status = LeaseStatus(saved.lease)

    def save(self) -> SavedNode | None:
        """Return what an upgrade hands over: other nodes see no change of this one."""
        if self.publisher is None or self.keeper is None:
            return None
        return SavedNode(
            run_id=self.publisher.run_id,
            since=self.publisher.since,
            lease=self.keeper.lease_id,
            expires_at=self.keeper.expires_at,
        )

    @property
    def is_registered(self) -> bool:
        """Whether other nodes find this one's endpoints."""
        return self.publisher is not None and self.publisher.is_registered

    @property
    def registration_problem(self) -> str:
        """Why this node is not registered, or its keys not up to date; "" if they are."""
        if self.publisher is None or self.keeper is None:
            return "the mesh is starting"
        if self.keeper.lease_id is None:
            return self.lease_status.problem or "it has no lease yet"
        if self.publisher.problem or self.is_registered:
            return self.publisher.problem
        return "its key is being put"

    def is_this_mesh(self, entry: NodeEntry) -> bool:
        """Return whether an entry of etcd is this mesh's, and not another one's of its name."""
        return self.publisher is not None and entry.id == self.publisher.run_id

    def _on_lease_status(self, status: LeaseStatus) -> None:
        before, self.lease_status = self.lease_status.lease_id, status
        if before is not None and status.lease_id != before:
            text = "node %s has lost its lease, %016x; registering with another one"
            _log.warning(text, self.config.node_name, before)

    def _on_nodes_changed(self) -> None:
        assert self.publisher is not None
        self.publisher.on_nodes_changed(self.services.nodes.get(self.config.node_name))
