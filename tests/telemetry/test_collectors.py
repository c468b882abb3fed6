"""Where spans go: as a config says it, as OpenTelemetry's variables do, and as plugins are told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from meshtrio.config.mesh import MeshConfig
from meshtrio.config.otlp_endpoint import OtlpEndpoint
from meshtrio.config.plugin import PluginConfig
from meshtrio.config.telemetry import TelemetryConfig
from meshtrio.util.errors import ConfigError
from meshtrio.util.tls_config import ClientTlsConfig
from tests.support.plugin_environments import environment_of

PREFIX = "OTEL_EXPORTER_OTLP_"
HTTP = {"PROTOCOL": "http/protobuf"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove the variables of collectors from the environment."""
    for key in os.environ:
        if key.startswith(PREFIX):
            monkeypatch.delenv(key)
    return monkeypatch


def test_as_a_config_says_it() -> None:
    assert OtlpEndpoint.parse("tcp:[::1]:4317").address == "tcp:[::1]:4317"
    assert OtlpEndpoint.parse("http://host:4318").url == "http://host:4318/v1/traces"
    assert OtlpEndpoint.parse("https://host/otlp").url == "https://host/otlp"
    for wrong in ("", "host:4317", "ftp://x", "http://", "tcp:x"):
        with pytest.raises(ValueError, match=r"neither|expected"):
            OtlpEndpoint.parse(wrong)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({}, OtlpEndpoint("tcp:localhost:4317")),
        ({"ENDPOINT": "", "PROTOCOL": ""}, OtlpEndpoint("tcp:localhost:4317")),
        ({"ENDPOINT": "http://host"}, OtlpEndpoint("tcp:host:4317")),
        ({"ENDPOINT": "http://[::1]:1"}, OtlpEndpoint("tcp:[::1]:1")),
        ({"ENDPOINT": "https://host:1/x"}, OtlpEndpoint("tcp:host:1", tls=ClientTlsConfig())),
        ({"ENDPOINT": "host:1"}, OtlpEndpoint("tcp:host:1", tls=ClientTlsConfig())),
        ({"ENDPOINT": "host:1", "INSECURE": "True"}, OtlpEndpoint("tcp:host:1")),
        ({"ENDPOINT": "http://host:1", "INSECURE": "false"}, OtlpEndpoint("tcp:host:1")),
        ({"ENDPOINT": "unix:///run/c"}, OtlpEndpoint("unix:/run/c")),
        ({"ENDPOINT": "http://a:1", "TRACES_ENDPOINT": "http://b:1"}, OtlpEndpoint("tcp:b:1")),
        (HTTP, OtlpEndpoint(url="http://localhost:4318/v1/traces")),
        (HTTP | {"ENDPOINT": "http://h/otlp/"}, OtlpEndpoint(url="http://h/otlp/v1/traces")),
        (HTTP | {"TRACES_ENDPOINT": "http://h/otlp"}, OtlpEndpoint(url="http://h/otlp")),
        ({"TRACES_PROTOCOL": "grpc"} | HTTP, OtlpEndpoint("tcp:localhost:4317")),
        (
            {"ENDPOINT": "https://h:1", "CERTIFICATE": "/ca", "TRACES_CLIENT_KEY": "/key"},
            OtlpEndpoint("tcp:h:1", tls=ClientTlsConfig(ca=Path("/ca"), key=Path("/key"))),
        ),
        (
            HTTP | {"ENDPOINT": "https://h", "CLIENT_CERTIFICATE": "/cert"},
            OtlpEndpoint(url="https://h/v1/traces", tls=ClientTlsConfig(certificate=Path("/cert"))),
        ),
        ({"CERTIFICATE": "/ca"}, OtlpEndpoint("tcp:localhost:4317")),
        (
            {"HEADERS": "Api-Key = a%20b%3D ,, x=y=z"},
            OtlpEndpoint("tcp:localhost:4317", headers=(("api-key", "a b="), ("x", "y=z"))),
        ),
        (
            {"HEADERS": "a=b", "TRACES_HEADERS": "c=d"},
            OtlpEndpoint("tcp:localhost:4317", headers=(("c", "d"),)),
        ),
    ],
)
def test_as_opentelemetrys_variables_say_it(
    said: dict[str, str], meant: OtlpEndpoint, environment: pytest.MonkeyPatch
) -> None:
    for key, value in said.items():
        environment.setenv(PREFIX + key, value)
    assert OtlpEndpoint.from_environment() == meant


