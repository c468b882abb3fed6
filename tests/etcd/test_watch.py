"""Views of the keys with a prefix, through cuts, compactions and silence."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from meshtrio.etcd import open_client
from tests.support.cuttable_relay import CuttableRelay, relay_to_port
from tests.support.etcd_server import EtcdCluster, in_thread, run_etcd
from tests.support.etcd_views import EtcdView, follow_prefix


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdCluster]:
    with run_etcd() as cluster:
        yield cluster


@asynccontextmanager
async def relayed_view(
    etcd: EtcdCluster, prefix: str, count: int = 1
) -> AsyncIterator[tuple[EtcdView, list[CuttableRelay]]]:
    """A view by relays, each of which is a member to the client; the view is connected."""
    port = int(etcd.endpoints[0].rpartition(":")[2])
    async with trio.open_nursery() as nursery:
        async with relay_to_port(port) as first, relay_to_port(port) as second:
            relays = [first, second][:count]
            urls = [f"http://127.0.0.1:{relay.port}" for relay in relays]
            async with open_client(urls) as client, follow_prefix(client, prefix) as view:
                await view.wait_until(lambda: view.is_connected)
                yield view, relays
        nursery.cancel_scope.cancel()


async def test_a_view_is_a_snapshot_and_then_changes(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints) as client:
        lease, _ = await client.grant_lease(60)
        await client.put("follow/a", b"1")
        async with follow_prefix(client, "follow/") as view:
            await view.wait_for({"follow/a": b"1"})
            await view.wait_until(lambda: view.is_connected)
            await client.put("follow/b", b"2", lease)
            await client.put("followed", b"")
            await client.put("follow/a", b"3")
            await view.wait_for({"follow/a": b"3", "follow/b": b"2"})
            await client.revoke_lease(lease)
            await client.delete("follow/a")
            await view.wait_for({})
            put = view.changes[1].puts[0]
            assert (put.key, put.lease) == ("follow/b", lease)
            assert len(view.snapshots) == 1
            assert view.problems == []


async def test_a_status_comes_with_each_confirmation(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints) as client, follow_prefix(client, "quiet/") as view:
        await view.wait_until(lambda: len(view.statuses) == 4)
        assert all(each.connected and each.lag < 4 for each in view.statuses)
        assert view.statuses[-1].member == etcd.endpoints[0]
        assert view.statuses[-1].revision == view.changes[0].revision


async def test_after_a_cut_a_view_resumes_with_the_changes_that_it_missed(
    etcd: EtcdCluster,
) -> None:
    etcd.put("cut/a", "1")
    etcd.put("cut/b", "1")
    async with relayed_view(etcd, "cut/") as (view, (relay,)):
        relay.cut()
        await view.wait_until(lambda: not view.is_connected)
        await in_thread(etcd.put, "cut/a", "2")
        await in_thread(etcd.delete, "cut/b")
        relay.repair()
        await view.wait_for({"cut/a": b"2"})
        assert len(view.snapshots) == 1
        await view.wait_until(lambda: view.is_connected)


async def test_after_a_compaction_there_is_a_new_snapshot(etcd: EtcdCluster) -> None:
    etcd.put("compacted/a", "1")
    etcd.put("compacted/b", "1")
    async with relayed_view(etcd, "compacted/") as (view, (relay,)):
        relay.cut()
        await view.wait_until(lambda: not view.is_connected)
        await in_thread(etcd.put, "compacted/a", "2")
        await in_thread(etcd.delete, "compacted/b")
        await in_thread(etcd.compact)
        relay.repair()
        await view.wait_for({"compacted/a": b"2"})
        assert len(view.snapshots) == 2
        assert any("were compacted" in problem for problem in view.problems)
        await view.wait_until(lambda: view.is_connected)
        await in_thread(etcd.put, "compacted/c", "3")
        await view.wait_for({"compacted/a": b"2", "compacted/c": b"3"})


async def test_a_member_that_falls_silent_is_left_for_another(etcd: EtcdCluster) -> None:
    async with relayed_view(etcd, "silent/", 2) as (view, relays):
        watched = view.statuses[-1].member
        (relay,) = (each for each in relays if watched.endswith(f":{each.port}"))
        relay.lose_packets()
        started = trio.current_time()
        await in_thread(etcd.put, "silent/a", "1")
        await view.wait_for({"silent/a": b"1"})
        # 5 s of silence, and what a busy machine adds.
        assert trio.current_time() - started < 15
        assert "no answer within 5 s" in view.problems[0]
        assert view.statuses[-1].member != watched


async def test_a_link_that_lost_packets_is_used_again_as_soon_as_it_works(
    etcd: EtcdCluster,
) -> None:
    async with relayed_view(etcd, "lossy/") as (view, (relay,)):
        relay.lose_packets()
        await view.wait_until(lambda: not view.is_connected)
        await in_thread(etcd.put, "lossy/a", "1")
        relay.repair()
        await view.wait_for({"lossy/a": b"1"})
        assert len(view.snapshots) == 1


async def test_large_changes_that_were_missed_arrive_in_fragments(etcd: EtcdCluster) -> None:
    """They are 24 MB, which is more than one message may have."""
    async with relayed_view(etcd, "large/") as (view, (relay,)):
        relay.cut()
        await view.wait_until(lambda: not view.is_connected)
        wanted = {f"large/{number:02}": bytes([number]) * 1_000_000 for number in range(24)}
        for key, value in wanted.items():
            await in_thread(etcd.put, key, value)
        relay.repair()
        await view.wait_for(wanted)
        assert len(view.snapshots) == 1


async def test_keys_that_are_no_text_change_nothing(etcd: EtcdCluster) -> None:
    async with relayed_view(etcd, "odd/") as (view, _):
        await in_thread(etcd.put, b"odd/\xff", b"")
        await in_thread(etcd.put, b"odd/a", b"\xff" * 1_000_000)
        await view.wait_for({"odd/a": b"\xff" * 1_000_000})
        assert view.problems == []


async def test_a_cluster_that_was_made_anew_gives_a_new_snapshot() -> None:
    """Its revisions start from 1, so that a watch of what follows would wait for long."""
    with run_etcd() as etcd:
        for number in range(20):
            etcd.put("anew/a", str(number))
        async with open_client(etcd.endpoints) as client, follow_prefix(client, "anew/") as view:
            await view.wait_until(lambda: view.is_connected)
            (member,) = etcd.members
            member.kill()
            shutil.rmtree(member.folder / member.name)
            etcd.start(member)
            await in_thread(etcd.wait_ready)
            await in_thread(etcd.put, "anew/b", "1")
            await view.wait_for({"anew/b": b"1"})
            await view.wait_until(lambda: view.is_connected)
            await in_thread(etcd.put, "anew/c", "1")
            await view.wait_for({"anew/b": b"1", "anew/c": b"1"})


async def test_an_error_of_the_caller_ends_the_watch(etcd: EtcdCluster) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    async with open_client(etcd.endpoints) as client:
        with pytest.raises(ZeroDivisionError):
            await client.watch_prefix("a", fail)
