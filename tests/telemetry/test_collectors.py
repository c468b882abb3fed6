"""Where spans go: as a config says it, as OpenTelemetry's variables do, and as plugins are told."""

from __future__ import annotations

import os

import pytest

from meshtrio.config.collector import Collector
from meshtrio.config.plugin import PluginConfig
from meshtrio.config.telemetry import TelemetryConfig

PREFIX = "OTEL_EXPORTER_OTLP_"
HTTP = {"PROTOCOL": "http/protobuf"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One that says nothing of collectors."""
    for key in os.environ:
        if key.startswith(PREFIX):
            monkeypatch.delenv(key)
    return monkeypatch


def test_as_a_config_says_it() -> None:
    assert Collector.parse("tcp:[::1]:4317").address == "tcp:[::1]:4317"
    assert Collector.parse("http://host:4318").url == "http://host:4318/v1/traces"
    assert Collector.parse("https://host/otlp").url == "https://host/otlp"
    for wrong in ("", "host:4317", "ftp://x", "http://", "tcp:x"):
        with pytest.raises(ValueError, match=r"neither|none of"):
            Collector.parse(wrong)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({}, Collector("tcp:localhost:4317")),
        ({"ENDPOINT": "", "PROTOCOL": ""}, Collector("tcp:localhost:4317")),
        ({"ENDPOINT": "http://host"}, Collector("tcp:host:4317")),
        ({"ENDPOINT": "http://[::1]:1"}, Collector("tcp:[::1]:1")),
        ({"ENDPOINT": "https://host:1/x"}, Collector("tcp:host:1", tls=True)),
        ({"ENDPOINT": "host:1"}, Collector("tcp:host:1", tls=True)),
        ({"ENDPOINT": "host:1", "INSECURE": "True"}, Collector("tcp:host:1")),
        ({"ENDPOINT": "http://host:1", "INSECURE": "false"}, Collector("tcp:host:1")),
        ({"ENDPOINT": "unix:///run/c"}, Collector("unix:/run/c")),
        ({"ENDPOINT": "http://a:1", "TRACES_ENDPOINT": "http://b:1"}, Collector("tcp:b:1")),
        (HTTP, Collector(url="http://localhost:4318/v1/traces")),
        (HTTP | {"ENDPOINT": "http://h/otlp/"}, Collector(url="http://h/otlp/v1/traces")),
        (HTTP | {"TRACES_ENDPOINT": "http://h/otlp"}, Collector(url="http://h/otlp")),
        ({"TRACES_PROTOCOL": "grpc"} | HTTP, Collector("tcp:localhost:4317")),
    ],
)
def test_as_opentelemetrys_variables_say_it(
    said: dict[str, str], meant: Collector, environment: pytest.MonkeyPatch
) -> None:
    for key, value in said.items():
        environment.setenv(PREFIX + key, value)
    assert Collector.from_environment() == meant


@pytest.mark.parametrize(
    "said", [{"PROTOCOL": "http/json"}, {"ENDPOINT": "ftp://host"}, {"ENDPOINT": "http://"}]
)
def test_what_cannot_be(said: dict[str, str], environment: pytest.MonkeyPatch) -> None:
    for key, value in said.items():
        environment.setenv(PREFIX + key, value)
    with pytest.raises(ValueError, match=r"neither|none of"):
        Collector.from_environment()


@pytest.mark.parametrize("text", ["tcp:host:1", "tcp:[::1]:1", "unix:/run/c", "https://h/v1/t"])
def test_a_plugin_is_told_what_it_reads(text: str, environment: pytest.MonkeyPatch) -> None:
    told = Collector.parse(text).environment
    for key, value in told.items():
        environment.setenv(key, value)
    assert Collector.from_environment() == Collector.parse(text)
    # By the specification, what has no scheme is with TLS unless this is said.
    assert ("OTEL_EXPORTER_OTLP_TRACES_INSECURE" in told) is text.startswith("unix:")


@pytest.mark.parametrize("key", ["ENDPOINT", "TRACES_ENDPOINT"])
def test_a_plugin_with_a_collector_of_its_own_is_told_of_no_other(key: str) -> None:
    config = TelemetryConfig(traces="unix:/run/c")
    elsewhere = PluginConfig("a", ["x"], env={PREFIX + key: "http://elsewhere:4317"})
    told = config.environment(elsewhere, 0, 0)
    assert told["OTEL_TRACES_EXPORTER"] == "otlp"
    assert not [name for name in told if name.startswith(PREFIX)]
    assert PREFIX + "TRACES_ENDPOINT" in config.environment(PluginConfig("a", ["x"]), 0, 0)
