"""What `ready` and `service` may be, and what they mean together."""

from __future__ import annotations

from typing import Any

import pytest

from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.util.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "has_service"),
    [
        ({}, True),
        ({"ready": "started"}, False),
        ({"ready": "started", "service": False}, False),
        ({"ready": "started", "service": True}, True),
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
        ({"ready": "started", "services": ["a.B"]}, "services: is for a plugin with a service"),
    ],
)
def test_a_combination_that_cannot_work_is_an_error(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        MeshConfig([PluginConfig("p", ["true"], **settings)])


@pytest.mark.parametrize("text", ["", "GRPC", "start", "started "])
def test_an_unknown_kind_of_readiness_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be .*not '"):
        PluginConfig("p", ["true"], ready=text)
