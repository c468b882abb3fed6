"""A mesh that orphans are given to, as PID 1 or as a subreaper, leaves no zombies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from meshtrio.supervisor.process.proc import procfs
from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    ROOT,
    child_pids,
    plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.process_tracking import (
    has_ended,
    hold_pidfds,
    require_namespaces,
    serve_mesh_as_pid_1,
)

ORPHANING = plugin_table(
    "orphaning",
    *("-I", "-S", "orphan_maker.py"),
    backoff={"initial": 0.01},
    max_restarts=1,
    ready_timeout=60,
    containment={"memory": 2**30},
)


COUNT = 10
"""As in orphaning.py."""


def zombies(parent: int) -> list[procfs.ProcessStat]:
    return [stat for stat in procfs.iter_stats() if stat.ppid == parent and stat.state == "Z"]


def test_as_pid_1_orphans_are_reaped_and_exit_statuses_are_not_lost(short_dir: Path) -> None:
    steady = plugin_table("steady", "-I", "-S", "minimal.py")
    with serve_mesh_as_pid_1(short_dir, ORPHANING + steady) as (process, init):
        log = short_dir / "log"
        wait_until(lambda: "giving up" in log.read_text() and "steady/0: ready" in log.read_text())
        wait_until(lambda: not zombies(init))
        text = log.read_text()
        assert text.count("orphans were made") == 2
        # Of each exit, and of giving up.
        assert text.count("exited with status 7") == 3
        assert Path(f"/proc/{init}").exists()
        os.kill(init, signal.SIGTERM)
        assert process.wait(20) == 0
        assert "Traceback" not in log.read_text()
        assert "1 processes stopped in time" in log.read_text()


def test_as_pid_1_what_was_started_from_outside_is_left_alone(short_dir: Path) -> None:
    """As by `docker exec`: when its parent ends, the kernel gives it to the mesh."""
    log = short_dir / "log"
    with serve_mesh_as_pid_1(short_dir, ORPHANING) as (_, init):
        wait_until(lambda: "orphans were made" in log.read_text())
        enter = ["nsenter", "--target", str(init), "--pid", "--mount"]
        script = "sleep 3600 >&- 2>&- & :"
        subprocess.run([*enter, "setsid", "sh", "-c", script], check=True)
        (started,) = wait_until(
            lambda: [pid for pid in child_pids(init) if is_sleeping(pid, b"3600")]
        )
        with hold_pidfds([started]) as pidfds:
            wait_until(lambda: "giving up" in log.read_text())
            wait_until(lambda: not zombies(init))
            assert not any(map(has_ended, pidfds.values()))


def test_as_pid_1_orphans_from_outside_are_reaped(short_dir: Path) -> None:
    """Of each kind: processes of a double fork, and a leader of a session, as daemons are."""
    log = short_dir / "log"
    steady = plugin_table("steady", "-I", "-S", "minimal.py")
    with serve_mesh_as_pid_1(short_dir, steady) as (process, init):
        wait_until(lambda: "steady/0: ready" in log.read_text())
        enter = ["nsenter", "--target", str(init), "--pid", "--mount"]
        for daemon in ("sleep {} &", "setsid sleep {} &", "(setsid sh -c 'sleep {} & :' &)"):
            script = f"exec >&- 2>&-\n{daemon.format(0.3)}\n{daemon.format(3600)}\n:"
            subprocess.run([*enter, "sh", "-c", script], check=True)
        started = wait_until(lambda: [p for p in child_pids(init) if is_sleeping(p, b"3600")])
        with hold_pidfds(started) as pidfds:
            wait_until(lambda: len([p for p in child_pids(init) if is_sleeping(p, b"3600")]) == 3)
            wait_until(lambda: not zombies(init) and not any(map(is_sleeping, child_pids(init))))
            assert not any(map(has_ended, pidfds.values()))
            os.kill(init, signal.SIGTERM)
            assert process.wait(20) == 0
        assert "Traceback" not in log.read_text()


def test_as_pid_1_sigterm_ends_a_command(short_dir: Path) -> None:
    """The kernel discards signals that PID 1 does not handle."""
    require_namespaces()
    with socket.socket(socket.AF_UNIX) as hung_mesh:
        hung_mesh.bind(str(short_dir / "mesh.sock"))
        hung_mesh.listen()
        hung_mesh.settimeout(60)
        command = [sys.executable, "-m", "meshtrio", "ps", "--mesh-socket", short_dir / "mesh.sock"]
        with subprocess.Popen(["unshare", "--pid", "--fork", *command]) as process:
            connection, _ = hung_mesh.accept()
            with connection:
                (init,) = child_pids(process.pid)
                os.kill(init, signal.SIGTERM)
                assert process.wait(20) == 128 + signal.SIGTERM


@pytest.mark.parametrize("reap_orphans", [False, True])
def test_orphans_that_no_plugin_has_left_are_taken_if_configured(
    short_dir: Path, reap_orphans: bool
) -> None:
    """Of a shell that has started something, and then executes `serve`."""
    config = f"[mesh]\nreap_orphans = {str(reap_orphans).lower()}\n"
    os.mkfifo(short_dir / "fifo")
    # The child leaves an orphan when it has read a line.
    child = f"(sleep 3600 & echo $! > {short_dir}/pid; read line < {short_dir}/fifo)"
    prefix = ("sh", "-c", f'{child} & exec "$@"', "sh")
    with serve_mesh(short_dir, config, prefix=prefix) as mesh:
        orphan = int(wait_until((short_dir / "pid").read_text))
        parent = parent_of(orphan)
        with hold_pidfds([orphan]) as pidfds:
            (short_dir / "fifo").write_text("go on\n")
            wait_until(lambda: parent_of(orphan) != parent)
            assert (parent_of(orphan) == mesh.process.pid) is reap_orphans
            if reap_orphans:
                wait_until(lambda: not zombies(mesh.process.pid))  # Its parent is one of them.
            assert not has_ended(pidfds[orphan], 2.0)
        if reap_orphans:
            wait_until(lambda: not zombies(mesh.process.pid))
        assert mesh.stop() == 0


def parent_of(pid: int) -> int:
    stat = procfs.read_stat(pid)
    assert stat is not None
    return stat.ppid


def is_sleeping(pid: int, time: bytes = b"0.3") -> bool:
    with contextlib.suppress(OSError):  # It may end meanwhile.
        return Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\0%s\0" % time
    return False


EMBEDDED = """
import os, subprocess, sys
from pathlib import Path

