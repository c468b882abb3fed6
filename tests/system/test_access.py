"""Who may use what, tried as somebody else; and what is neither allowed nor gRPC at all."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshtrio.http2 import frames
from tests import ROOT
from tests.support.certificates import Certificates
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.ports import find_free_port
from tests.tools import find_tool

NOBODY = 65534
CONTROL = "meshtrio.v1.Control/ListInstances"
REGISTRY = "meshtrio.v1.Registry/ListServices"
ECHO = "echo.v1.EchoService/Echo"
HEALTH = "grpc.health.v1.Health/Check"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as somebody else")


@pytest.fixture
def shared_dir() -> Iterator[Path]:
    """A folder that other users may look into, with a grpcurl that they may run."""
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copy(find_tool("grpcurl"), folder / "grpcurl")
        # The types, since reflection may be refused as well.
        for proto in ("protos/meshtrio", "protos/grpc", "examples/echo-plugin/echo"):
            shutil.copytree(ROOT / proto, folder / "protos" / Path(proto).name)
        yield folder


def call(
    folder: Path, target: str, method: str, *options: str, **how: object
) -> subprocess.CompletedProcess[str]:
    """Call with no reflection needed; `how` may say as whom."""
    protos = {
        "meshtrio.v1.Control": "meshtrio/v1/control.proto",
        "meshtrio.v1.Registry": "meshtrio/v1/registry.proto",
        "echo.v1.EchoService": "echo/v1/echo.proto",
        "grpc.health.v1.Health": "grpc/health/v1/health.proto",
    }
    given = ["-import-path", str(folder / "protos"), "-proto", protos[method.partition("/")[0]]]
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [folder / "grpcurl", *given, *options, target, method],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=folder,
        **how,
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return "ok", or the error that a call was refused with."""
    if done.returncode == 0:
        return "ok"
    lines = [line.strip() for line in done.stderr.splitlines() if "Message:" in line]
    return lines[0].removeprefix("Message: ") if lines else done.stderr


def call_all_services(folder: Path, target: str, *options: str, **how: object) -> dict[str, str]:
    methods = {"control": CONTROL, "registry": REGISTRY, "gateway": ECHO, "health": HEALTH}
    return {
        name: error_of(call(folder, target, method, *options, **how))
        for name, method in methods.items()
    }


@as_root
def test_others_cannot_even_connect_by_default(shared_dir: Path) -> None:
    with serve_mesh(shared_dir, echo_plugin_table(), min_ready=1) as running:
        target = f"unix://{running.socket}"
        assert set(call_all_services(shared_dir, target, "-plaintext").values()) == {"ok"}
        refused = call(shared_dir, target, CONTROL, "-plaintext", user=NOBODY, extra_groups=[])
        assert "permission denied" in refused.stderr


@as_root
@pytest.mark.parametrize("allowed", ["control", "registry", "gateway"])
def test_a_user_may_what_the_config_says_and_no_more(allowed: str, shared_dir: Path) -> None:
    config = f'[mesh.access.{allowed}]\nusers = ["{NOBODY}"]\n\n{echo_plugin_table()}'
    with serve_mesh(shared_dir, config, min_ready=1) as running:
        target, nobody = f"unix://{running.socket}", {"user": NOBODY, "extra_groups": []}
        found = call_all_services(shared_dir, target, "-plaintext", **nobody)
        # Health is for whoever may use any of it.
        assert (found.pop(allowed), found.pop("health")) == ("ok", "ok")
        for name, text in found.items():
            assert text.startswith(f"access.{name}: uid {NOBODY} (pid ")
            assert "may not call" in text
            running.wait_for_log(f"denied: access.{name}: uid {NOBODY}")
        third = {"user": 65533, "extra_groups": []}
        assert "ok" not in call_all_services(shared_dir, target, "-plaintext", **third).values()


@as_root
def test_a_group_may_by_any_of_its_groups(shared_dir: Path) -> None:
    config = f'[mesh.access.gateway]\ngroups = ["54321"]\n\n{echo_plugin_table()}'
    with serve_mesh(shared_dir, config, min_ready=1) as running:
        target = f"unix://{running.socket}"

        def ask(**how: object) -> str:
            done = call(shared_dir, target, ECHO, "-plaintext", user=NOBODY, **how)
            return error_of(done)

        assert ask(group=54321, extra_groups=[]) == "ok"
        assert ask(group=NOBODY, extra_groups=[54321]) == "ok"
        assert ask(group=NOBODY, extra_groups=[54322]).startswith("access.gateway: ")


