"""Meshes under `serve` that are nodes of one etcd, with mutual TLS between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme

from tests.support.etcd_server import EtcdCluster
from tests.support.mesh_processes import MeshProcess, serve_mesh, to_toml, wait_until
from tests.support.ports import find_free_port


class NodeAuthority:
    """The certificate authority of all nodes, with its files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.path = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.path))

    def issue(self, node: str) -> Path:
        """Return a file with certificate and key of the subject `CN=node-NAME`."""
        path = self._folder / f"{node}.pem"
        issued = self._ca.issue_cert("127.0.0.1", common_name=f"node-{node}")
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        return path


def make_secure_tables(
    authority: NodeAuthority,
    etcd: EtcdCluster,
    node: str,
    *,
    control: str = "CN=node-*",
    advertises: bool = True,
    **discovery: Any,
) -> str:
    """Return the tables of a node: its gateway, access for other nodes, and discovery.

    `control` is the subject with access to its control; "" for none.
    """
    address = f"tcp://127.0.0.1:{find_free_port()}"
    ca, certificate = str(authority.path), str(authority.issue(node))
    server_tls = {"certificate": certificate, "key": certificate, "client_ca": ca}
    values: dict[str, Any] = {"etcd": etcd.endpoints, "node": node, "ttl": 60}
    values["peer_tls"] = {"ca": ca, "certificate": certificate}
    values |= {"advertise": address} if advertises else {}
    tables: dict[str, dict[str, Any]] = {
        "mesh.gateway": {"listen": address, "tls": server_tls},
        "mesh.access.gateway": {"subjects": ["CN=node-*"]},
        "mesh.access.control": {"subjects": [control] if control else []},
        "mesh.discovery": values | discovery,
    }
    return "".join(
        "\n".join([f"[{name}]", *(f"{k} = {to_toml(v)}" for k, v in table.items()), "", ""])
        for name, table in tables.items()
    )


@contextmanager
def serve_node(folder: Path, node: str, config: str, *, ready: int = 0) -> Iterator[MeshProcess]:
    """Serve a node until the block ends, which is entered once it is registered."""
    (folder / node).mkdir()
    with serve_mesh(folder / node, config, min_ready=ready) as mesh:
        wait_until(lambda: f"registered as node {node}" in mesh.log)
        yield mesh
