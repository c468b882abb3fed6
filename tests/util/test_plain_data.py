"""Objects as plain data, and back, also by another version of their classes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import attrs
import pytest

from meshtrio.config import (
    DiscoveryConfig,
    GatewayConfig,
    GatewaySecurity,
    GroupConfig,
    MeshConfig,
    PluginConfig,
    RestartPolicy,
    StaticServiceConfig,
)
from meshtrio.config.containment import Containment, Rlimits
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.supervisor import events
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.util.log_level import LogLevel
from meshtrio.util.plain_data import PlainDataError, from_plain, to_plain
from meshtrio.util.tls_config import ClientTlsConfig


class Color(Enum):
    RED = "red"


@attrs.frozen
class Inner:
    number: int
    _hidden: str = "default"


@attrs.frozen
class Outer:
    color: Color = Color.RED
    inner: Inner | None = None
    data: bytes = b""
    path: Path = Path("/")
    names: tuple[str, ...] = ()
    pair: tuple[int, str] = (0, "")
    users: frozenset[int] = frozenset()
    by_name: Mapping[str, float] = attrs.field(factory=dict)
    by_number: Mapping[int, Inner] = attrs.field(factory=dict)
    anything: Any = None


OUTER = Outer(
    Color.RED,
    Inner(7, "seen"),
    bytes(range(256)),
    Path("/tmp/\udcff"),
    ("a", "ü\0\udcff"),
    (1, "one"),
    frozenset({1, 2}),
    {"inf": math.inf, "minus": -math.inf},
    {3: Inner(3)},
    {"x": [1, None, True]},
)
CONFIG = MeshConfig(
    plugins=[
        PluginConfig(
            "one",
            ["{python}", "x.py"],
            instances=3,
            env={"KEY": "value", "EMPTY": ""},
            cwd=Path("/srv"),
            restart=RestartPolicy.ON_FAILURE,
            always_restart_on=[3, 4],
            max_connection_age=math.inf,
            tls=ClientTlsConfig(ca=Path("/ca.pem"), server_name="x"),
            containment=Containment(rlimits=Rlimits(nofile=5), umask=0o077),
            inherit_env=["PATH"],
        ),
        PluginConfig("two", ["true"], depends_on=["one"]),
    ],
    groups=[GroupConfig("both", ["one", "two"])],
    services=[
        StaticServiceConfig("s", ["tcp://127.0.0.1:1"], config={"methodConfig": []}, local=False)
    ],
    gateway=GatewayConfig(listen="tcp://127.0.0.1:5", security=GatewaySecurity.PLAINTEXT),
    discovery=DiscoveryConfig(),
    runtime_dir=Path("/run/x"),
)


@pytest.mark.parametrize(
    "value",
    [
        OUTER,
        Outer(),
        CONFIG,
        MeshConfig(),
        Endpoint("id", "unix:/x", tls=ClientTlsConfig(), server_uid=5),
        Exit(status=1, reason="r", explicit_cause=ExitCause.UNHEALTHY, stderr_tail=("a", "b")),
        events.Exited("p", 1, 2, Exit(signal=9)),
        events.LogLevelSet("p", 1, LogLevel.DEBUG),
    ],
)
def test_values_come_back_as_they_were(value: Any) -> None:
    text = json.dumps(to_plain(value))
    assert from_plain(type(value), json.loads(text)) == value


def test_another_version_of_a_class() -> None:
    """Unknown keys are ignored, and missing ones have their defaults."""
    assert from_plain(Inner, {"number": 1, "color": "blue"}) == Inner(1)
    assert from_plain(Outer, {"inner": {"number": 2, "later": []}}) == Outer(inner=Inner(2))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ([], "Outer: is list, not an object"),
        ({"inner": {}}, "Outer.inner: .*number"),
        ({"inner": {"number": "1"}}, "Outer.inner.number: is str, not int"),
        ({"color": "blue"}, "Outer.color: 'blue' is not a valid Color"),
        ({"data": 5}, "Outer.data: "),
        ({"data": "\u0100"}, "Outer.data: "),
        ({"path": 5}, "Outer.path: "),
        ({"names": "abc"}, "Outer.names: is str, not a list"),
        ({"names": ["a", 1]}, r"Outer.names\[1\]: is int, not str"),
        ({"pair": [1]}, "Outer.pair: has 1 items, not 2"),
        ({"by_name": [1]}, "Outer.by_name: is no mapping"),
        ({"by_name": "x"}, "Outer.by_name: is no mapping"),
        ({"by_name": {"a": "b"}}, r"Outer.by_name\['a'\]: is str, not float"),
        ({"users": [[]]}, r"Outer.users\[0\]: is list, not int"),
    ],
)
def test_what_does_not_fit_is_named(data: Any, problem: str) -> None:
    with pytest.raises(PlainDataError, match=problem):
        from_plain(Outer, data)


def test_validators_apply() -> None:
    data = to_plain(CONFIG)
    data["plugins"][0]["instances"] = 0
    with pytest.raises(PlainDataError, match=r"plugins\[0\]"):
        from_plain(MeshConfig, data)


def test_what_cannot_be_plain() -> None:
    with pytest.raises(TypeError, match="object cannot be converted to plain data"):
        to_plain(object())