@as_root
def test_a_reload_changes_who_may(shared_dir: Path) -> None:
    with serve_mesh(shared_dir, echo_plugin_table(), min_ready=1) as running:
        nobody = {"user": NOBODY, "extra_groups": []}

        def ask() -> str:
            done = call(shared_dir, f"unix://{running.socket}", ECHO, "-plaintext", **nobody)
            return error_of(done)

        assert "permission denied" in ask()
        rule = f'[mesh.access.gateway]\nusers = ["{NOBODY}"]\n\n'
        (shared_dir / "mesh.toml").write_text(rule + echo_plugin_table())
        options = ["-plaintext", "-d", "{}"]
        reloaded = call(
            shared_dir, f"unix://{running.socket}", "meshtrio.v1.Control/Reload", *options
        )
        assert reloaded.returncode == 0, reloaded.stderr
        wait_until(lambda: ask() == "ok")


@as_root
def test_others_register_only_what_they_serve_themselves(shared_dir: Path) -> None:
    """Or who may register could have the mesh, and its clients, speak to servers of others."""
    config = f'[mesh.access.registry]\nusers = ["{NOBODY}"]\n\n'
    roots = shared_dir / "roots.sock"
    with serve_mesh(shared_dir, config) as running, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(roots))
        roots.chmod(0o600)
        listener.listen()
        target = f"unix://{running.socket}"

        def register(address: str, **more: object) -> str:
            data = json.dumps({"service": "thing", "address": address, **more})
            options = ["-plaintext", "-d", data, "-max-time", "3"]
            method = "meshtrio.v1.Registry/Register"
            return error_of(
                call(shared_dir, target, method, *options, user=NOBODY, extra_groups=[])
            )

        assert "may only register Unix sockets" in register("tcp:127.0.0.1:1")
        assert "may only register Unix sockets" in register("unix:/x", tls={"ca_path": "/x"})
        data = json.dumps({"service": "thing", "address": f"unix:{roots}"})
        command = [shared_dir / "grpcurl", "-import-path", shared_dir / "protos"]
        command += ["-proto", "meshtrio/v1/registry.proto", "-plaintext", "-d", data, target]
        with subprocess.Popen(
            [*command, "meshtrio.v1.Registry/Register"],
            user=NOBODY,
            extra_groups=[],
            stdout=subprocess.PIPE,
        ) as registrant:
            assert registrant.stdout is not None
            assert registrant.stdout.readline()  # It is registered.
            listed = json.loads(running.run_command("services", "thing", "--json").stdout)
            assert listed[0]["endpoints"][0]["owner"] == NOBODY
            done = running.run_command(
                "call", "thing", "echo.v1.EchoService/Echo", "--timeout", "1"
            )
            assert done.returncode == 1
            registrant.kill()
        listener.setblocking(False)
        accepted, _ = listener.accept()
        with accepted:
            # The mesh has looked who serves there, and said nothing.
            accepted.settimeout(10)
            assert accepted.recv(100) == b""
        running.wait_for_log(f"its socket is served by uid 0, not by uid {NOBODY}")


# -- on TCP ------------------------------------------------------------------------------------


@contextmanager
def serve_gateway(folder: Path, config: str, access: str = "") -> Iterator[tuple[MeshProcess, str]]:
    """Serve a mesh with a gateway on a TCP port."""
    port = find_free_port()
    gateway = f'[mesh.gateway]\nlisten = "tcp://127.0.0.1:{port}"\n{config}\n{access}\n'
    with serve_mesh(folder, gateway + echo_plugin_table(), min_ready=1) as running:
        yield running, f"127.0.0.1:{port}"


def test_on_tcp_by_the_subject_of_a_certificate(shared_dir: Path) -> None:
    Certificates.create(shared_dir, "127.0.0.1", clients=("ops", "guest"))
    files = ", ".join(
        f'{key} = "{shared_dir}/{name}"'
        for key, name in (
            ("certificate", "server.pem"),
            ("key", "server.key"),
            ("client_ca", "ca.pem"),
        )
    )
    config = f"tls = {{ {files} }}"
    ops, guest = (
        ["-cacert", "ca.pem", "-cert", f"{name}.pem", "-key", f"{name}.key"]
        for name in ("ops", "guest")
    )
    access = '[mesh.access.control]\nsubjects = ["CN=ops"]\n'
    access += '[mesh.access.gateway]\nsubjects = ["CN=ops", "CN=gue*"]\n'
    with serve_gateway(shared_dir, config, access) as (running, target):
        found = call_all_services(shared_dir, target, *ops)
        assert found.pop("registry").startswith("access.registry: 127.0.0.1:")
        assert set(found.values()) == {"ok"}
        found = call_all_services(shared_dir, target, *guest)
        assert (found.pop("gateway"), found.pop("health")) == ("ok", "ok")
        assert "CN=guest" in found["control"]
        running.wait_for_log("denied: access.control: 127.0.0.1:")
        without = call(shared_dir, target, ECHO, *ops[:2], "-connect-timeout", "1")
        assert without.returncode != 0


