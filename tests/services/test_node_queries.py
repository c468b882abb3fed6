"""Calls of a mesh to the control of other nodes: what it makes, and what it refuses to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
import trio.testing

from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import control
from tests.support.etcd_server import EtcdCluster, in_thread, run_etcd
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.nodes import run_node
from tests.support.secure_nodes import NodeAuthority, make_secure_tables


@pytest.fixture
def etcd() -> Iterator[EtcdCluster]:
    with run_etcd() as cluster:
        yield cluster


@asynccontextmanager
async def control_of(watched: RecordedMesh) -> AsyncIterator[Any]:
    async with connect_to_mesh(watched.mesh.socket) as channel:
        yield DynamicStub(channel, control.DESCRIPTOR.services_by_name["Control"])


def make_query(*methods: str, request: bytes = b"", nodes: tuple[str, ...] = ()) -> Any:
    calls = [control.NodeCall(method=method, request=request) for method in methods]
    return control.QueryNodesRequest(calls=calls, nodes=nodes)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (make_query("Stop"), "'Stop' cannot be called at other nodes; choose from ListInstances"),
        (make_query("QueryNodes"), "'QueryNodes' cannot be called"),
        (make_query("GetConfig"), "'GetConfig' cannot be called"),
        (make_query("GetTree", "x" * 5000), "'xxx"),
        (make_query("ListInstances", request=b"\xff"), "the request of ListInstances is malformed"),
        (make_query(*["GetTree"] * 101), "101 calls to each node, more than 100"),
    ],
    ids=["changes", "recursive", "config", "unknown", "malformed", "too many"],
)
async def test_what_is_not_called(
    short_dir: Path, etcd: EtcdCluster, query: Any, reason: str
) -> None:
    async with run_node(short_dir, etcd, "a") as a, control_of(a) as stub:
        with pytest.raises(purerpc.InvalidArgumentError, match=reason) as caught:
            await stub.QueryNodes(query)
        assert len(caught.value.status.status_message) < 500


async def test_nodes_with_plaintext_gateways_deny_control(
    short_dir: Path, etcd: EtcdCluster
) -> None:
    async with (
        run_node(short_dir, etcd, "a") as a,
        run_node(short_dir, etcd, "b"),
        control_of(a) as stub,
    ):
        node = a.mesh.config.discovery.node_name
        await wait_until_known(stub, "b")
        reply = await stub.QueryNodes(make_query("GetTree", nodes=("b", "c")))
        assert reply.this_node == node
        b, c = reply.results
        assert (b.node, list(b.replies)) == ("b", [])
        assert b.problem.startswith("access.control: ")
        assert (c.node, c.problem) == ("c", "etcd has no such node")


async def wait_until_known(stub: Any, node: str) -> None:
    while node not in await list_names(stub):  # noqa: ASYNC110 - nothing reports it
        await trio.sleep(0.01)


async def list_names(stub: Any) -> list[str]:
    listed = await stub.ListNodes(control.ListNodesRequest())
    return [each.name for each in listed.nodes]


async def test_a_mesh_that_is_no_node_refuses(short_dir: Path) -> None:
    async with run_mesh("", short_dir) as watched, control_of(watched) as stub:
        for call in (stub.ListNodes(control.ListNodesRequest()), stub.QueryNodes(make_query())):
            with pytest.raises(purerpc.FailedPreconditionError, match=r"\[mesh\.discovery\]"):
                await call


async def test_states_of_services_need_no_access_to_the_registry(short_dir: Path) -> None:
    config = '[[service]]\nname = "outside"\nendpoints = ["tcp:127.0.0.1:1"]\n'
    async with run_mesh(config, short_dir) as watched, control_of(watched) as stub:
        reply = await stub.ListServiceStates(control.ListServiceStatesRequest())
        (state,) = reply.states
        assert (state.service, state.endpoints[0].address) == ("outside", "tcp:127.0.0.1:1")
        with pytest.raises(purerpc.NotFoundError, match="nonesuch"):
            await stub.ListServiceStates(control.ListServiceStatesRequest(services=["nonesuch"]))


async def test_a_node_whose_replies_are_too_large_is_reported(
    short_dir: Path, etcd: EtcdCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshtrio.services.node_queries._MAX_NODE_REPLIES_SIZE", 500)
    authority = NodeAuthority(short_dir)
    folders = [short_dir / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    configs = [make_secure_tables(authority, etcd, folder.name) for folder in folders]
    async with (
        run_mesh(configs[0], folders[0]) as a,
        run_mesh(configs[1], folders[1]),
        control_of(a) as stub,
    ):
        await wait_until_known(stub, "b")
        (one,) = (await stub.QueryNodes(make_query("GetTree", "GetHistory"))).results
        assert one.problem == ""
        history = control.GetHistoryResponse.FromString(one.replies[1].reply)
        assert 0 < history.oldest <= history.time
        assert control.Node.FromString(one.replies[0].reply).kind == control.Node.MESH
        (many,) = (await stub.QueryNodes(make_query(*["GetTree"] * 20))).results
        assert (many.problem, list(many.replies)) == ("its replies exceed 500 bytes", [])


async def test_the_list_of_ignored_keys_is_bounded(short_dir: Path, etcd: EtcdCluster) -> None:
    async with run_node(short_dir, etcd, "a") as a, control_of(a) as stub:

        def write_garbage() -> None:
            for number in range(110):
                etcd.put(f"meshtrio/plugin.echo/{number:03}", "garbage")

        await in_thread(write_garbage)
        ignored: list[str] = []
        while len(ignored) < 100:
            listed = await stub.ListNodes(control.ListNodesRequest())
            ignored = sorted(listed.discovery.ignored_keys)
        assert ignored[0] == "meshtrio/plugin.echo/000"
        await trio.testing.wait_all_tasks_blocked(0.05)
        listed = await stub.ListNodes(control.ListNodesRequest())
        assert len(listed.discovery.ignored_keys) == 100
