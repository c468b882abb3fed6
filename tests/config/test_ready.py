"""What `ready` and `service` may be, and what they mean together."""

from __future__ import annotations

from typing import Any

import pytest

from meshtrio.config import Liveness, MeshConfig, PluginConfig, ReplacementOrder, StartMethod
from meshtrio.config.ready import (
    ConnectCheck,
    FdCheck,
    GrpcCheck,
    HttpCheck,
    NotifyCheck,
    ServerCheck,
    parse_check,
)
from meshtrio.util.address import Address
from meshtrio.util.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "has_service"),
    [
        ({}, True),
        ({"ready": "started"}, False),
        ({"ready": "started", "service": False}, False),
        ({"ready": "started", "service": True}, True),
        ({"ready": "fd:3"}, True),
        ({"ready": "notify"}, True),
        ({"ready": "notify", "service": False}, False),
        ({"ready": "tcp:localhost:6379"}, False),
        ({"ready": "http://localhost/"}, False),
    ],
)
def test_a_plugin_has_a_service_if_its_readiness_is_grpcs_or_the_config_says_so(
    settings: dict[str, Any], has_service: bool
) -> None:
    assert PluginConfig("p", ["true"], **settings).has_service is has_service


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"service": False}, 'service: is false, but `ready` is "grpc"'),
        ({"ready": "notify", "env": {"NOTIFY_SOCKET": "/x"}}, "env: NOTIFY_SOCKET is set by"),
        ({"liveness": Liveness(check="notify"), "env": {"WATCHDOG_USEC": "1"}}, "env: WATCHDOG_"),
        ({"ready": "started", "services": ["a.B"]}, "services: is for a plugin with a service"),
        (
            {"ready": "unix:/run/x", "instances": 2},
            r"ready: the 2 instances need a path each; put \{instance\} into it",
        ),
        ({"ready": "tcp:[::1]:65535", "instances": 2}, "plus n, up to 65536"),
        ({"ready": "started", "liveness": Liveness(check="grpc")}, "liveness.check: grpc is for"),
        (
            {"liveness": Liveness(check="unix:/x"), "instances": 2},
            "liveness.check: the 2 instances",
        ),
        (
            {"ready": "fd:3", "start": StartMethod.FORK, "command": ["{python}", "x.py"]},
            'ready: fd:3 requires start = "exec"',
        ),
    ],
)
def test_a_combination_that_cannot_work_is_an_error(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        MeshConfig([PluginConfig("p", **{"command": ["true"], **settings})])


WRONG = [
    *("", "GRPC", "start", "started ", "tcp", "exec:true", "https://host/"),
    *("fd:", "fd:2", "fd:1024", "fd:-3", "fd:3 ", "fd:\N{SUPERSCRIPT TWO}", "fd:" + "9" * 5000),
    *("tcp:", "tcp:host", "tcp:host:0", "tcp:host:65536", "tcp:::1:80", "tcp:[::1]80"),
    *("tcp:a b:80", "tcp:host:80/x", "tcp:ho\0st:1", "tcp:host:8\n"),
    *("unix:", "unix:relative", "unix:/a\0b", "unix:/" + "x" * 107),
    *("http:", "http://", "http:///x", "http://host:0/", "http://host:70000/", "http://[::1/"),
    *("http://host/a b", "http://host/\r\nX: y", "http://host/#part", "http://u@host/"),
    *("http://host/\N{LATIN SMALL LETTER E WITH ACUTE}", "http://host?x"),
]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_kind_of_readiness_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be |the path may have 107"):
        PluginConfig("p", ["true"], ready=text)
    with pytest.raises(ValueError, match=r"must be |the path may have 107"):
        Liveness(check=text)


@pytest.mark.parametrize("text", ["started", "fd:3"])
def test_what_happens_once_is_no_check_of_liveness(text: str) -> None:
    with pytest.raises(ValueError, match="again and again"):
        Liveness(check=text)


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("fd:3", FdCheck(3)),
        ("tcp:localhost:80", ConnectCheck(Address(host="localhost", port=82))),
        ("tcp://[::1]:80", ConnectCheck(Address(host="::1", port=82))),
        ("unix:/a/{instance}.sock", ConnectCheck(Address(path="/a/2.sock"))),
        ("unix:///a", ConnectCheck(Address(path="/a"))),
        ("http://h", HttpCheck(Address(host="h", port=82), "/")),
        ("http://[::1]:8080/a/{instance}?b", HttpCheck(Address(host="::1", port=8082), "/a/2?b")),
    ],
)
def test_the_address_of_an_instance(text: str, check: object) -> None:
    found = parse_check(text)
    assert (found.for_instance(2) if isinstance(found, ServerCheck) else found) == check


@pytest.mark.parametrize(
    ("settings", "check"),
    [
        ({}, GrpcCheck()),
        ({"ready": "started"}, None),
        ({"ready": "fd:3"}, None),
        ({"ready": "notify"}, NotifyCheck()),
        ({"liveness": Liveness(check="notify")}, NotifyCheck()),
        ({"ready": "tcp:h:1"}, ConnectCheck(Address(host="h", port=1))),
        ({"ready": "started", "liveness": Liveness(check="tcp:h:1")}, parse_check("tcp:h:1")),
        ({"ready": "fd:3", "service": True, "liveness": Liveness(check="grpc")}, GrpcCheck()),
    ],
)
def test_liveness_is_checked_as_readiness_unless_the_config_says_otherwise(
    settings: dict[str, Any], check: object
) -> None:
    config = PluginConfig("p", ["true"], **settings)
    MeshConfig([config])
    assert config.liveness_check == check


@pytest.mark.parametrize(
    ("settings", "order"),
    [
        ({}, "start-first"),
        ({"ready": "started"}, "start-first"),
        ({"ready": "tcp:h:1"}, "stop-first"),
        ({"ready": "http://h", "service": True}, "stop-first"),
        ({"ready": "unix:/x", "replace": ReplacementOrder.START_FIRST}, "start-first"),
        ({"replace": ReplacementOrder.STOP_FIRST}, "stop-first"),
    ],
)
def test_a_process_with_a_fixed_address_is_stopped_before_its_successor_is_started(
    settings: dict[str, Any], order: str
) -> None:
    assert PluginConfig("p", ["true"], **settings).replacement_order.value == order