def test_on_tcp_in_plaintext_only_plugins_can_be_called(shared_dir: Path) -> None:
    with serve_gateway(shared_dir, 'security = "plaintext"') as (running, target):
        found = call_all_services(shared_dir, target, "-plaintext")
        assert (found.pop("gateway"), found.pop("health")) == ("ok", "ok")
        for name, text in found.items():
            assert text.startswith(f"access.{name}: 127.0.0.1:")
            assert "without a certificate" in text
        assert "can call every plugin" in running.log


# -- what is wrong with requests ---------------------------------------------------------------


def test_malformed_and_oversized_requests_harm_nobody(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as running:
        for data in (
            b"\x00" * 1000,
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            frames.PREFACE + b"\xff" * 1000,
            frames.PREFACE + frames.settings({}) + frames.encode_frame(0x1, 0x5, 1, b"\xff" * 100),
        ):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(str(running.socket))
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
        large = {"name": "x" * (5 * 1024 * 1024)}
        done = grpc_call(running, "Control/Stop", json.dumps(large))
        assert "ResourceExhausted" in done.stderr
        for method, data, code in (
            ("Control/Stop", {"name": "nope"}, "NotFound"),
            ("Control/Scale", {"name": "echo"}, "FailedPrecondition"),
            ("Control/Reload", {"path": "relative.toml"}, "InvalidArgument"),
            ("Control/Reload", {"path": "/no/such.toml"}, "InvalidArgument"),
            ("Control/GetInstance", {"name": "echo", "instance": 9}, "NotFound"),
            ("Registry/Register", {"service": "x", "address": "nowhere"}, "InvalidArgument"),
        ):
            done = grpc_call(running, method, json.dumps(data))
            assert f"Code: {code}" in done.stderr, (method, done)
        assert grpc_call(running, "Control/ListInstances", "{}").returncode == 0
        assert "Traceback" not in running.log


def grpc_call(running: MeshProcess, method: str, data: str) -> subprocess.CompletedProcess[str]:
    target = f"unix://{running.socket}"
    return subprocess.run(
        [find_tool("grpcurl"), "-plaintext", "-d", "@", target, f"meshtrio.v1.{method}"],
        input=data,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


CONNECTIONS = 10_000
_OPEN = f"""
import resource, socket, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, {CONNECTIONS} + 100), hard))
kept, failed = [], 0
for _ in range({CONNECTIONS}):
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(sys.argv[1])
        kept.append(sock)
    except OSError:
        failed += 1
print(len(kept), failed, flush=True)
sys.stdin.readline()
turned_away = 0
for sock in kept:
    sock.setblocking(False)
    try:
        turned_away += b"too many connections" in sock.recv(1000)
    except OSError:
        pass
print(turned_away, flush=True)
"""


def test_10_000_connections_of_one_client_are_bounded_and_others_are_served(
    short_dir: Path,
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard > CONNECTIONS, "the machine allows fewer descriptors than this needs"
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as running:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", _OPEN, str(running.socket)]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as greedy:
            assert greedy.stdout is not None
            assert greedy.stdin is not None
            kept, failed = map(int, greedy.stdout.readline().split())
            assert kept + failed == CONNECTIONS
            # While all of them are there, others call as ever.
            for _ in range(3):
                assert grpc_call(running, "Control/ListInstances", "{}").returncode == 0
            descriptors = len(os.listdir(f"/proc/{running.process.pid}/fd"))
            assert descriptors < 1200
            greedy.stdin.write("\n")
            greedy.stdin.flush()
            assert int(greedy.stdout.readline()) >= kept - 1024
        running.wait_for_log("connection limit reached for process")
        assert running.log.count("connection limit reached") < 60
        assert grpc_call(running, "Control/ListInstances", "{}").returncode == 0
