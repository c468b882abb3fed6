"""Plugins whose mesh has died stop themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests import ROOT

PLUGIN = """
import trio
from meshtrio.supervisor.process.cleanup.mesh_exit import stop_on_mesh_exit
print("waits", flush=True)
trio.run(stop_on_mesh_exit)
"""


@pytest.mark.parametrize("timeout", ["", "5s", "60"])
def test_a_plugin_stops_whatever_its_stop_timeout_says(timeout: str) -> None:
    with subprocess.Popen(["sleep", "3600"]) as mesh:
        pidfd = os.pidfd_open(mesh.pid)
        variables = {"MESH_PIDFD": str(pidfd), "PLUGIN_STOP_TIMEOUT": timeout}
        with subprocess.Popen(
            [sys.executable, "-c", PLUGIN],
            env=os.environ | variables,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            pass_fds=[pidfd],
            start_new_session=True,
        ) as plugin:
            try:
                os.close(pidfd)
                assert plugin.stdout is not None
                assert plugin.stdout.readline() == b"waits\n"
                mesh.kill()
                assert plugin.wait(30) == -signal.SIGTERM
            finally:
                mesh.kill()
                plugin.kill()
