"""The environment of plugin processes: which layer overrides which."""

from __future__ import annotations

import math
import pwd
from pathlib import Path
from typing import Any

import attrs
import pytest

from meshtrio import contract
from meshtrio.config import LogLevel, OutputConfig, PluginConfig, StartMethod, TelemetryConfig
from meshtrio.util.tls_config import ServerTlsConfig
from tests.support.plugin_environments import environment_of

USER = pwd.struct_passwd(("ann", "x", 1000, 1000, "", "/home/ann", "/bin/sh"))
PLAIN = {
    "PYTHONUNBUFFERED": "1",
    "PLUGIN_SOCKET": "/run/mesh/p-0.sock",
    "PLUGIN_NAME": "p",
    "PLUGIN_INSTANCE": "0",
    "PLUGIN_STOP_TIMEOUT": "5",
    "MESH_SOCKET": "/run/mesh/mesh.sock",
    "MESH_LAUNCH_ID": "launch",
}


def make_plugin(**settings: Any) -> PluginConfig:
    return PluginConfig("p", ["x"], **settings)


def test_a_plugin_without_settings_has_the_contract_alone() -> None:
    assert environment_of(make_plugin()) == PLAIN


def test_a_held_socket_is_announced_as_systemd_does() -> None:
    inherited = {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "mesh", "LISTEN_PID": "1"}
    held = make_plugin(listen_fds=True, inherit_env=["LISTEN_FDS"], env={"LISTEN_FDNAMES": "x"})
    expected = {**PLAIN, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "p"}
    assert environment_of(held, inherited=inherited) == expected


def test_each_layer_overrides_those_before() -> None:
    inherited = {"PYTHONUNBUFFERED": "0", "HOME": "/root", "LANG": "C", "MESH_SOCKET": "/outer"}
    found = environment_of(
        make_plugin(env={"HOME": "/srv", "LANG": "de"}), inherited=inherited, user=USER
    )
    assert found == PLAIN | {
        "PYTHONUNBUFFERED": "0",
        "HOME": "/srv",
        "USER": "ann",
        "LOGNAME": "ann",
        "LANG": "de",
    }


@pytest.mark.parametrize(
    ("inherit_env", "names"),
    [(None, ["A", "B"]), ((), []), (("A", "NOTIFY_SOCKET"), ["A", "NOTIFY_SOCKET"])],
)
def test_variables_of_the_service_manager_are_inherited_only_by_name(
    inherit_env: tuple[str, ...] | None, names: list[str]
) -> None:
    inherited = dict.fromkeys([*contract.MESH_VARIABLES, "A", "B", "NOTIFY_SOCKET"], "inherited")
    found = environment_of(make_plugin(inherit_env=inherit_env), inherited=inherited)
    assert sorted(name for name, value in found.items() if value == "inherited") == names


def test_settings_of_the_plugin() -> None:
    plugin = make_plugin(
        instances=3,
        listen="tcp://127.0.0.1:7000",
        serve_tls=ServerTlsConfig(Path("/c"), Path("/k"), client_ca=Path("/ca")),
        stop_timeout=0.5,
        output=OutputConfig(log_level=LogLevel.DEBUG),
        max_receive_message_length=-1,
        max_send_message_length=9,
        max_busy_poll=0.00025,
        max_connection_age=1234567.5,
        start=StartMethod.ON_DEMAND,
        idle_timeout=2.5,
        max_connection_age_grace=math.inf,
        metrics="127.0.0.1:9000",
    )
    found = environment_of(plugin, TelemetryConfig(experimental=True), instance=2, slot=1)
    assert found.items() - PLAIN.items() == {
        ("PLUGIN_SOCKET", "/run/mesh/p-2.sock"),
        ("PLUGIN_INSTANCE", "2"),
        ("PLUGIN_LISTEN", "tcp:127.0.0.1:7005"),
        ("PLUGIN_TLS_CERTIFICATE", "/c"),
        ("PLUGIN_MAX_CONNECTION_AGE", "1234567.5"),
        ("PLUGIN_IDLE_TIMEOUT", "2.5"),
        ("PLUGIN_MAX_CONNECTION_AGE_GRACE", "inf"),
        ("PLUGIN_TLS_KEY", "/k"),
        ("PLUGIN_TLS_CLIENT_CA", "/ca"),
        ("PLUGIN_STOP_TIMEOUT", "0.5"),
        ("PLUGIN_LOG_LEVEL", "debug"),
        ("PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH", "-1"),
        ("PLUGIN_MAX_SEND_MESSAGE_LENGTH", "9"),
        ("MESHTRIO_BUSY_POLL", "250.000us"),
        ("PLUGIN_METRICS", "127.0.0.1:9005"),
        ("PLUGIN_METRICS_EXPERIMENTAL", "1"),
    }


