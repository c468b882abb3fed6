"""The warden kills what its mesh has started, and nothing that only looks like it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.programs import PLUGINS, Served, children, plugin, served, until
from tests.survivors import (
    has_ended,
    held,
    kill_with_warden,
    needs_namespaces,
    wait_until_ended,
    wardens,
)

NOBODY = 65534
MINIMAL = plugin("p", "-I", "-S", "minimal.py")


def only_pid(mesh: Served) -> int:
    (row,) = mesh.ps()
    assert row["pid"]
    return int(row["pid"])


@contextmanager
def bystander(
    environment_of: int, *before: str, user: int | None = None
) -> Iterator[dict[int, int]]:
    """A process with a copy of the environment of another one, held by its pidfd.

    `before`: a command that makes a child with a namespace of its own.
    """
    content = Path(f"/proc/{environment_of}/environ").read_bytes()
    environment = dict(entry.split(b"=", 1) for entry in content.split(b"\0") if entry)
    command = [*before, "sh", "-c", "echo here; exec sleep 3600"]
    with subprocess.Popen(
        command, env=environment, user=user, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        below = children(process.pid) if before else [process.pid]
        with held(below) as pidfds:
            yield pidfds  # what unshare(1) has started ends with `held`, and it with that
        process.kill()


def kill_and_wait(mesh: Served) -> None:
    """Kill a mesh, and wait until its warden has done all that it does."""
    with held([*wardens(mesh.process.pid), only_pid(mesh)]) as pidfds:
        mesh.process.kill()
        wait_until_ended(pidfds)


def test_it_leaves_processes_of_other_users_that_copied_the_environment(short_dir: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with served(short_dir, MINIMAL, ready=1) as mesh:
        with bystander(only_pid(mesh), user=NOBODY) as pidfds:
            kill_and_wait(mesh)
            assert not any(map(has_ended, pidfds.values()))


def test_it_kills_processes_of_users_that_the_config_names(short_dir: Path) -> None:
    """Also if they are named when the mesh runs already."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    other = (
        '[[plugin]]\nname = "other"\ncommand = ["sleep", "3600"]\ncwd = "/"\n'
        f'containment = {{ user = "{NOBODY}" }}\nready_timeout = 3600\n'
    )
    short_dir.chmod(0o755)
    with served(short_dir, MINIMAL, ready=1) as mesh, bystander(only_pid(mesh), user=NOBODY) as b:
        (short_dir / "mesh.toml").write_text(MINIMAL + other)
        mesh.run("reload", "--timeout", "1")
        until(lambda: len(mesh.ps()) == 2)
        mesh.process.kill()
        wait_until_ended(b)


def test_it_leaves_processes_of_other_pid_namespaces(short_dir: Path) -> None:
    """As those of a container that was given a copy of the environment."""
    needs_namespaces()
    with served(short_dir, MINIMAL, ready=1) as mesh:
        with bystander(only_pid(mesh), "unshare", "--pid", "--fork", "--mount-proc") as pidfds:
            kill_and_wait(mesh)
            assert not any(map(has_ended, pidfds.values()))


@contextmanager
def served_in_container(folder: Path, config: str) -> Iterator[list[int]]:
    """Serve a mesh with the same paths in namespaces of its own; yields the pids of its plugins."""
    (folder / "container.toml").write_text(config)
    serve = f"{sys.executable} -m meshtrio serve mesh.toml --runtime-dir {folder}/run"
    script = (
        f"config=$(cat {folder}/container.toml); mount -t tmpfs none {folder}; cd {folder}; "
        f'echo "$config" > mesh.toml; exec {serve}'
    )
    namespaces = ["unshare", "--pid", "--mount", "--fork", "--mount-proc"]
    log = folder / "container.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*namespaces, "sh", "-c", script], stdout=out, stderr=out)
    try:
        until(lambda: "ready after" in log.read_text())
        (mesh,) = children(process.pid)
        yield [pid for pid in children(mesh) if pid not in wardens(mesh)]
    finally:
        for pid in children(process.pid) if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)  # PID 1 there, and all with it
        process.wait()


def test_it_leaves_the_mesh_of_a_container_with_the_same_path(short_dir: Path) -> None:
    needs_namespaces()
    with served(short_dir, MINIMAL, ready=1) as mesh:
        with served_in_container(short_dir, MINIMAL) as plugins, held(plugins) as pidfds:
            assert len(pidfds) == 1
            kill_and_wait(mesh)
            assert not any(map(has_ended, pidfds.values()))