@pytest.mark.parametrize(
    "said", [{"PROTOCOL": "http/json"}, {"ENDPOINT": "ftp://host"}, {"ENDPOINT": "http://"}]
)
def test_what_cannot_be(said: dict[str, str], environment: pytest.MonkeyPatch) -> None:
    for key, value in said.items():
        environment.setenv(PREFIX + key, value)
    with pytest.raises(ValueError, match=r"unsupported|expected"):
        OtlpEndpoint.from_environment()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("secret", "is not of the form name=value"),
        ("a=b,secret", "is not of the form name=value"),
        ("a b=secret", "'a b' cannot be the name of a header"),
        ("grpc-timeout=secret", "'grpc-timeout' cannot be the name of a header"),
        ("User-Agent=secret", "'user-agent' cannot be the name of a header"),
        ("key-bin=secret", "'key-bin' cannot be the name of a header"),
        ("key=secret%0A", None),
        ("key=secret%0Ax", "the value of 'key' is not printable ASCII"),
    ],
)
def test_headers_that_cannot_be_sent(
    said: str, words: str | None, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv(PREFIX + "HEADERS", said)
    if words is None:
        assert OtlpEndpoint.from_environment().headers == (("key", "secret"),)
        return
    with pytest.raises(ValueError, match=words) as caught:
        OtlpEndpoint.from_environment()
    assert PREFIX + "HEADERS" in str(caught.value)
    assert "secret" not in str(caught.value)


FILES = ClientTlsConfig(ca=Path("/ca"), certificate=Path("/cert"), key=Path("/key"))
KEY = {"Api-Key": 'a "b", c=d%'}


@pytest.mark.parametrize(
    "config",
    [
        TelemetryConfig(traces="tcp:host:1"),
        TelemetryConfig(traces="tcp:[::1]:1"),
        TelemetryConfig(traces="unix:/run/c"),
        TelemetryConfig(traces="unix:/run/c", traces_headers=KEY),
        TelemetryConfig(traces="https://h/v1/t"),
        TelemetryConfig(traces="https://h/v1/t", traces_tls=FILES, traces_headers=KEY),
        TelemetryConfig(traces="tcp:host:1", traces_tls=FILES, traces_headers=KEY),
        TelemetryConfig(traces="tcp:host:1", traces_tls=ClientTlsConfig()),
    ],
)
def test_a_plugin_is_told_what_it_reads(
    config: TelemetryConfig, environment: pytest.MonkeyPatch
) -> None:
    meant = config.otlp_endpoint
    assert meant is not None
    told = meant.environment
    for key, value in told.items():
        environment.setenv(key, value)
    assert OtlpEndpoint.from_environment() == meant
    # By the specification, what has no scheme is with TLS unless this is said.
    assert ("OTEL_EXPORTER_OTLP_TRACES_INSECURE" in told) is meant.address.startswith("unix:")


def test_a_key_of_the_certificates_file_is_told_as_one_of_its_own() -> None:
    tls = ClientTlsConfig(certificate=Path("both.pem"))
    told = OtlpEndpoint("tcp:host:1", tls=tls).environment
    where = str(Path("both.pem").absolute())
    assert told[PREFIX + "TRACES_CLIENT_CERTIFICATE"] == where
    assert told[PREFIX + "TRACES_CLIENT_KEY"] == where


def test_headers_are_those_of_the_config_or_else_of_the_variable(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv(PREFIX + "HEADERS", "key=variable")
    plain, with_key = (TelemetryConfig(traces="unix:/c", traces_headers=h) for h in ({}, KEY))
    assert plain.otlp_endpoint == OtlpEndpoint("unix:/c", headers=(("key", "variable"),))
    assert with_key.otlp_endpoint == OtlpEndpoint("unix:/c", headers=(("api-key", KEY["Api-Key"]),))
    assert KEY["Api-Key"] not in repr(with_key) + repr(with_key.otlp_endpoint)
    # A plugin's own are as good for traces as they are for all signals.
    own = PluginConfig("a", ["x"], env={PREFIX + "HEADERS": "key=own"})
    found = environment_of(own, with_key)
    assert [name for name in found if name.endswith("HEADERS")] == [PREFIX + "HEADERS"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"traces_tls": FILES}, "traces_tls requires a collector: set traces, too"),
        ({"traces_headers": KEY}, "traces_headers requires a collector: set traces, too"),
        ({"traces_tls": FILES, "traces": "unix:/c"}, "on tcp:… or https://…, not unix:/c"),
        ({"traces_tls": FILES, "traces": "http://h"}, "on tcp:… or https://…, not http://h"),
        (
            {"traces_tls": ClientTlsConfig(server_name="x"), "traces": "tcp:h:1"},
            "server_name cannot be passed to plugins",
        ),
    ],
)
def test_what_does_not_go_together(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MeshConfig(telemetry=TelemetryConfig(**values))


def test_a_variable_that_is_wrong_is_told_before_anything_starts(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv(PREFIX + "HEADERS", "secret")
    MeshConfig(telemetry=TelemetryConfig(traces="unix:/c", traces_headers=KEY))
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_HEADERS is not of the form"):
        MeshConfig(telemetry=TelemetryConfig(traces="unix:/c"))


@pytest.mark.parametrize("key", ["ENDPOINT", "TRACES_ENDPOINT"])
def test_a_plugin_with_a_collector_of_its_own_is_told_of_no_other(key: str) -> None:
    config = TelemetryConfig(traces="unix:/run/c")
    elsewhere = PluginConfig("a", ["x"], env={PREFIX + key: "http://elsewhere:4317"})
    told = environment_of(elsewhere, config)
    assert told["OTEL_TRACES_EXPORTER"] == "otlp"
    assert [name for name in told if name.startswith(PREFIX)] == [PREFIX + key]
    assert PREFIX + "TRACES_ENDPOINT" in environment_of(PluginConfig("a", ["x"]), config)