import trio

from meshtrio import mesh
from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.supervisor import events
from tests.support.mesh_processes import START_METHOD

command = ["{python}", *sys.argv[3:]]
plugin = PluginConfig(
    "p",
    command,
    cwd=Path(sys.argv[2]),
    max_restarts=0,
    ready_timeout=60.0,
    start=START_METHOD,
)

config = MeshConfig([plugin], runtime_dir=sys.argv[1], reap_orphans=True)

async def main():
    # Children of the program's own, which end at once and are waited for much later.
    ours = [
        subprocess.Popen(["sh", "-c", "exit 5"], start_new_session=leads) for leads in (False, True)
    ]
    over = trio.Event()

    def take(event):
        if isinstance(event, events.GaveUp):
            assert event.exit.status == 7, event
            over.set()
        if isinstance(event, events.LineWritten) and event.line == "children started":
            nursery.start_soon(running.stop, "p")
        if isinstance(event, events.Swept):
            over.set()

    async with trio.open_nursery() as nursery:
        running = await nursery.start(mesh.main, config)
        running.subscribe(take)
        await over.wait()
        print("over", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        print([child.wait() for child in ours], flush=True)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.mark.parametrize("program", [["orphan_maker.py"], ["startup_faults.py", "with-child"]])
def test_children_of_an_embedding_program_keep_their_exit_statuses(
    program: list[str], short_dir: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", EMBEDDED, str(short_dir / "run"), str(PLUGINS_DIRECTORY), *program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "over\n"
        # But for what leads a session of its own, and ends by itself: that might be the program's.
        left = 2 if program[0] == "startup_faults.py" else 2 + COUNT
        wait_until(lambda: len(zombies(process.pid)) <= left)
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "[5, 5]\n"
        assert process.wait(20) == 0


def test_exit_statuses_are_kept_where_the_parent_ignores_sigchld(short_dir: Path) -> None:
    config = plugin_table("p", "-c", "exit(7)", restart="on-failure", max_restarts=0)
    (short_dir / "mesh.toml").write_text(config)
    serve = [sys.executable, "-m", "meshtrio", "serve", str(short_dir / "mesh.toml")]
    ignore = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    command = [sys.executable, "-c", f"{ignore}; os.execv(sys.argv[1], sys.argv[1:])", *serve]
    with subprocess.Popen(
        [*command, "--runtime-dir", str(short_dir / "run")], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        ended = next(line for line in process.stderr if "p/0: pid" in line or "giving up" in line)
        process.terminate()
        assert "exited with status 7" in ended
