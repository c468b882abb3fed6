"""Leases that are kept, lost and revoked."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from meshtrio.etcd import LeaseKeeper, LeaseStatus, open_client
from meshtrio.etcd.lease import read_boot_clock
from tests.support.cuttable_relay import relay_to_port
from tests.support.etcd_server import EtcdCluster, in_thread, run_etcd
from tests.support.etcd_views import poll_until, wait_for_renewals
from tests.support.mesh_processes import wait_until


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdCluster]:
    with run_etcd() as cluster:
        yield cluster


class KeptLease:
    """A keeper that runs, and its statuses."""

    def __init__(self, keeper: LeaseKeeper) -> None:
        self.keeper = keeper
        self.statuses: list[LeaseStatus] = []
        self._changed = trio.Event()

    def on_status(self, status: LeaseStatus) -> None:
        self.statuses.append(status)
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for_problem(self, text: str) -> None:
        with trio.fail_after(60):
            while not any(text in each.problem for each in self.statuses):
                await self._changed.wait()


@asynccontextmanager
async def kept_lease(endpoints: list[str], ttl: int) -> AsyncIterator[KeptLease]:
    async with open_client(endpoints) as client, trio.open_nursery() as nursery:
        kept = KeptLease(LeaseKeeper(client, ttl))
        nursery.start_soon(kept.keeper.run, kept.on_status)
        yield kept
        nursery.cancel_scope.cancel()


async def test_a_lease_is_renewed_and_revoked_at_the_end(etcd: EtcdCluster) -> None:
    async with kept_lease(etcd.endpoints, 4) as kept:
        assert kept.keeper.lease_id is None
        lease = await kept.keeper.wait_for_lease()
        started = trio.current_time()
        # Longer than the TTL.
        await wait_for_renewals(kept.keeper, 5)
        assert trio.current_time() - started > 4
        assert kept.keeper.lease_id == lease
        assert lease in await in_thread(etcd.leases)
        assert kept.keeper.losses == 0
        assert kept.statuses == [LeaseStatus(lease)]
    assert lease not in etcd.leases()
    assert kept.keeper.lease_id is None


async def test_a_lease_that_was_revoked_is_followed_by_another(etcd: EtcdCluster) -> None:
    async with kept_lease(etcd.endpoints, 3) as kept, open_client(etcd.endpoints) as other:
        lease = await kept.keeper.wait_for_lease()
        await wait_for_renewals(kept.keeper, 1)
        await other.revoke_lease(lease)
        with trio.fail_after(60):
            second = await kept.keeper.wait_for_lease(other_than=lease)
        assert second in await in_thread(etcd.leases)
        assert kept.keeper.losses == 1
        assert any("expired, or was revoked" in each.problem for each in kept.statuses)
        assert kept.statuses[-1].problem == ""


async def test_a_lease_that_a_put_has_found_gone_is_replaced_at_once(etcd: EtcdCluster) -> None:
    async with kept_lease(etcd.endpoints, 600) as kept, open_client(etcd.endpoints) as other:
        lease = await kept.keeper.wait_for_lease()
        await wait_for_renewals(kept.keeper, 1)
        await other.revoke_lease(lease)
        kept.keeper.mark_lost(lease)
        assert kept.keeper.lease_id is None
        with trio.fail_after(60):
            second = await kept.keeper.wait_for_lease(other_than=lease)
        kept.keeper.mark_lost(lease)
        assert kept.keeper.lease_id == second
        assert kept.keeper.losses == 1


async def test_a_lease_outlives_a_member_that_falls_silent(etcd: EtcdCluster) -> None:
    port = int(etcd.endpoints[0].rpartition(":")[2])
    async with relay_to_port(port) as first, relay_to_port(port) as second:
        urls = [f"http://127.0.0.1:{each.port}" for each in (first, second)]
        async with kept_lease(urls, 10) as kept:
            lease = await kept.keeper.wait_for_lease()
            await wait_for_renewals(kept.keeper, 1)
            preferred = kept.keeper._client.preferred_endpoint
            relay = first if preferred == urls[0] else second
            relay.lose_packets()
            await kept.wait_for_problem("no answer")
            renewals = kept.keeper.renewals
            await wait_for_renewals(kept.keeper, renewals + 2)
            assert kept.keeper.lease_id == lease
            assert kept.keeper.losses == 0
            relay.repair()


async def test_a_lease_is_not_used_after_its_ttl_without_renewal(etcd: EtcdCluster) -> None:
    port = int(etcd.endpoints[0].rpartition(":")[2])
    async with relay_to_port(port) as relay:
        async with kept_lease([f"http://127.0.0.1:{relay.port}"], 2) as kept:
            lease = await kept.keeper.wait_for_lease()
            await wait_for_renewals(kept.keeper, 1)
            relay.cut()
            cut_at = read_boot_clock()
            await poll_until(lambda: kept.keeper.lease_id is None)
            # etcd extends it from when a renewal arrives, so that it has it for as long, or longer.
            assert read_boot_clock() - cut_at < 2.5
            relay.repair()
            with trio.fail_after(60):
                second = await kept.keeper.wait_for_lease(other_than=lease)
            assert second != lease
            assert kept.keeper.losses == 1


async def test_the_end_does_not_wait_for_a_cluster_that_is_silent() -> None:
    with run_etcd() as etcd:
        async with kept_lease(etcd.endpoints, 60) as kept:
            await kept.keeper.wait_for_lease()
            etcd.members[0].stop()
            started = trio.current_time()
        assert 1.9 < trio.current_time() - started < 4.5


def test_a_process_that_was_stopped_for_longer_knows_before_it_does_anything(
    etcd: EtcdCluster,
) -> None:
    command = [sys.executable, "-m", "tests.support.etcd_programs", "hold-lease"]
    with subprocess.Popen([*command, etcd.endpoints[0], "2"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        try:
            lines = map(json.loads, holder.stdout)
            lease = next(line["lease"] for line in lines if line["lease"] is not None)
            holder.send_signal(signal.SIGSTOP)
            wait_until(lambda: lease not in etcd.leases())
            resumed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
            holder.send_signal(signal.SIGCONT)
            later = []
            while not later or later[-1] in (None, lease):
                line = next(lines)
                if line["now"] >= resumed_at:
                    later.append(line["lease"])
            assert later[0] is None
            assert lease not in later
            assert later[-1] in etcd.leases()
        finally:
            holder.kill()
