"""grpc-go's channel_soak with 1,000 channels, through a mesh that begins with 1,024 descriptors.

Source: grpc/doc/interop-test-descriptions.md, channel_soak.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests.support.interop_servers import start_meshtrio_server
from tests.support.mesh_processes import MeshProcess, limit_descriptors, serve_mesh
from tests.support.ports import find_free_port
from tests.tools import find_tool

SOFT_LIMIT = 1024
"""What systemd and most shells give; a mesh may have a part of it for connections."""


@attrs.frozen
class Mesh:
    served: MeshProcess
    port: int
    """That of its gateway."""


@contextmanager
def mesh(folder: Path, **settings: int) -> Iterator[Mesh]:
    """A mesh before an interop server, with these settings of its gateway."""
    listen = find_free_port()
    lines = "\n".join(f"{key} = {value}" for key, value in settings.items())
    with start_meshtrio_server() as port:
        config = f"""
        [mesh.gateway]
        listen = "tcp://127.0.0.1:{listen}"
        security = "plaintext"
        {lines}

        [[service]]
        name = "interop"
        endpoints = ["tcp://127.0.0.1:{port}"]
        services = ["grpc.testing.TestService"]
        """
        with limit_descriptors(SOFT_LIMIT), serve_mesh(folder, config) as found:
            yield Mesh(found, listen)


def soak(host: str, port: int, channels: int) -> subprocess.CompletedProcess[str]:
    """Run channel_soak: one call on each of `channels` channels, which all stay open."""
    options = {
        "server_host": host,
        "server_port": port,
        "test_case": "channel_soak",
        "soak_iterations": channels,
        "soak_overall_timeout_seconds": 60,
        "soak_per_iteration_max_acceptable_latency_ms": 10_000,
        "soak_request_size": 1000,
        "soak_response_size": 1000,
    }
    return subprocess.run(
        [find_tool("grpc-interop-client"), *(f"-{key}={value}" for key, value in options.items())],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.long
@pytest.mark.parametrize("over", ["tcp", "unix"])
def test_a_thousand_channels_of_one_client(over: str, short_dir: Path) -> None:
    with mesh(short_dir) as found:
        if over == "tcp":
            done = soak("127.0.0.1", found.port, 1000)
        else:
            done = soak(f"unix:{found.served.socket}", 0, 1000)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "connection limit reached" not in found.served.log


@pytest.mark.long
def test_channels_over_the_configured_limit_are_rejected(short_dir: Path) -> None:
    with mesh(short_dir, max_connections_per_peer=100) as found:
        done = soak("127.0.0.1", found.port, 120)
        assert "soak test successes: 100 / 120 iterations" in done.stderr
        assert "connection limit reached for host 127.0.0.1: 100" in found.served.log
