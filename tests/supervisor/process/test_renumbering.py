"""The launcher gives an inherited descriptor the number that the config names."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from meshtrio.supervisor.process.spawn import launcher_main


def launch(script: str, wanted: int, write_fd: int, pidfd: int) -> list[str]:
    """Run a script with the descriptor renumbered; return the lines that it prints."""
    unset = dict.fromkeys(("cgroup", "nice", "umask", "user", "group"))
    settings = {**unset, "rlimits": {}, "descriptors": [[write_fd, wanted]]}
    command = [sys.executable, "-I", "-S", launcher_main.__file__, json.dumps(settings)]
    done = subprocess.run(
        [*command, "bash", "-c", script],
        env={**os.environ, "MESH_PIDFD": str(pidfd)},
        pass_fds=[write_fd, pidfd],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("where", ["its own number", "the mesh's pidfd", "a free one"])
def test_the_program_has_both_descriptors_whatever_their_numbers_were(where: str) -> None:
    read_fd, write_fd = os.pipe()
    pidfd = os.pidfd_open(os.getpid())
    wanted = {"its own number": write_fd, "the mesh's pidfd": pidfd, "a free one": 200}[where]
    pipe_name = os.readlink(f"/proc/self/fd/{write_fd}")
    script = f"readlink /proc/self/fd/{wanted} /proc/self/fd/$MESH_PIDFD; ls /proc/self/fd | wc -l"
    try:
        lines = launch(script, wanted, write_fd, pidfd)
    finally:
        for each in (read_fd, write_fd, pidfd):
            os.close(each)
    assert lines[0] == pipe_name
    assert "pidfd" in lines[1]
    assert int(lines[2]) == 3 + 2 + 1  # the standard streams, both, and the directory
