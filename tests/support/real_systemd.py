"""A systemd of its own, as PID 1 of namespaces, with the units of a test and no others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import ROOT
from tests.support.mesh_processes import child_pids, wait_until
from tests.support.unprivileged import make_interpreter_reachable
from tests.tools import find_debian_tool

_PROGRAM = "/lib/systemd/systemd"
_UNITS = "/run/systemd/system"
_TARGETS = "sysinit basic shutdown sockets network multi-user"
_INIT = f"""
set -e
mount --make-rprivate /
{{reachable}} true
mount --bind /etc /etc && mount -o remount,bind,ro /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /opt && mkdir /opt/example /opt/meshtrio /opt/python
mount --bind "$1" /opt/example
mount --bind {ROOT} /opt/meshtrio
mount --bind {sys.prefix} /opt/python
mount -t tmpfs tmpfs /sys/fs
mkdir /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p {_UNITS}
for target in empty {_TARGETS}; do
    printf '[Unit]\\nDefaultDependencies=no\\n' > {_UNITS}/$target.target
done
ulimit -n 4096
exec env -i PATH="$PATH" container=test SYSTEMD_UNIT_PATH={_UNITS} {_PROGRAM} \\
    --system --unit=empty.target --log-target=console --show-status=0
"""
_NAMESPACES = "unshare --mount --pid --fork --cgroup --mount-proc --uts --ipc --net --kill-child"
_JOIN = f"""
set -e
mkdir "$1" && mount -t cgroup2 none "$1" && mkdir "$1/$2" && echo 0 > "$1/$2/cgroup.procs"
exec {_NAMESPACES} sh -c "$3" init "$4" < /dev/null
"""


class Systemd:
    """A running systemd. Its services see the file system of the test, except for /run."""

    def __init__(self, pid: int, log: Path) -> None:
        self._log = log
        self._prefix = ["nsenter", f"--target={pid}", "--all"]
        version = self.run(_PROGRAM, "--version").stdout
        self.version = int(version.split()[1])

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in its namespaces, to the end."""
        return subprocess.run(
            [*self._prefix, *command], capture_output=True, text=True, timeout=120, check=check
        )

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in its namespaces."""
        return subprocess.Popen([*self._prefix, *command], stdout=subprocess.PIPE, text=True)

    def systemctl(self, *arguments: str) -> None:
        done = self.run("systemctl", *arguments, check=False)
        if done.returncode:
            units = [each for each in arguments if "." in each]
            status = self.run("systemctl", "status", "--full", *units, check=False).stdout
            raise AssertionError(f"{arguments}: {done.stderr}\n{status}\n{self._log.read_text()}")

    def add_unit(self, name: str, text: str) -> None:
        path = f"{_UNITS}/{name}"
        self.run("mkdir", "-p", os.path.dirname(path))
        subprocess.run([*self._prefix, "tee", path], input=text, text=True, check=True, stdout=-3)
        self.systemctl("daemon-reload")

    def get(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def wait_for(self, unit: str, **values: str) -> None:
        """Wait until properties of a unit have these values."""
        wait_until(lambda: all(self.get(unit, name) == text for name, text in values.items()))


@contextmanager
def running_systemd(example: Path) -> Iterator[Systemd]:
    """Run a systemd for the block; skip the test if this machine has none, or cannot run it.

    For its services, the folder `example` is /opt/example. This repository and the environment of
    this interpreter are /opt/meshtrio and /opt/python, also for services with a /tmp of their own.
    """
    _require_namespaces()
    with tempfile.TemporaryDirectory(prefix="mt-systemd-") as folder:
        mounted, name, log = Path(folder, "cgroup"), f"mt-{os.getpid()}", Path(folder, "log")
        with log.open("wb") as out:
            init = _INIT.format(reachable=make_interpreter_reachable())
            arguments = [str(mounted), name, init, str(example)]
            # Nothing of it outlives a test run that is killed.
            command = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount"]
            command += ["sh", "-c", _JOIN, "sh", *arguments]
            process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            yield _wait_until_running(process, log)
        finally:
            process.kill()
            process.wait()
            _remove_cgroups(Path(folder), name)


def _require_namespaces() -> None:
    find_debian_tool("systemd-analyze")
    program = f"{_NAMESPACES} sh -c 'mount -t tmpfs x /sys/fs && mount -t cgroup2 x /sys/fs'"
    if os.geteuid() != 0 or not Path(_PROGRAM).exists() or shutil.which("nsenter") is None:
        pytest.skip("only root, and with systemd and nsenter(1), can run a systemd in namespaces")
    done = subprocess.run(program, shell=True, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"there are no namespaces with a cgroup2 filesystem here: {done.stderr}")


def _wait_until_running(process: subprocess.Popen[bytes], log: Path) -> Systemd:
    def find_init() -> int | None:
        assert process.poll() is None, log.read_text()
        pids = child_pids(process.pid)
        return (
            pids[0] if pids and Path(f"/proc/{pids[0]}/comm").read_text() == "systemd\n" else None
        )

    pid = wait_until(find_init)
    systemd = Systemd(pid, log)
    wait_until(
        lambda: systemd.run("systemctl", "is-system-running", check=False).stdout == "running\n"
    )
    return systemd


def _remove_cgroups(folder: Path, name: str) -> None:
    """Remove the cgroups that the services have left, which are empty once their PID 1 is gone."""
    mounted = folder / "mnt"
    mounted.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", mounted], check=True)
    try:
        own = mounted / name
        wait_until(lambda: "populated 0" in (own / "cgroup.events").read_text())
        for path, _, _ in os.walk(own, topdown=False):
            os.rmdir(path)
    finally:
        subprocess.run(["umount", mounted], check=True)


def mesh_service(folder: Path, *lines: str, program: str = "-m meshtrio") -> str:
    """Return a unit that serves `mesh.toml` in a folder, with further lines of [Service]."""
    options = f"{folder}/mesh.toml --runtime-dir {folder}/run"
    serve = f"{sys.executable} {program} serve {options}"
    environment = f"PYTHONPATH={ROOT} MESH_SOCKET={folder}/run/mesh.sock"
    return "\n".join(
        [
            "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n\n[Service]",
            f"ExecStart={serve}",
            f"ExecReload={sys.executable} -m meshtrio reload",
            f"Environment={environment}",
            "KillMode=mixed",
            f"StandardError=append:{folder}/log",
            *lines,
            "",
        ]
    )
