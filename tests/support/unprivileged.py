"""A mesh that does not run as root, and programs that may not be signalled by it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mesh_processes import MeshProcess, serve_mesh

UID = 12345
_SETPRIV_COMMAND = f"setpriv --reuid={UID} --regid={UID} --clear-groups"
_MOUNT_SCRIPT = """
mount --bind {base} /mnt && mount -t tmpfs -o mode=755 none {closed} &&
mkdir -p {base} && mount --bind /mnt {base} && """


def unprivileged_command() -> list[str]:
    """Return a prefix that runs a command as another user; skips the test if that is impossible.

    The interpreter may be below a folder that others cannot enter, such as /root. Then the command
    runs in a mount namespace of its own, in which they can.
    """
    if os.geteuid() != 0 or not all(map(shutil.which, ("setpriv", "unshare"))):
        assert not os.environ.get("CI"), "only root, and with setpriv(1), can become somebody else"
        pytest.skip("only root, and with setpriv(1) and unshare(1), can become somebody else")
    reachable = make_interpreter_reachable()
    script = f'{reachable}exec {_SETPRIV_COMMAND} "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh"]
    imports = [*command, sys.executable, "-c", "import meshtrio.mesh"]
    done = subprocess.run(imports, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"meshtrio cannot be read by other users: {done.stderr}")
    return command


def make_interpreter_reachable() -> str:
    """Return the start of a script for a mount namespace, after which others can run Python."""
    base = Path(sys.base_prefix)
    closed = [folder for folder in base.parents if not folder.stat().st_mode & 1]
    return _MOUNT_SCRIPT.format(base=base, closed=closed[-1]) if closed else ""


def make_setuid_command(folder: Path) -> list[str]:
    """Return a prefix that runs a command as root for any user: a set-user-ID setpriv(1)."""
    found = shutil.which("setpriv")
    assert found is not None
    program = folder / "as-root"
    shutil.copy(found, program)
    program.chmod(0o4755)
    if os.statvfs(program).f_flag & os.ST_NOSUID:
        pytest.skip(f"{folder} is mounted nosuid")
    return [str(program), "--reuid=0", "--regid=0", "--clear-groups"]


@contextmanager
def serve_mesh_as_user(folder: Path, config: str, *, min_ready: int = 0) -> Iterator[MeshProcess]:
    """Serve a config as another user than root, and kill remaining plugins at the end."""
    command = unprivileged_command()
    own = folder / "own"
    own.mkdir()
    os.chown(own, UID, UID)
    folder.chmod(0o755)
    serving = serve_mesh(
        folder, config, min_ready=min_ready, runtime_dir=own / "run", prefix=command
    )
    with serving as mesh:
        try:
            yield mesh
        finally:
            mesh.process.kill()
            mesh.process.wait()
            for pid in mesh.plugin_pids():
                os.kill(pid, signal.SIGKILL)
