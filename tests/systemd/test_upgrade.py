"""A mesh that systemd has started is upgraded in place."""

from __future__ import annotations

import os
import socket
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from tests.support.mesh_processes import MINIMAL_COMMAND, plugin_table
from tests.support.service_managers import (
    listen_tcp,
    listen_unix,
    notification_receiver,
    serve_mesh_with_sockets,
)
from tests.support.upgrades import connecting_all_the_time, identify, upgrade


def test_it_keeps_the_sockets_and_goes_on_to_report(short_dir: Path) -> None:
    path = short_dir / "run" / "mesh.sock"
    notify = f"{short_dir}/notify"
    with ExitStack() as stack:
        gateway, gateway_port = listen_tcp()
        metrics, metrics_port = listen_tcp()
        listeners: dict[str, socket.socket] = {
            "mesh": stack.enter_context(listen_unix(path)),
            "gateway": stack.enter_context(gateway),
            "metrics": stack.enter_context(metrics),
        }
        config = (
            f'[mesh.gateway]\nlisten = "tcp:127.0.0.1:{gateway_port}"\nsecurity = "plaintext"\n'
            f'[mesh.telemetry]\nmetrics = "127.0.0.1:{metrics_port}"\n'
        ) + plugin_table("p", *MINIMAL_COMMAND)
        received = stack.enter_context(notification_receiver(notify))
        inode = path.stat().st_ino
        env = {"NOTIFY_SOCKET": notify, "WATCHDOG_USEC": "4000000"}
        with serve_mesh_with_sockets(short_dir, config, listeners, min_ready=1, env=env) as mesh:
            received.wait_for(READY="1")
            before = identify(mesh)
            refused = [
                stack.enter_context(connecting_all_the_time(address))
                for address in (path, ("127.0.0.1", gateway_port), ("127.0.0.1", metrics_port))
            ]
            for _ in range(2):
                upgrade(mesh)
                assert received.wait_for(READY="1")["STATUS"] == "1 of 1 plugin ready"
                received.wait_for(WATCHDOG="1")
            assert identify(mesh) == before
            assert refused == [[], [], []]
            host = f"http://127.0.0.1:{metrics_port}/metrics"
            assert b"mesh" in urllib.request.urlopen(host, timeout=60).read()
            # Its plugins have nothing of systemd.
            (pid,) = mesh.plugin_pids()
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
            assert mesh.stop() == 0
            received.wait_for(STOPPING="1")
            received.wait_for(STATUS="stopping: all plugins have stopped")
        # They are systemd's still.
        assert path.stat().st_ino == inode
        for each in listeners.values():
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            assert os.fstat(each.fileno())
