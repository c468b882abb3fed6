"""Users, passwords and tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from meshtrio.etcd import EtcdAuthError, EtcdUnavailableError, LeaseKeeper, open_client
from tests.support.etcd_server import EtcdCluster, in_thread, run_etcd
from tests.support.etcd_views import follow_prefix

TOKEN_TTL = 1


@pytest.fixture
def etcd() -> Iterator[EtcdCluster]:
    """A cluster with the user "mesh", who may use keys that begin with "mesh/"."""
    with run_etcd(1, f"--auth-token-ttl={TOKEN_TTL}") as cluster:
        cluster.add_user("mesh", "secret", "mesh/")
        cluster.enable_auth()
        yield cluster


async def expire_tokens(etcd: EtcdCluster) -> None:
    """Restart the member: the clock that tokens expire by is in its memory, and so are they."""
    (member,) = etcd.members
    member.kill()
    etcd.start(member)
    await in_thread(etcd.wait_ready)


async def put_until_done(client: object, key: str) -> None:
    with trio.fail_after(60):
        while True:
            try:
                return await client.put(key, b"")  # type: ignore[attr-defined]
            except EtcdUnavailableError:
                await trio.sleep(0.05)


async def test_a_user_may_do_what_its_role_says(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints, user="mesh", password="secret") as client:
        await client.put("mesh/a", b"1")
        async with follow_prefix(client, "mesh/") as view:
            await view.wait_until(lambda: view.is_connected)
            await client.put("mesh/a", b"2")
            await view.wait_for({"mesh/a": b"2"})
        with pytest.raises(EtcdAuthError, match="permission denied; check the user"):
            await client.put("other", b"")


async def test_a_token_that_expired_is_renewed(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints, user="mesh", password="secret") as client:
        lease, _ = await client.grant_lease(60)
        await client.put("mesh/a", b"1", lease)
        tokens = client.cluster._tokens
        token = tokens._metadata
        with trio.fail_after(60):
            # It expires by the clock, and each use puts that off.
            while tokens._metadata == token:
                await trio.sleep(2 * TOKEN_TTL)
                await client.put("mesh/a", b"2", lease)
        keys, _ = await client.get_prefix("mesh/")
        assert [each.value for each in keys] == [b"2"]


async def test_watches_and_leases_outlive_their_token(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints, user="mesh", password="secret") as client:
        async with follow_prefix(client, "mesh/") as view, trio.open_nursery() as nursery:
            keeper = LeaseKeeper(client, 30)
            nursery.start_soon(keeper.run)
            lease = await keeper.wait_for_lease()
            await view.wait_until(lambda: view.is_connected)
            await expire_tokens(etcd)
            await put_until_done(client, "mesh/a")
            await view.wait_for({"mesh/a": b""})
            await view.wait_until(lambda: view.is_connected)
            assert len(view.snapshots) == 1
            assert keeper.lease_id == lease
            nursery.cancel_scope.cancel()


async def test_a_watch_whose_token_alone_has_expired_resumes(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints, user="mesh", password="secret") as client:
        await client.put("mesh/a", b"1")
        client.cluster._tokens._metadata = (("token", "none.1"),)
        async with follow_prefix(client, "mesh/") as view:
            await view.wait_until(lambda: view.is_connected)
            client.cluster._tokens._metadata = (("token", "none.1"),)
            client.cluster.members.preferred._channel.picker.endpoints[
                0
            ].subchannel.connection.close("by the test")
            await view.wait_until(lambda: not view.is_connected)
            await view.wait_until(lambda: view.is_connected)
            assert len(view.snapshots) == 1


async def test_a_wrong_password_is_an_error_and_watches_wait_for_the_right_one(
    etcd: EtcdCluster,
) -> None:
    async with open_client(etcd.endpoints, user="mesh", password="wrong") as client:
        with pytest.raises(EtcdAuthError) as caught:
            await client.put("mesh/a", b"")
        assert str(caught.value) == (
            f"etcd at {etcd.endpoints[0]}: authenticating user 'mesh' failed: etcdserver: "
            "authentication failed, invalid user ID or password; check the user, the password and "
            "the user's roles"
        )
        async with follow_prefix(client, "mesh/") as view:
            await view.wait_until(lambda: len(view.problems) == 3)
            assert "authentication failed" in view.problems[0]
            etcd.log_in()
            await in_thread(lambda: etcd.call("auth/user/changepw", name="mesh", password="wrong"))
            await view.wait_until(lambda: view.is_connected)


async def test_a_watch_that_is_not_permitted_says_so(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints, user="mesh", password="secret") as client:
        async with follow_prefix(client, "other/") as view:
            await view.wait_until(lambda: len(view.problems) == 2)
            assert "permission denied" in view.problems[0]


async def test_a_client_without_a_user_is_told_that_it_needs_one(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints) as client:
        with pytest.raises(EtcdAuthError, match="etcd requires a user and password"):
            await client.put("mesh/a", b"")


async def test_users_work_before_and_after_a_cluster_requires_them() -> None:
    with run_etcd() as etcd:
        async with open_client(etcd.endpoints, user="mesh", password="secret") as client:
            await client.put("mesh/a", b"1")
            await in_thread(etcd.add_user, "mesh", "secret", "mesh/")
            await in_thread(etcd.enable_auth)
            await client.put("mesh/a", b"2")
