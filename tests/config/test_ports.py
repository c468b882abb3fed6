"""TCP ports of a config: valid, and used once."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from meshtrio.config import GatewayConfig, MeshConfig, PluginConfig, TelemetryConfig
from meshtrio.config.access import GatewaySecurity
from meshtrio.util.errors import ConfigError


def plug(name: str, **settings: Any) -> PluginConfig:
    return PluginConfig(name, ["x"], **settings)


def problems(*plugins: PluginConfig, gateway: str | None = None, **telemetry: Any) -> list[str]:
    door = (
        GatewayConfig(listen=gateway, security=GatewaySecurity.PLAINTEXT)
        if gateway
        else GatewayConfig()
    )
    try:
        MeshConfig(plugins, telemetry=TelemetryConfig(**telemetry), gateway=door)
    except ConfigError as exc:
        return exc.problems
    return []


@pytest.mark.parametrize(("port", "instances"), [(65534, 1), (65532, 2), (1, 1000)])
def test_as_many_as_there_are(port: int, instances: int) -> None:
    counts = {"instances": instances, "max_instances": instances}
    assert problems(plug("a", listen=f"tcp://127.0.0.1:{port}", **counts)) == []
    assert problems(plug("a", metrics=f"127.0.0.1:{port}", **counts)) == []


@pytest.mark.parametrize(("port", "instances", "last"), [(65535, 1, 65536), (65533, 2, 65536)])
def test_more_than_there_are(port: int, instances: int, last: int) -> None:
    said = f"the instances and their successors take ports {port} to {last}; the highest is 65535"
    listening = plug("a", listen=f"tcp://127.0.0.1:{port}", instances=instances)
    assert problems(listening) == [f"plugin 'a': listen: {said}"]
    measured = plug("a", metrics=f"127.0.0.1:{port}", instances=instances)
    assert problems(measured) == [f"plugin 'a': metrics: {said}"]


def test_more_instances_than_there_are_ports_for() -> None:
    few = plug("a", listen="tcp://127.0.0.1:65530")
    config = MeshConfig([few])
    with pytest.raises(ConfigError, match="the highest is 65535"):
        attrs.evolve(config, plugins=[attrs.evolve(few, instances=4)])


A = "tcp://127.0.0.1:7000"


@pytest.mark.parametrize(
    ("plugins", "others", "words"),
    [
        ([plug("b", listen=A)], {}, "plugin 'b': listen: takes ports 7000 to 7001, and plugin 'a'"),
        ([plug("b", listen="tcp://127.0.0.1:7003")], {}, "plugin 'b': listen: takes ports 7003"),
        ([plug("b", listen="tcp://0.0.0.0:7003")], {}, "plugin 'b': listen: takes ports 7003"),
        ([plug("b", metrics="127.0.0.1:6999")], {}, "plugin 'b': metrics: takes ports 6999"),
        ([], {"metrics": "127.0.0.1:7003"}, "and mesh: telemetry: metrics takes port 7003"),
        ([], {"gateway": "tcp://127.0.0.1:7000"}, "and mesh: gateway: listen takes port 7000"),
    ],
)
def test_one_that_is_taken_twice(
    plugins: list[PluginConfig], others: dict[str, str], words: str
) -> None:
    (problem,) = problems(plug("a", listen=A, instances=2), *plugins, **others)
    assert words in problem


def test_others_do_not_meet() -> None:
    beside = [plug("b", listen="tcp://127.0.0.1:7004"), plug("c", listen="tcp://127.0.0.2:7000")]
    assert problems(plug("a", listen=A, instances=2), *beside, plug("d"), plug("e")) == []
