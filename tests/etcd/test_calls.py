"""Keys and leases of a cluster with one member."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshtrio.etcd import (
    EtcdError,
    EtcdLeaseNotFoundError,
    EtcdUnavailableError,
    KeyValue,
    open_client,
)
from meshtrio.etcd.errors import EtcdTooLargeError
from meshtrio.util.errors import UsageError
from tests.support.etcd_server import EtcdCluster, in_thread, run_etcd
from tests.support.ports import find_free_port


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdCluster]:
    with run_etcd() as cluster:
        yield cluster


async def test_keys_are_put_listed_and_deleted(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints) as client:
        lease, ttl = await client.grant_lease(60)
        assert ttl == 60
        await client.put("calls/b", b"2")
        await client.put("calls/a", b"\xff\0", lease)
        await client.put("callsx", b"")
        keys, revision = await client.get_prefix("calls/")
        assert [(each.key, each.value, each.lease) for each in keys] == [
            ("calls/a", b"\xff\0", lease),
            ("calls/b", b"2", 0),
        ]
        assert keys[0].mod_revision == keys[0].create_revision == revision - 1
        assert await client.delete("calls/b")
        assert not await client.delete("calls/b")
        await client.revoke_lease(lease)
        assert await client.get_prefix("calls/") == ([], revision + 2)


async def test_a_key_is_created_once(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints) as client:
        assert await client.create("created", b"1") is None
        present = await client.create("created", b"2")
        assert isinstance(present, KeyValue)
        assert (present.key, present.value) == ("created", b"1")
        await client.delete("created")
        assert await client.create("created", b"3") is None


async def test_a_lease_that_is_gone_has_an_error_of_its_own(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints) as client:
        lease, _ = await client.grant_lease(60)
        await client.revoke_lease(lease)
        for call in (
            client.put("gone", b"", lease),
            client.create("gone", b"", lease),
            client.revoke_lease(lease),
        ):
            with pytest.raises(EtcdLeaseNotFoundError, match=etcd.endpoints[0]):
                await call


async def test_many_keys_and_large_values_are_listed_in_pages(etcd: EtcdCluster) -> None:
    """30 values of 1 MB are more than one message may have, and 3000 keys more than a page."""
    wanted = {}
    async with open_client(etcd.endpoints) as client:
        for number in range(30):
            wanted[f"pages/a{number:05}"] = bytes([number]) * 1_000_000
        for number in range(3000):
            wanted[f"pages/b{number:05}"] = b"x"
        for key, value in wanted.items():
            await client.put(key, value)
        keys, revision = await client.get_prefix("pages/")
        assert {each.key: each.value for each in keys} == wanted
        assert len(keys) == len(wanted)
        assert revision >= max(each.mod_revision for each in keys)


async def test_keys_that_are_no_text_are_left_out(
    etcd: EtcdCluster, caplog: pytest.LogCaptureFixture
) -> None:
    await in_thread(etcd.put, b"bytes/\xff", b"")
    await in_thread(etcd.put, b"bytes/good", b"")
    async with open_client(etcd.endpoints) as client:
        keys, _ = await client.get_prefix("bytes/")
        assert [each.key for each in keys] == ["bytes/good"]
        assert "not UTF-8: b'bytes/\\xff'" in caplog.text
        for key in ("", "\ud800"):
            with pytest.raises(UsageError, match="key for etcd"):
                await client.put(key, b"")


async def test_a_value_that_etcd_refuses_is_an_error_that_says_so(etcd: EtcdCluster) -> None:
    async with open_client(etcd.endpoints) as client:
        with pytest.raises(EtcdError, match=r"putting large failed: .*request is too large"):
            await client.put("large", bytes(2_000_000))


async def test_a_value_that_is_too_large_to_be_read_is_an_error() -> None:
    """etcd has such values only if it was configured to take them."""
    with run_etcd(1, "--max-request-bytes=33554432") as etcd:
        async with open_client(etcd.endpoints) as client:
            await client.put("large/a", b"")
            await client.put("large/b", bytes(17_000_000))
            with pytest.raises(EtcdTooLargeError, match="over the client's limit of 16777216"):
                await client.get_prefix("large/")
            keys, _ = await client.get_prefix("large/a")
            assert [each.key for each in keys] == ["large/a"]


async def test_the_error_of_a_port_where_nothing_listens() -> None:
    url = f"http://127.0.0.1:{find_free_port()}"
    async with open_client([url]) as client:
        with pytest.raises(EtcdUnavailableError) as caught:
            await client.put("a", b"")
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    assert str(caught.value) == (
        f"etcd at {url}: putting a failed: Error connecting to {address}: Connection refused; "
        "check that etcd runs, and its endpoints"
    )
    assert caught.value.member == url