def test_where_proc_is_of_another_namespace_only_its_own_are_killed(short_dir: Path) -> None:
    """Processes have other numbers in such a /proc, and those may be strangers' here."""
    needs_namespaces()
    (short_dir / "mesh.toml").write_text(plugin("p", "-I", "-S", "minimal.py", "--daemon"))
    serve = f"{sys.executable} -m meshtrio serve {short_dir}/mesh.toml"
    # PID 1 is a shell, so that the mesh may be killed; the sleepers are in its namespace only.
    script = (
        "for i in $(seq 60); do sleep 3600 & done; "
        f"{serve} --runtime-dir {short_dir}/run & echo $! > {short_dir}/pid; wait $!; "
        f"echo over > {short_dir}/over; wait"
    )
    log = short_dir / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["unshare", "--pid", "--fork", "sh", "-c", script],
            stdout=out,
            stderr=out,
            cwd=PLUGINS,
        )
    try:
        until(lambda: "daemon" in log.read_text() and "ready after" in log.read_text())
        (init,) = children(process.pid)
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(init)}
        (mesh,) = [pid for pid, command in commands.items() if b"serve" in command.split(b"\0")]
        sleepers = [pid for pid, command in commands.items() if command.startswith(b"sleep")]
        with held(sleepers) as others, held([*children(mesh), *daemons(init)]) as ours:
            assert (len(others), len(ours)) == (60, 3)
            os.kill(mesh, signal.SIGKILL)
            wait_until_ended(ours)
            assert not any(map(has_ended, others.values()))
    finally:
        for pid in children(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def daemons(init: int) -> list[int]:
    """The processes in a PID namespace whose parent has ended, or that have left their session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            pid = int(entry.name)
            with suppress(OSError):  # Any process of the machine may end meanwhile.
                is_plugin = b"--daemon" in (entry / "cmdline").read_bytes()
                if is_plugin and os.getsid(pid) != pid and same_namespace(pid, init):
                    found.append(pid)
    return found


def same_namespace(pid: int, other: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{other}/ns/pid")


def test_it_leaves_a_mesh_in_a_folder_below(short_dir: Path) -> None:
    with served(short_dir, MINIMAL, ready=1) as mesh:
        below = mesh.folder / "below"
        below.mkdir()
        with served(below, MINIMAL, ready=1) as inner, held([only_pid(inner)]) as pidfds:
            kill_and_wait(mesh)
            assert not any(map(has_ended, pidfds.values()))
            assert inner.stop() == 0


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_one_that_was_held_up_leaves_the_next_mesh_alone(known: bool, short_dir: Path) -> None:
    """Whether the next mesh finds it in the runtime dir, and ends it, or not."""
    with served(short_dir, MINIMAL, ready=1) as mesh:
        (warden,) = wardens(mesh.process.pid)
        with held([warden, only_pid(mesh)]) as old:
            os.kill(warden, signal.SIGSTOP)
            mesh.process.kill()
            mesh.process.wait()
            if not known:
                shutil.rmtree(mesh.folder)
            with served(short_dir, MINIMAL, ready=1) as successor:
                with held([only_pid(successor)]) as pidfds:
                    assert has_ended(old[warden]) == known
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(old[warden], signal.SIGCONT)
                    wait_until_ended(old)
                    assert not any(map(has_ended, pidfds.values()))
                    assert successor.stop() == 0


@pytest.mark.parametrize("tracer", [False, True], ids=["stopped", "traced"])
def test_one_that_is_stopped_is_replaced(tracer: bool, short_dir: Path) -> None:
    with served(short_dir, MINIMAL, ready=1) as mesh:
        (warden,) = wardens(mesh.process.pid)
        with held([warden]) as old, stopped_by(warden, tracer=tracer):
            wait_until_ended(old)
            mesh.wait_for(f"the warden (pid {warden}) is stopped")
            until(lambda: wardens(mesh.process.pid) not in ([], [warden]))
            assert only_pid(mesh)  # the mesh answers, though the old one may not be reaped
            with held([only_pid(mesh)]) as pidfds:
                mesh.process.kill()
                wait_until_ended(pidfds)


@contextmanager
def stopped_by(pid: int, *, tracer: bool) -> Iterator[None]:
    """Stop a process, by SIGSTOP or as a debugger does, which then keeps it as a zombie."""
    if not tracer:
        os.kill(pid, signal.SIGSTOP)
        yield
        return
    trace = (
        "import ctypes, sys; ptrace = ctypes.CDLL(None).ptrace; pid = int(sys.argv[1]); "
        "assert ptrace(16, pid, 0, 0) == 0; print('attached', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", trace, str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"attached\n"
        try:
            yield
        finally:
            process.kill()


def test_what_a_plugin_started_for_another_user_is_reported_and_the_rest_is_killed(
    short_dir: Path,
) -> None:
    """A process that may not be killed keeps no other from being killed."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    program = """
import os, sys, subprocess
from meshtrio.supervise.processes import marks

def start(before):
    # The real user of the first is ours, but no other, as of a set-user-ID program.
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        marks.set_limit(0, marks.limit_of("cd" * 16, 7))
        before()
        os.write(writing, b"x")
        while True:
            __import__("time").sleep(3600)
    os.read(reading, 1)
    return pid

pids = [start(lambda: os.setresuid(0, 0, 0)), start(lambda: os.setresuid(*[12345] * 3))]
os.setresuid(12345, 12345, 0)
swept = marks.sweep(marks.mark_of_mesh("cd" * 16, [0, 12345]))
os.setresuid(0, 0, 0)
os.kill(pids[0], 9)
assert swept.killed == {pids[1]}, swept.killed
assert swept.left == {pids[0]: "Operation not permitted"}, swept.left
"""
    done = subprocess.run(
        [sys.executable, "-c", program], timeout=60, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_killed_together_with_its_mesh_it_leaves_its_processes_to_the_next(
    short_dir: Path,
) -> None:
    with served(short_dir, MINIMAL, ready=1) as mesh, held([only_pid(mesh)]) as pidfds:
        kill_with_warden(mesh)
        assert not any(map(has_ended, pidfds.values()))
        with served(short_dir, MINIMAL, ready=1) as successor:
            wait_until_ended(pidfds)
            successor.wait_for("killed 1 processes that an earlier mesh")
            assert successor.stop() == 0
