"""Listening sockets that a service manager passes, and what a mesh refuses to use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.mesh_processes import (
    MINIMAL_COMMAND,
    accepts_connections,
    plugin_table,
    run_meshtrio,
    serve_mesh,
    wait_until,
)
from tests.support.ports import find_free_port
from tests.support.service_managers import (
    listen_tcp,
    listen_unix,
    serve_mesh_with_sockets,
    socket_launcher,
)
from tests.tools import find_debian_tool

P = plugin_table("p", *MINIMAL_COMMAND)


def mesh_table(gateway: int | None = None, metrics: int | None = None) -> str:
    lines = []
    if gateway is not None:
        lines += ["[mesh.gateway]", f'listen = "tcp:127.0.0.1:{gateway}"', 'security = "plaintext"']
    if metrics is not None:
        lines += ["[mesh.telemetry]", f'metrics = "127.0.0.1:{metrics}"']
    return "\n".join([*lines, ""])


def status(address: str) -> subprocess.CompletedProcess[str]:
    """Run a command that needs an answer of the mesh at an address."""
    return run_meshtrio("ps", env={**os.environ, "MESH_SOCKET": address})


@pytest.fixture
def sockets(short_dir: Path) -> Iterator[dict[str, socket.socket]]:
    """All three sockets, by name; nothing accepts there."""
    with ExitStack() as stack:
        mesh = stack.enter_context(listen_unix(short_dir / "run" / "mesh.sock"))
        gateway, metrics = (stack.enter_context(listen_tcp()[0]) for _ in range(2))
        yield {"mesh": mesh, "gateway": gateway, "metrics": metrics}


def config_for(sockets: Mapping[str, socket.socket]) -> str:
    ports = (sockets[name].getsockname()[1] for name in ("gateway", "metrics"))
    return mesh_table(*ports)


def test_all_three_are_used_and_outlive_meshes(
    short_dir: Path, sockets: dict[str, socket.socket]
) -> None:
    config = config_for(sockets) + P
    path = short_dir / "run" / "mesh.sock"
    inode = path.stat().st_ino
    metrics_port = sockets["metrics"].getsockname()[1]
    for _ in range(2):
        with ThreadPoolExecutor() as pool, ExitStack() as stack:
            # They connect before there is a mesh, and are served once it is up.
            early = pool.submit(status, str(path))
            connected = stack.enter_context(socket.create_connection(("127.0.0.1", metrics_port)))
            connected.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            with serve_mesh_with_sockets(short_dir, config, sockets, min_ready=1) as mesh:
                assert "p" in early.result().stdout
                connected.settimeout(60)
                assert connected.recv(12) == b"HTTP/1.1 200"
                host = f"http://127.0.0.1:{metrics_port}/metrics"
                assert b"mesh" in urllib.request.urlopen(host, timeout=60).read()
                names = os.listdir(f"/proc/{mesh.plugin_pids()[0]}/fd")
                assert not {
                    os.readlink(f"/proc/{mesh.plugin_pids()[0]}/fd/{name}") for name in names
                } & {f"socket:[{os.fstat(each.fileno()).st_ino}]" for each in sockets.values()}
                assert mesh.stop() == 0
                assert "recreating" not in mesh.log
        assert path.stat().st_ino == inode
        for each in sockets.values():
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_connections_wait_from_one_mesh_to_the_next(
    short_dir: Path, sockets: dict[str, socket.socket]
) -> None:
    """None is accepted by a mesh that has begun to stop, reset, or refused in between."""
    config = config_for(sockets) + P
    with serve_mesh_with_sockets(short_dir, config, sockets, min_ready=1) as mesh:
        assert mesh.stop() == 0
    with ExitStack() as stack:
        clients = [
            stack.enter_context(connect(each.family, each.getsockname()))
            for each in (sockets["mesh"], sockets["gateway"])
            for _ in range(5)
        ]
        with serve_mesh_with_sockets(short_dir, config, sockets, min_ready=1):
            for client in clients:
                assert client.recv(9)[3] == 4  # SETTINGS


def connect(family: int, address: Any) -> socket.socket:
    client = socket.socket(family)
    client.settimeout(60)
    client.connect(address)
    client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    return client


def test_a_mesh_socket_of_systemd_that_was_removed_is_replaced(
    short_dir: Path, sockets: dict[str, socket.socket]
) -> None:
    del sockets["gateway"], sockets["metrics"]
    path = short_dir / "run" / "mesh.sock"
    with serve_mesh_with_sockets(short_dir, P, sockets, min_ready=1) as mesh:
        path.unlink()
        wait_until(lambda: accepts_connections(path))
        mesh.wait_for_log("was removed; recreating")
        assert mesh.ps()
        assert mesh.stop() == 0
    assert not path.exists()
    # systemd passes the same socket again, which no client can reach.
    with serve_mesh_with_sockets(short_dir, P, sockets, min_ready=1) as mesh:
        assert "Restart the .socket unit" in mesh.log
        assert mesh.ps()


def test_a_lock_file_that_was_removed_is_made_again(
    short_dir: Path, sockets: dict[str, socket.socket]
) -> None:
    del sockets["gateway"], sockets["metrics"]
    path, lock = short_dir / "run" / "mesh.sock", short_dir / "run" / "mesh.lock"
    inode = path.stat().st_ino
    with serve_mesh_with_sockets(short_dir, P, sockets, min_ready=1) as mesh:
        lock.unlink()
        wait_until(lock.exists)
        assert mesh.ps()
        assert mesh.stop() == 0
        assert "error" not in mesh.log
    assert path.stat().st_ino == inode


def listen_at(folder: Path) -> socket.socket:
    return listen_unix(folder / "other.sock")


def make_datagram_socket(folder: Path) -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def make_closed_port(folder: Path) -> socket.socket:
    return socket.socket(socket.AF_INET)


def make_abstract(folder: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"\0{folder}/mesh.sock")
    listener.listen()
    return listener


def make_port(folder: Path) -> socket.socket:
    return listen_tcp()[0]


@pytest.mark.parametrize(
    ("name", "make", "text"),
    [
        ("mesh", make_port, "FileDescriptorName=mesh is not a Unix stream socket"),
        ("mesh", make_datagram_socket, "FileDescriptorName=mesh is not a Unix stream socket"),
        ("mesh", listen_at, "is bound to {0}/other.sock, and the mesh socket is {0}/run/mesh.sock"),
        ("mesh", make_abstract, "is bound to no path"),
        ("gateway", listen_at, "FileDescriptorName=gateway is not a TCP socket"),
        ("gateway", make_closed_port, "FileDescriptorName=gateway does not listen"),
        ("gateway", make_port, "and the config has no listen in [mesh.gateway]"),
        ("metrics", make_port, "and the config has no metrics in [mesh.telemetry]"),
        ("mesh.socket", make_port, "FileDescriptorName=mesh.socket, which is unknown"),
        ("", make_port, "1 sockets with 0 names"),
        ("gateway:more", make_port, "1 sockets with 2 names"),
        ("\x1b[31m", make_port, "FileDescriptorName=\\x1b[31m, which is unknown"),
    ],
)
def test_a_socket_that_cannot_be_used(
    short_dir: Path, name: str, make: Callable[[Path], socket.socket], text: str
) -> None:
    with make(short_dir) as made:
        assert text.format(short_dir) in refuse(short_dir, P, [(name, made)])
    assert not (short_dir / "run").exists()


def test_another_port_and_two_of_a_name(short_dir: Path) -> None:
    with listen_tcp()[0] as one, listen_tcp()[0] as other:
        text = refuse(short_dir, mesh_table(gateway=find_free_port()) + P, [("gateway", one)])
        assert "listen in [mesh.gateway] has port" in text
        assert "they have to be the same" in text
        text = refuse(short_dir, P, [("gateway", one), ("gateway", other)])
        assert "two sockets with FileDescriptorName=gateway" in text


def refuse(folder: Path, config: str, sockets: list[tuple[str, socket.socket]]) -> str:
    """Return the one line of a mesh that refuses to start with sockets."""
    prefix, fds = socket_launcher(sockets)
    (folder / "mesh.toml").write_text(config)
    serve = ["-m", "meshtrio", "serve", f"{folder}/mesh.toml", "--runtime-dir", f"{folder}/run"]
    done = subprocess.run(
        [*prefix, sys.executable, *serve],
        pass_fds=fds,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("garbage", "LISTEN_FDS='garbage' is not a number of descriptors"),
        ("-1", "LISTEN_FDS='-1' is not a number of descriptors"),
        ("1000000", "LISTEN_FDS=1000000, but descriptor 3 is not open"),
        ("9" * 20, "but descriptor 3 is not open"),
    ],
)
def test_malformed_listen_fds(short_dir: Path, number: str, text: str) -> None:
    code = (
        "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    (short_dir / "mesh.toml").write_text(P)
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-c", code),
            *(sys.executable, "-m", "meshtrio", "serve", f"{short_dir}/mesh.toml"),
        ],
        env={**os.environ, "LISTEN_FDS": number},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_those_of_another_process_are_ignored(short_dir: Path) -> None:
    env = {"LISTEN_PID": "1", "LISTEN_FDS": "1000000", "LISTEN_FDNAMES": "mesh"}
    with serve_mesh(short_dir, P, env=env, min_ready=1) as mesh:
        assert mesh.ps()


def test_systemd_socket_activate_starts_a_mesh_at_the_first_connection(short_dir: Path) -> None:
    activate = find_debian_tool("systemd-socket-activate")
    port = find_free_port()
    (short_dir / "mesh.toml").write_text(mesh_table(gateway=port) + P)
    log = short_dir / "log"
    command = [
        *(activate, f"--listen=127.0.0.1:{port}", "--fdname=gateway"),
        *(sys.executable, "-m", "meshtrio", "serve", f"{short_dir}/mesh.toml"),
        *("--runtime-dir", f"{short_dir}/run"),
    ]
    # It passes on no variable of its own but PATH and a few others.
    command[1:1] = [f"--setenv={name}" for name in ("PYTHONPATH",) if name in os.environ]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as mesh:
        try:
            wait_until(lambda: b"Listening on" in log.read_bytes())
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                check = channel.unary_unary("/grpc.health.v1.Health/Check")
                assert check(b"", timeout=60) == b"\x08\x01"  # SERVING
        finally:
            mesh.terminate()
    assert mesh.returncode == 0
