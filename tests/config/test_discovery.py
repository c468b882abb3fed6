"""The table [mesh.discovery]: its errors, and the TLS settings of connections to other nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshtrio.config import DiscoveryConfig, GatewayConfig, GatewaySecurity, MeshConfig
from meshtrio.util.errors import ConfigError
from meshtrio.util.tls_config import ClientTlsConfig, ServerTlsConfig

GATEWAY = GatewayConfig(listen="tcp://127.0.0.1:1", security=GatewaySecurity.PLAINTEXT)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"zone": "z"}, "etcd: is required"),
        ({"etcd": ["http://h"], "advertise": "tcp://10.0.0.1:1"}, "advertise: requires a gateway"),
        ({"etcd": ["http://h"], "user": "u"}, "user and password_file: are used together"),
        ({"etcd": ["http://h", "https://h"]}, "either all members use https, or none"),
        ({"etcd": ["http://h"], "tls": ClientTlsConfig()}, "tls: is for https:// members"),
    ],
)
def test_combinations_that_are_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        MeshConfig(discovery=DiscoveryConfig(**values))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"etcd": ["h:2379"]}, "is not http://host:port"),
        ({"etcd": ["ftp://h"]}, "is not http://host:port"),
        ({"etcd": ["http://h:99999"]}, "is not http://host:port"),
        ({"etcd": ["http://user:secret@h"]}, "set user and password_file instead"),
        ({"prefix": "/a"}, "is not a prefix"),
        ({"prefix": "a/"}, "is not a prefix"),
        ({"node": "a/b"}, "is not a name of a node"),
        ({"node": ""}, "is not a name of a node"),
        ({"ttl": 1}, "must be between 2 and 3600"),
        ({"advertise": "tcp://0.0.0.0:1"}, "is not an address that other hosts can connect to"),
        ({"advertise": "unix:/a"}, "is not an address that other hosts can connect to"),
    ],
)
def test_values_that_are_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        DiscoveryConfig(**values)
    assert "secret" not in str(caught.value)


def test_members_have_a_default_port_and_the_node_the_name_of_the_host() -> None:
    config = DiscoveryConfig(etcd=["https://10.0.0.1", "https://[::1]:1"])
    assert config.etcd == ("https://10.0.0.1:2379", "https://[::1]:1")
    assert config.node_name
    assert MeshConfig(gateway=GATEWAY, discovery=DiscoveryConfig(etcd=["http://h"])).discovery.etcd


def test_other_nodes_are_called_with_the_certificate_of_the_gateway() -> None:
    config, own = DiscoveryConfig(etcd=["https://h"]), ClientTlsConfig(Path("own"))
    assert config.with_peer_tls(GATEWAY).peer_tls is None
    tls = ServerTlsConfig(Path("certificate"), Path("key"), Path("ca"))
    gateway = GatewayConfig(listen="tcp://127.0.0.1:1", tls=tls)
    expected = ClientTlsConfig(Path("ca"), Path("certificate"), Path("key"))
    assert config.with_peer_tls(gateway).peer_tls == expected
    with_own = DiscoveryConfig(etcd=["https://h"], peer_tls=own)
    assert with_own.with_peer_tls(gateway).peer_tls == own
