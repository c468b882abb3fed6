"""The ways to one plugin: straight to its socket, through its mesh's gateway, through nginx."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.support.mesh_processes import (
    accepts_connections,
    child_pids,
    echo_plugin_table,
    serve_mesh,
    wait_until,
)

_CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_time 10h;
  keepalive_timeout 10h;
  client_max_body_size 0;
  client_body_buffer_size 1m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  scgi_temp_path {folder}/scgi;
  uwsgi_temp_path {folder}/uwsgi;
  http2_max_concurrent_streams 1000;
  http2_recv_buffer_size 256k;
  http2_body_preread_size 1m;
  http2_chunk_size 16k;
  grpc_buffer_size 64k;
  grpc_read_timeout 1h;
  grpc_send_timeout 1h;
  upstream plugin {{
    server unix:{plugin};
    keepalive 64;
    keepalive_requests 1000000000;
    keepalive_time 10h;
    keepalive_timeout 10h;
  }}
  server {{
    listen unix:{folder}/nginx.sock http2;
    location / {{ grpc_pass grpc://plugin; }}
  }}
}}
"""
"""Its buffers are larger than by default, which is to its advantage with large messages."""


@attrs.frozen
class BenchmarkRoute:
    """A socket that leads to the plugin."""

    name: str
    socket: str
    pid: int
    """Of the process that passes calls on; 0 where none does."""


@contextlib.contextmanager
def open_routes(folder: Path) -> Iterator[list[BenchmarkRoute]]:
    """All there are, to the same instance of the echo plugin; nginx's only where it is there."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    with (
        serve_mesh(folder, echo_plugin_table(), min_ready=1) as mesh,
        contextlib.ExitStack() as stack,
    ):
        plugin = mesh.runtime_dir / "echo-0.sock"
        found = [
            BenchmarkRoute("direct", str(plugin), 0),
            BenchmarkRoute("gateway", str(mesh.socket), mesh.process.pid),
        ]
        if program is None:
            text = "without nginx: `apt-get install nginx-light` brings it (needs http2 and grpc)"
            print(text, file=sys.stderr)
        else:
            found.append(stack.enter_context(_start_nginx(program, folder / "nginx", plugin)))
        yield found


@contextlib.contextmanager
def _start_nginx(program: str, folder: Path, plugin: Path) -> Iterator[BenchmarkRoute]:
    """nginx with one worker, which runs as whoever runs this."""
    folder.mkdir()
    path = folder / "nginx.sock"
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "conf").write_text(_CONFIG.format(user=user, folder=folder, plugin=plugin))
    log = folder / "error.log"
    command = [program, "-p", str(folder), "-e", str(log), "-c", str(folder / "conf")]
    # A session of its own, as the mesh has: the scheduler shares time by sessions.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        wait_until(lambda: accepts_connections(path) or process.poll() is not None)
        if process.poll() is not None:
            raise SystemExit(f"nginx did not start: {log.read_text()}")
        (worker,) = wait_until(lambda: child_pids(process.pid))
        yield BenchmarkRoute("nginx", str(path), worker)
    finally:
        process.terminate()
        process.wait(10)