@pytest.mark.parametrize(
    ("of_mesh", "of_env", "of_plugin", "expected"),
    [
        ("off", None, None, "off"),
        ("off", "1ms", None, "1ms"),
        ("1ms", "2ms", 0, "off"),
        (None, None, None, None),
    ],
)
def test_busy_polling_is_inherited_from_the_mesh_unless_it_is_set(
    of_mesh: str | None, of_env: str | None, of_plugin: float | None, expected: str | None
) -> None:
    def variables(text: str | None) -> dict[str, str]:
        return {} if text is None else {contract.MESHTRIO_BUSY_POLL: text}

    plugin = make_plugin(max_busy_poll=of_plugin, env=variables(of_env))
    found = environment_of(plugin, inherited=variables(of_mesh))
    assert found.get(contract.MESHTRIO_BUSY_POLL) == expected


@pytest.mark.parametrize(
    ("metrics", "address", "expected"),
    [("mesh", None, None), ("mesh", "127.0.0.1:9464", "mesh"), ("off", "127.0.0.1:9464", None)],
)
def test_metrics_are_served_by_the_mesh_if_it_serves_any(
    metrics: str, address: str | None, expected: str | None
) -> None:
    telemetry = TelemetryConfig(metrics=address)
    assert environment_of(make_plugin(metrics=metrics), telemetry).get("PLUGIN_METRICS") == expected


@pytest.mark.parametrize(
    ("of_mesh", "of_plugin", "expected"),
    [("*", None, "*"), ("*", "", ""), (None, "a.B/*", "a.B/*"), (None, None, None)],
)
def test_the_plugins_own_filter_of_a_binary_log_wins(
    of_mesh: str | None, of_plugin: str | None, expected: str | None
) -> None:
    env = {} if of_plugin is None else {contract.GRPC_BINARY_LOG_FILTER: of_plugin}
    telemetry = TelemetryConfig(binary_log=of_mesh, binary_log_size=1)
    found = environment_of(attrs.evolve(make_plugin(), env=env), telemetry)
    assert found.get("GRPC_BINARY_LOG_FILTER") == expected
    if expected is not None:
        assert found.items() - PLAIN.items() - {("GRPC_BINARY_LOG_FILTER", expected)} == {
            ("PLUGIN_BINARY_LOG_FOLDER", "/run/mesh/binlog"),
            ("PLUGIN_BINARY_LOG_SIZE", "1048576"),
            ("PLUGIN_BINARY_LOG_FILES", "2"),
        }


def test_the_plugins_own_variables_of_opentelemetry_win() -> None:
    telemetry = TelemetryConfig(traces="unix:/c", sampling=0.25)
    plugin = make_plugin(env={"OTEL_SERVICE_NAME": "mine"})
    found = environment_of(plugin, telemetry, instance=1)
    assert {name: value for name, value in found.items() if name.startswith("OTEL_")} == {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=1",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "unix:/c",
        "OTEL_EXPORTER_OTLP_TRACES_INSECURE": "true",
    }
