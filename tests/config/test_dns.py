"""Names in DNS in a config: what is accepted, errors, and what they need."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from meshtrio.cli.check import load_and_check
from meshtrio.client.channel import connect_to
from meshtrio.config import DnsConfig, MeshConfig, StaticServiceConfig, load
from meshtrio.discovery.dns.discovery import check_dns_installed
from meshtrio.util.dns_target import DnsTarget
from meshtrio.util.errors import ConfigError, UsageError

CONFIG = """
[mesh.dns]
servers = ["10.0.0.53", "[::1]:5353"]

[[service]]
name = "s"
endpoints = ["dns:///echo.internal:7443", "tcp:10.0.0.1:7", "dns+srv:///_grpc._tcp.echo.internal"]
"""


def test_a_table_has_names_and_addresses(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(CONFIG)
    config = load(tmp_path / "mesh.toml")
    (table,) = config.services
    assert table.addresses == ("tcp:10.0.0.1:7",)
    assert table.dns_targets == (
        DnsTarget("echo.internal", 7443),
        DnsTarget("_grpc._tcp.echo.internal"),
    )
    assert config.dns == DnsConfig(["10.0.0.53", "[::1]:5353"])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (":7443", "", "service 's': endpoints: 'dns:///echo.internal': 'echo.internal' has no"),
        ("dns:///", "dns://", "is dns:///echo.internal:7443 meant?"),
        ("10.0.0.53", "ns.internal", "mesh: dns: servers: 'ns.internal' is not the IP address"),
        ("tcp:10", "udp:10", "neither unix:/path nor tcp:host:port, nor a name in DNS, dns:///"),
    ],
)
def test_check_says_what_is_wrong(tmp_path: Path, old: str, new: str, reason: str) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(CONFIG.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_and_check(path, None)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ")
    assert reason in problem


def test_without_dnspython_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "dns"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "dns", None)
    table = StaticServiceConfig("s", ["dns:///echo.internal:1", "tcp:10.0.0.1:7"])
    with pytest.raises(ConfigError) as caught:
        check_dns_installed(MeshConfig(services=[table]))
    install = "needs dnspython, which is not installed here: pip install 'meshtrio[dns]'"
    assert caught.value.problems == [f"service 's': endpoints: dns:///echo.internal:1 {install}"]
    check_dns_installed(MeshConfig(services=[StaticServiceConfig("s", ["tcp:10.0.0.1:7"])]))
    with pytest.raises(UsageError, match=r"dns:///echo.internal:1 needs dnspython"):
        connect_to("dns:///echo.internal:1")


def test_a_channel_to_a_name_that_is_none() -> None:
    with pytest.raises(UsageError, match="has no port between 1 and 65535"):
        connect_to("dns:///echo.internal")
