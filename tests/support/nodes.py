"""Meshes that are nodes of one etcd, in the test's own process or as `meshtrio serve`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from meshtrio.config import (
    DiscoveryConfig,
    GatewayConfig,
    GatewaySecurity,
    MeshConfig,
    PluginConfig,
)
from meshtrio.etcd import KeyValue, open_client
from tests.support.etcd_server import EtcdCluster
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import ECHO_PLUGIN_DIRECTORY, to_toml
from tests.support.ports import find_free_port

TTL = 3
"""Seconds; etcd's minimum is two."""
SERVICE = "plugin.echo"


def make_echo_plugin(**settings: Any) -> PluginConfig:
    values = {"cwd": ECHO_PLUGIN_DIRECTORY, "ready_timeout": 60.0, **settings}
    return PluginConfig("echo", ["{python}", "echo_plugin.py"], **values)


def make_node_config(
    cluster: EtcdCluster, node: str, *plugins: PluginConfig, **discovery: Any
) -> MeshConfig:
    """Return the config of a node with a gateway in plaintext."""
    address = f"tcp://127.0.0.1:{find_free_port()}"
    own = {"etcd": cluster.endpoints, "node": node, "advertise": address, "ttl": TTL}
    values = own | discovery
    gateway = GatewayConfig(listen=address, security=GatewaySecurity.PLAINTEXT)
    return MeshConfig(plugins, gateway=gateway, discovery=DiscoveryConfig(**values))


def node_tables(etcd: EtcdCluster, node: str, **discovery: Any) -> str:
    """Return the same as TOML, for `serve`."""
    address = f"tcp://127.0.0.1:{find_free_port()}"
    values = {"etcd": etcd.endpoints, "node": node, "advertise": address, "ttl": TTL, **discovery}
    lines = [f"{key} = {to_toml(value)}" for key, value in values.items()]
    gateway = f'[mesh.gateway]\nlisten = "{address}"\nsecurity = "plaintext"\n'
    return "\n".join([gateway, "[mesh.discovery]", *lines, ""])


@asynccontextmanager
async def run_node(
    folder: Path, cluster: EtcdCluster, node: str, *plugins: PluginConfig, **discovery: Any
) -> AsyncIterator[RecordedMesh]:
    """Run a mesh that is a node, in a folder of its name."""
    (folder / node).mkdir(exist_ok=True)
    config = make_node_config(cluster, node, *plugins, **discovery)
    async with run_mesh(config, folder / node) as watched:
        yield watched


class KeyView:
    """The keys of etcd, as another client sees them."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyValue] = {}
        self.revision = 0
        """The revision of etcd that the keys are of."""
        self._changed = trio.Event()

    def apply(self, change: Any) -> None:
        if change.is_snapshot:
            self.keys.clear()
        self.keys |= {each.key: each for each in change.puts}
        for key in change.deletes:
            self.keys.pop(key, None)
        self.revision = change.revision
        self._changed.set()
        self._changed = trio.Event()

    async def wait_until(self, condition: Any) -> None:
        """Wait until the keys fulfil a condition."""
        with trio.fail_after(60):
            while not condition(self.keys):
                await self._changed.wait()

    async def wait_for_names(self, *names: str, after: int = 0) -> None:
        """Wait until there are exactly these keys, without the prefix, after a revision."""
        expected = {f"meshtrio/{name}" for name in names}
        await self.wait_until(lambda keys: self.revision > after and keys.keys() == expected)


@asynccontextmanager
async def watch_keys(etcd: EtcdCluster) -> AsyncIterator[KeyView]:
    """Follow all keys during the block."""
    view = KeyView()
    async with open_client(etcd.endpoints) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.watch_prefix, "", view.apply)
        yield view
        nursery.cancel_scope.cancel()


async def wait_until(condition: Any) -> None:
    """Poll until a condition is true, for what nothing reports."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)
