"""What is known of an endpoint by its address."""

from __future__ import annotations

import pytest

from meshtrio.client.endpoint import target_of


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("plugin.echo", "mesh:///plugin.echo"),
        ("unix:/run/echo.sock", "unix:///run/echo.sock"),
        ("unix:///run/echo.sock", "unix:///run/echo.sock"),
        ("tcp:127.0.0.1:50051", "dns:///127.0.0.1:50051"),
        ("tcp://localhost:50051", "dns:///localhost:50051"),
        ("tcp:[::1]:50051", "dns:///[::1]:50051"),
        ("nonsense:", "nonsense:"),
    ],
)
def test_a_target_is_what_grpc_makes_of_the_same_address(name: str, target: str) -> None:
    assert target_of(name) == target
