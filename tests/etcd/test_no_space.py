"""A cluster whose database has reached its quota."""

from __future__ import annotations

import pytest
import trio

from meshtrio.etcd import EtcdClient, EtcdNoSpaceError, LeaseKeeper, LeaseStatus, open_client
from tests.support.etcd_server import in_thread, run_etcd
from tests.support.etcd_views import follow_prefix, wait_for_renewals

QUOTA = 4_000_000


async def fill(client: EtcdClient, key: str) -> None:
    """Put values until that is refused."""
    while True:
        await client.put(key, bytes(1_000_000))


async def test_reads_watches_and_leases_go_on_and_writes_say_what_to_do() -> None:
    with run_etcd(1, f"--quota-backend-bytes={QUOTA}") as etcd:
        async with open_client(etcd.endpoints) as client, trio.open_nursery() as nursery:
            first, second = LeaseKeeper(client, 4), LeaseKeeper(client, 10)
            nursery.start_soon(first.run)
            lease = await first.wait_for_lease()
            await client.put("space/a", b"1", lease)
            async with follow_prefix(client, "space/") as view:
                await view.wait_until(lambda: view.is_connected)
                with pytest.raises(EtcdNoSpaceError, match="etcdctl alarm disarm"):
                    await fill(client, "space/b")
                keys, _ = await client.get_prefix("space/")
                assert {each.key for each in keys} == {"space/a", "space/b"}
                problem = trio.Event()

                def on_status(status: LeaseStatus) -> None:
                    if "database space exceeded" in status.problem:
                        problem.set()

                nursery.start_soon(second.run, on_status)
                with trio.fail_after(60):
                    await problem.wait()
                assert second.lease_id is None
                renewals = first.renewals
                await wait_for_renewals(first, renewals + 4)
                assert first.lease_id == lease
                assert await client.delete("space/b")
                await view.wait_for({"space/a": b"1"})
                await in_thread(etcd.make_space)
                with trio.fail_after(60):
                    await second.wait_for_lease()
                await client.put("space/c", b"2")
                await view.wait_for({"space/a": b"1", "space/c": b"2"})
                assert view.problems == []
            nursery.cancel_scope.cancel()
