"""What a mesh does before it serves."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshtrio.gateway import mesh_server
from meshtrio.transport.listener import unix_listener
from meshtrio.util.errors import ConfigError
from tests.support.in_process_mesh import run_mesh
from tests.support.ports import find_free_port


async def test_tls_files_that_cannot_be_used_are_found_before_the_mesh_socket_is_bound(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients would see a mesh that goes away at once."""
    bound = []

    @contextmanager
    def recording_listener(path: Path) -> Iterator[socket.socket]:
        bound.append(path.name)
        with unix_listener(path) as listener:
            yield listener

    monkeypatch.setattr(mesh_server, "unix_listener", recording_listener)
    async with run_mesh("", short_dir):
        assert bound == ["mesh.sock"]
    for name in ("cert.pem", "key.pem"):
        (short_dir / name).write_text("nonsense")
        (short_dir / name).chmod(0o600)
    files = 'certificate = "cert.pem", key = "key.pem", client_ca = "cert.pem"'
    config = f'[mesh.gateway]\nlisten = "tcp://127.0.0.1:{find_free_port()}"\ntls = {{ {files} }}\n'
    config += '[mesh.access.gateway]\nsubjects = ["*"]\n'
    with pytest.raises(ConfigError, match="mesh: gateway: tls: cannot be used: "):
        async with run_mesh(config, short_dir):
            pass
    assert bound == ["mesh.sock"]
