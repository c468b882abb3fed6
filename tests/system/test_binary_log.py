"""Binary logs of a mesh and of real plugins, by the config and by gRPC's own variable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.binary_logs import UNARY_ENTRY_TYPES, entry_types, read_entries, split_by_logger
from tests.support.mesh_processes import echo_plugin_table, plugin_table, run_meshtrio, serve_mesh

TELEMETRY = '[mesh.telemetry]\nbinary_log = "{}"\n'
FILTER = "echo.v1.EchoService/*,meshtrio.v1.Control/*{h}"
UNARY = [*UNARY_ENTRY_TYPES]


def logs(folder: Path) -> dict[str, list[Any]]:
    """The entries of each process, by the name it has."""
    found: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("*.binlog*")):
        found[path.name.split(".")[0]] = read_entries(path)
    return found


def call(mesh: Any, message: str, service: str = "plugin.echo") -> None:
    words = ("call", service, "echo.v1.EchoService/Echo", f'{{"message": "{message}"}}')
    done = mesh.run_command(*words)
    assert done.returncode == 0, done.stderr


def test_plugins_and_the_mesh_each_write_their_own(short_dir: Path) -> None:
    config = TELEMETRY.format(FILTER)
    config += echo_plugin_table() + plugin_table("front", "proxy.py")
    config += echo_plugin_table("other", env={"GRPC_BINARY_LOG_FILTER": "*{h:0;m:1}"})
    config += echo_plugin_table("quiet", env={"GRPC_BINARY_LOG_FILTER": ""})
    with serve_mesh(short_dir, config, min_ready=4) as mesh:
        call(mesh, "plugin.echo hi", "plugin.front")
        call(mesh, "hi", "plugin.other")
        call(mesh, "hi", "plugin.quiet")
        assert mesh.run_command("ps").returncode == 0
        assert mesh.stop() == 0
    folder = mesh.runtime_dir / "binlog"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "with their contents" in mesh.log
    found = logs(folder)
    assert sorted(found) == ["echo-0", "front-0", "mesh", "other-0"]
    # In the middle of the chain a process is both, a server and a client.
    client, server = split_by_logger(found["front-0"])
    assert entry_types(client) == entry_types(server) == UNARY
    assert server[1].message.data.endswith(b"plugin.echo hi")
    assert client[1].message.data.endswith(b"hi")
    assert {e.call_id for e in client}.isdisjoint({e.call_id for e in server})
    _, server = split_by_logger(found["echo-0"])
    assert entry_types(server) == UNARY
    assert b"hi" in server[4].message.data
    _, server = split_by_logger(found["mesh"])
    assert all(e.message.data == b"" for e in server)
    assert {e.client_header.method_name for e in server if e.HasField("client_header")} >= {
        "/meshtrio.v1.Control/ListInstances"
    }
    _, server = split_by_logger(found["other-0"])
    # Its filter lets health checks through, too.
    (called,) = (
        e.call_id for e in server if e.client_header.method_name == "/echo.v1.EchoService/Echo"
    )
    ours = [e for e in server if e.call_id == called]
    assert entry_types(ours) == UNARY
    assert len(ours[1].message.data) == 1


def test_it_is_off_by_default_and_nothing_of_it_is_there(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        call(mesh, "hi")
        (pid,) = mesh.plugin_pids()[-1:]
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"BINARY_LOG" not in environment
        assert mesh.stop() == 0
    assert not (mesh.runtime_dir / "binlog").exists()
    program = (
        "import sys, meshtrio.mesh, meshtrio.plugin, meshtrio.services.telemetry_setup, "
        "meshtrio.telemetry.setup, meshtrio.telemetry.metrics; "
        "print([name for name in sys.modules if 'log_f' in name or 'logged' in name "
        "or 'log_e' in name or 'binary' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_folder_that_cannot_be_written_to_harms_no_call(short_dir: Path) -> None:
    (short_dir / "file").touch()
    config = (
        TELEMETRY.format("*") + f'binary_log_folder = "{short_dir}/file/x"\n' + echo_plugin_table()
    )
    with serve_mesh(short_dir, config, min_ready=1) as mesh:
        for _ in range(3):
            call(mesh, "hi")
            assert mesh.run_command("ps").returncode == 0
        assert mesh.stop() == 0
    told = [line for line in mesh.log.splitlines() if "cannot be written" in line]
    assert len([line for line in told if "/echo-0." in line]) == 1
    assert len([line for line in told if "/mesh." in line]) == 1


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('binary_log = "*/Echo"', "telemetry: binary_log: '*/Echo': expected *, Service/*,"),
        ('binary_log = "a.B/*,a.B/*{h}"', "there already is a pattern for a.B/*"),
        ('binary_log = "-a.B/*"', "only single methods can be excluded"),
        ('binary_log = "*{h:x}"', "expected {h}, {m} or {h;m}"),
        ('binary_log = "*"\nbinary_log_size = 0', "binary_log_size"),
        ('binary_log = "*"\nbinary_log_files = 0', "binary_log_files"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(
    lines: str, words: str, short_dir: Path
) -> None:
    path = short_dir / "mesh.toml"
    path.write_text(f"[mesh.telemetry]\n{lines}\n")
    done = run_meshtrio("check", str(path))
    assert done.returncode == 2
    assert words in done.stderr
    assert str(path) in done.stderr


def test_a_plugin_with_a_filter_that_is_none_does_not_start(short_dir: Path) -> None:
    config = echo_plugin_table(env={"GRPC_BINARY_LOG_FILTER": "*/x"}, restart="never")
    with serve_mesh(short_dir, config) as mesh:
        mesh.wait_for_log("the filter of the binary log: '*/x': expected")
        assert mesh.stop() in (0, 1)
