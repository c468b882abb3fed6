"""[mesh.dashboard] and `serve --dashboard`."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest

from meshtrio.config import ConfigSource, DashboardConfig, DashboardSecurity, MeshConfig, load
from meshtrio.telemetry import optional_dependencies
from meshtrio.util.errors import ConfigError
from meshtrio.util.tls_config import ServerTlsConfig


def read(folder: Path, *lines: str) -> MeshConfig:
    (folder / "mesh.toml").write_text("\n".join(["[mesh.dashboard]", *lines, ""]))
    return load(folder / "mesh.toml")


def test_the_keys(tmp_path: Path) -> None:
    (tmp_path / "c.pem").touch()
    (tmp_path / "k.pem").touch()
    config = read(
        tmp_path,
        'listen = "0.0.0.0:9465"',
        "control = true",
        'tls = { certificate = "c.pem", key = "k.pem" }',
        'hosts = ["mesh.example", "10.0.0.1", "::1"]',
    )
    tls = ServerTlsConfig(tmp_path / "c.pem", tmp_path / "k.pem")
    hosts = ("mesh.example", "10.0.0.1", "::1")
    assert config.dashboard == DashboardConfig("0.0.0.0:9465", control=True, tls=tls, hosts=hosts)
    assert MeshConfig().dashboard.listen is None


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["listen = 9465"], "must be text"),
        (['listen = "9465"'], "must be host:port"),
        (['listen = "localhost:0"'], "port other than 0"),
        (['listen = "0.0.0.0:1"'], "dashboard: listen: other hosts reach 0.0.0.0:1"),
        (['listen = "[::]:1"'], "requires tls"),
        (['listen = "mesh.example:1"'], "requires tls"),
        (['listen = "localhost.example:1"'], "requires tls"),
        (['listen = "0:1"'], "requires tls"),
        (['control = "yes"'], "must be true or false"),
        (['security = "none"'], "must be one of tls, plaintext"),
        (['hosts = ["https://mesh.example"]'], "must be a host name or an IP address"),
        (['hosts = ["mesh.example:443"]'], "without a port"),
        (['hosts = ["*"]'], "must be a host name"),
        (['hosts = [""]'], "must be a host name"),
        (['tls = { certificate = "no.pem", key = "no.pem" }'], "there is no file"),
        (['tls = { certificate = "no.pem" }'], "key"),
        (["port = 1"], "is not a key that meshtrio knows"),
    ],
)
def test_mistakes(tmp_path: Path, lines: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, *lines)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:1", "127.8.8.8:1", "localhost:1", "LOCALHOST:1", "[::1]:1"]
)
def test_loopback_needs_no_tls(listen: str) -> None:
    assert MeshConfig(dashboard=DashboardConfig(listen)).dashboard.listen == listen


def test_other_addresses_without_tls_have_to_be_meant() -> None:
    plaintext = DashboardConfig("0.0.0.0:1", security=DashboardSecurity.PLAINTEXT)
    assert MeshConfig(dashboard=plaintext)
    tls = ServerTlsConfig(Path("c"), Path("k"))
    with pytest.raises(ConfigError, match="is not used with"):
        MeshConfig(dashboard=DashboardConfig("0.0.0.0:1", tls=tls, security=plaintext.security))


def test_the_port_may_be_that_of_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes port 7000"):
        read(
            tmp_path,
            'listen = "127.0.0.1:7000"',
            "[mesh.telemetry]",
            'metrics = "127.0.0.1:7000"',
        )


def test_options_of_serve_override_the_file_whenever_it_is_read(tmp_path: Path) -> None:
    config = read(tmp_path, "control = true")
    source = ConfigSource(Path("x"), None, "127.0.0.1:1", "127.0.0.1:2")
    for _ in range(2):
        config = source.override(config)
        assert config.telemetry.metrics == "127.0.0.1:1"
        assert (config.dashboard.listen, config.dashboard.control) == ("127.0.0.1:2", True)
        assert config.source == source
    assert ConfigSource(Path("x")).override(config).dashboard.listen == "127.0.0.1:2"


def test_the_extra_is_named_if_it_is_missing() -> None:
    config = MeshConfig(dashboard=DashboardConfig("127.0.0.1:1"))
    optional_dependencies.check_extras(config)
    with (
        patch.object(optional_dependencies, "find_spec", return_value=None),
        pytest.raises(ConfigError) as caught,
    ):
        optional_dependencies.check_extras(config)
    assert "[mesh.dashboard] listen needs h11" in str(caught.value)
    assert "meshtrio[dashboard]" in str(caught.value)
