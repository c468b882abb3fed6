"""OpenTelemetry's variables, which may be there for others: what they mean, and that none harms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio.client.channel import connect_to
from meshtrio.rpc.server import Server
from meshtrio.telemetry.setup import plugin_telemetry
from meshtrio.telemetry.traces.pipeline import sampling_ratio_from_environment
from tests.support.binary_logs import read_entries
from tests.support.connection_pairs import echo_request
from tests.support.handlers import ECHO_SERVICER
from tests.support.otlp_collector import OtlpCollector, run_collector
from tests.support.servers import serve_on_socket


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Remove variables of the environment, so that only the test's count."""
    for key in os.environ:
        if key.startswith("OTEL_"):
            monkeypatch.delenv(key)
    return monkeypatch


@pytest.mark.parametrize(
    ("sampler", "argument", "ratio"),
    [
        ("", "", 1.0),
        ("parentbased_always_on", "0.5", 1.0),
        ("parentbased_always_off", "", 0.0),
        ("parentbased_traceidratio", "", 1.0),
        ("parentbased_traceidratio", "0.25", 0.25),
        ("traceidratio", "0.25", 0.25),
        ("always_on", "", 1.0),
        ("always_off", "", None),
    ],
)
def test_samplers(
    sampler: str,
    argument: str,
    ratio: float | None,
    clean_environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clean_environment.setenv("OTEL_TRACES_SAMPLER", sampler)
    clean_environment.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    assert sampling_ratio_from_environment() == ratio
    # What does not go by parents is told to do so all the same.
    assert ("is replaced by" in caplog.text) is (sampler in ("traceidratio", "always_on"))


async def call_under_variables(
    folder: Path, clean_environment: pytest.MonkeyPatch, **variables: str
) -> OtlpCollector:
    """Make a call, served and made here, and give what came of it to a collector."""
    clean_environment.setenv("OTEL_TRACES_EXPORTER", "otlp")
    clean_environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"unix:{folder / 'c'}")
    clean_environment.setenv("OTEL_EXPORTER_OTLP_INSECURE", "true")
    for key, value in variables.items():
        clean_environment.setenv(key, value)
    async with run_collector(folder / "c") as collector:
        async with plugin_telemetry(), serve_on_socket(folder / "a", Server(ECHO_SERVICER)):
            async with connect_to(f"unix:{folder / 'a'}") as channel:
                await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    return collector


async def test_among_several_exporters(
    short_dir: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    variables = {"OTEL_TRACES_EXPORTER": "console,otlp"}
    collector = await call_under_variables(short_dir, clean_environment, **variables)
    assert len(collector.spans) == 3


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_TRACES_SAMPLER": "always_off"},
        {"OTEL_SDK_DISABLED": "true"},
    ],
)
async def test_nothing_is_traced(
    variables: dict[str, str], short_dir: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    collector = await call_under_variables(short_dir, clean_environment, **variables)
    assert collector.spans == []


async def test_no_more_is_kept_than_they_say(
    short_dir: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    limits = {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "2", "OTEL_SPAN_EVENT_COUNT_LIMIT": "1"}
    collector = await call_under_variables(short_dir, clean_environment, **limits)
    assert [len(got.attributes) for got in collector.spans] == [2, 2, 2]
    assert sorted(len(got.events) for got in collector.spans) == [0, 1, 1]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("OTEL_PROPAGATORS", "nonsense", "Propagator nonsense not found"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1", "must be a non-negative integer"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "x", "must be a non-negative integer"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "OTEL_TRACES_SAMPLER=jaeger_remote is unknown"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "OTEL_TRACES_SAMPLER_ARG=2 is not between 0 and 1"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "host=x", "'host' cannot be the name of a header"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "unsupported OTLP protocol 'http/json'"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "ftp://x",
            "expected http://host:port, host:port or unix:/path",
        ),
    ],
)
def test_one_that_is_wrong_costs_a_plugin_its_traces_and_no_more(
    key: str, value: str, words: str
) -> None:
    program = (
        "import logging, trio\n"
        "from meshtrio.telemetry.setup import plugin_telemetry\n"
        "logging.basicConfig()\n"
        "async def serve():\n"
        "    async with plugin_telemetry():\n"
        "        print('serving')\n"
        "trio.run(serve)\n"
    )
    variables = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables, key: value},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "serving\n"), done.stderr
    assert "calls are not traced: " in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("variable", ["PLUGIN_BINARY_LOG_SIZE", "PLUGIN_BINARY_LOG_FILES"])
async def test_a_limit_of_the_binary_log_that_is_zero_means_the_default(
    variable: str, short_dir: Path, clean_environment: pytest.MonkeyPatch
) -> None:
    clean_environment.setenv("GRPC_BINARY_LOG_FILTER", "*")
    clean_environment.setenv("PLUGIN_BINARY_LOG_FOLDER", str(short_dir))
    clean_environment.setenv("PLUGIN_NAME", "p")
    clean_environment.setenv("PLUGIN_INSTANCE", "0")
    clean_environment.setenv(variable, "0")
    left = short_dir / "p-0.999999900.binlog"  # of no process: pids are smaller
    left.touch()
    async with plugin_telemetry(), serve_on_socket(short_dir / "a", Server(ECHO_SERVICER)):
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"))
    assert len(read_entries(short_dir / f"p-0.{os.getpid()}.binlog")) == 12
    assert left.exists()
