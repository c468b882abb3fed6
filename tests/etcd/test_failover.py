"""Clusters of three members that are killed, stopped, and without a leader."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import trio

from meshtrio.etcd import EtcdClient, EtcdNoLeaderError, EtcdUnavailableError, open_client
from tests.support.etcd_server import EtcdCluster, EtcdMember, in_thread, run_etcd
from tests.support.etcd_views import follow_prefix


@pytest.fixture
def etcd() -> Iterator[EtcdCluster]:
    with run_etcd(3) as cluster:
        yield cluster


async def put_until_done(client: EtcdClient, key: str, value: bytes) -> None:
    """Put a key, again while an election is under way."""
    with trio.fail_after(60):
        while True:
            try:
                return await client.put(key, value)
            except EtcdUnavailableError:
                await trio.sleep(0.05)


FAULTS = [EtcdMember.kill, EtcdMember.stop]


@pytest.mark.parametrize("fault", FAULTS, ids=["killed", "stopped"])
@pytest.mark.parametrize("is_leader", [True, False], ids=["leader", "follower"])
async def test_a_member_that_is_gone_is_left_for_another(
    etcd: EtcdCluster, fault: Callable[[EtcdMember], None], is_leader: bool
) -> None:
    async with open_client(etcd.endpoints) as client, follow_prefix(client, "over/") as view:
        await view.wait_until(lambda: view.is_connected)
        leader = await in_thread(etcd.find_leader)
        member = leader if is_leader else next(m for m in etcd.members if m is not leader)
        while client.preferred_endpoint != member.url:
            client.cluster.members.leave(client.cluster.members.preferred)
        async with follow_prefix(client, "over/") as second_view:
            await second_view.wait_until(lambda: second_view.is_connected)
            assert second_view.statuses[-1].member == member.url
            fault(member)
            started = trio.current_time()
            await put_until_done(client, "over/a", b"1")
            await second_view.wait_for({"over/a": b"1"})
            await view.wait_for({"over/a": b"1"})
            # A silent member is left after 5 s; the rest is for busy machines.
            assert trio.current_time() - started < 25
            await second_view.wait_until(lambda: second_view.is_connected)
            assert second_view.statuses[-1].member != member.url
            assert len(second_view.snapshots) == 1
        # It stays preferred, so that the next call is not delayed.
        assert client.preferred_endpoint != member.url
        keys, _ = await client.get_prefix("over/")
        assert [each.value for each in keys] == [b"1"]


async def test_without_a_leader_reads_work_and_writes_say_why(
    etcd: EtcdCluster, caplog: pytest.LogCaptureFixture
) -> None:
    etcd.put("alone/a", "1")
    first, *others = etcd.members
    async with open_client(etcd.endpoints) as client, follow_prefix(client, "alone/") as before:
        await before.wait_until(lambda: before.is_connected)
        for each in others:
            each.kill()
        async with follow_prefix(client, "alone/") as view:
            await view.wait_for({"alone/a": b"1"})
            keys, _ = await client.get_prefix("alone/")
            assert [each.key for each in keys] == ["alone/a"]
            assert "may be old" in caplog.text
            with pytest.raises(EtcdUnavailableError, match=first.url) as caught:
                await client.put("alone/b", b"2")
            assert isinstance(caught.value, EtcdNoLeaderError) or "timed out" in str(caught.value)
            await view.wait_until(lambda: any("no leader" in each for each in view.problems))
            assert not before.is_connected
            assert before.keys == {"alone/a": b"1"}
            etcd.start(others[0])
            await put_until_done(client, "alone/b", b"2")
            for each in (view, before):
                await each.wait_for({"alone/a": b"1", "alone/b": b"2"})
                assert len(each.snapshots) == 1
                await each.wait_until(lambda each=each: each.is_connected)


async def test_a_watch_begins_when_etcd_does() -> None:
    with run_etcd() as etcd:
        (member,) = etcd.members
        etcd.put("late/a", "1")
        member.kill()
        async with open_client(etcd.endpoints) as client, follow_prefix(client, "late/") as view:
            await view.wait_until(lambda: len(view.problems) >= 3)
            assert "Connection refused" in view.problems[0]
            assert view.changes == []
            etcd.start(member)
            await view.wait_for({"late/a": b"1"})
            await view.wait_until(lambda: view.is_connected)


async def test_a_stopped_cluster_is_used_again_when_it_continues() -> None:
    with run_etcd() as etcd:
        (member,) = etcd.members
        async with open_client(etcd.endpoints) as client, follow_prefix(client, "stop/") as view:
            await view.wait_until(lambda: view.is_connected)
            member.stop()
            # Of the watch and the put one is the first to find out, and closes the connection.
            text = r"no answer within 5 s|has sent nothing for 5\.\d s"
            with pytest.raises(EtcdUnavailableError, match=text):
                await client.put("stop/a", b"1")
            await view.wait_until(lambda: not view.is_connected)
            member.resume()
            await put_until_done(client, "stop/a", b"2")
            await view.wait_for({"stop/a": b"2"})
