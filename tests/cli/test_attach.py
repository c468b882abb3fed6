"""`meshtrio attach` and `env`, with real processes and terminals."""

from __future__ import annotations

import fcntl
import os
import pwd
import select
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest

from meshtrio.cli.attach import quote_for_shell
from meshtrio.messages import control
from meshtrio.services import by_hand
from meshtrio.supervisor.process.proc import procfs
from meshtrio.transport.peer import Peer
from tests.support.cli_commands import (
    ECHO_METHOD,
    run_command_ok,
    run_failing_command,
    run_json_command,
)
from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    MeshProcess,
    echo_plugin_table,
    pids_with_environment,
    plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.ports import find_free_port
from tests.support.process_tracking import descendant_pids, hold_pidfds, wait_until_ended

ESCAPES = "setsid sleep 3601 & exec sleep 3602"
"""A command whose child leaves its group and session."""
MINIMAL = ("-I", "-S", "minimal.py")


@contextmanager
def attached(
    mesh: MeshProcess, *arguments: str, **settings: Any
) -> Iterator[subprocess.Popen[str]]:
    """Attach during the block; yields once the mesh has stopped the instance."""
    before = mesh.log.count(": attached by pid")
    defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, "-m", "meshtrio", "attach", *arguments],
        env=mesh.environment,
        text=True,
        **{**defaults, **settings},
    )
    try:
        wait_until(lambda: mesh.log.count(": attached by pid") > before or process.poll())
        yield process
    finally:
        process.kill()
        process.communicate()


def rows(mesh: MeshProcess, name: str) -> list[dict[str, Any]]:
    return [row for row in mesh.ps() if row["name"] == name]


def states(mesh: MeshProcess, name: str) -> list[str]:
    return [row["state"] for row in rows(mesh, name)]


def wait_until_attached_is_ready(mesh: MeshProcess, name: str, number: int = 0) -> None:
    def reason() -> str:
        row = rows(mesh, name)[number]
        return str(row["reason"]) if row["state"] == "attached" else ""

    wait_until(lambda: (found := reason()) and "not ready" not in found)


def wait_until_back(mesh: MeshProcess, name: str) -> None:
    wait_until(lambda: set(states(mesh, name)) == {"ready"})


def echo(mesh: MeshProcess) -> str:
    call = ["call", "plugin.echo", ECHO_METHOD, '{"message": "hi"}', "--timeout", "60"]
    return run_command_ok(mesh, *call)


# -- env -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    ["", "plain", "two words", "it's", '$HOME `id` \\ "', "a\nb\x1b[31m", "\udcff", "\u202e", "é"],
)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_values_are_quoted_for_a_shell(value: str, ascii_only: bool) -> None:
    quoted = quote_for_shell(value, ascii_only=ascii_only)
    assert quoted.isprintable()
    assert quoted.isascii() or not ascii_only
    shell = subprocess.run(
        ["bash", "-c", f'x={quoted}; printf %s "$x"'],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
    )
    assert shell.stdout == os.fsencode(value)


def test_env_is_that_of_the_process(short_dir: Path) -> None:
    variables = {"TOKEN": "it's\n secret", "not-a-name": "x"}
    table = plugin_table("p", *MINIMAL, env=variables, instances=2)
    with serve_mesh(short_dir, table, min_ready=2) as mesh:
        found = run_json_command(mesh, "env", "plugin.p/1")
        pid = rows(mesh, "p")[1]["pid"]
        entries = Path(f"/proc/{pid}/environ").read_bytes().rstrip(b"\0").split(b"\0")
        actual = dict(os.fsdecode(entry).split("=", 1) for entry in entries)
        marks = {"MESH_ID", "MESH_LAUNCH_ID", "MESH_PIDFD"}
        assert found["variables"] == {k: v for k, v in actual.items() if k not in marks}
        shown = mesh.run_command("env", "p/1")
        assert shown.stderr == "meshtrio: left out, as a shell cannot set it: not-a-name\n"
        script = f'{shown.stdout}\nprintf %s "$TOKEN$PLUGIN_INSTANCE"'
        shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        assert shell.stdout == "it's\n secret1"
        # Of an instance that is stopped, it is that of the next process.
        run_command_ok(mesh, "stop", "p")
        assert run_json_command(mesh, "env", "p/1")["variables"] == found["variables"]
        assert "has no instance 2" in run_failing_command(mesh, "env", "p/2")
        assert "there is no plugin 'q'" in run_failing_command(mesh, "env", "q")


@pytest.mark.parametrize("text", ["p/", "p/x", "p/-1", "p/1/2", f"p/{2**32}", "p/١"])
@pytest.mark.parametrize("command", ["env", "attach"])
def test_what_is_no_instance_is_bad_usage(command: str, text: str, short_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meshtrio", command, text],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MESH_SOCKET": str(short_dir / "none")},
    )
    assert done.returncode == 2, done
    assert "NAME/N" in done.stderr


async def test_other_users_may_do_neither() -> None:
    """They may have access to the rest of Control."""
    operations: Any = None  # It is not asked.
    other = Peer(pid=1, uid=os.geteuid() + 12345)
    with pytest.raises(purerpc.PermissionDeniedError, match="uid"):
        by_hand.get_environment(operations, control.GetEnvironmentRequest(name="p"), other)
    for peer in (other, Peer(address="127.0.0.1:1")):
        with pytest.raises(purerpc.PermissionDeniedError, match="own user and root"):
            await anext(by_hand.attach(operations, control.AttachRequest(name="p"), peer))


# -- attach ----------------------------------------------------------------------------------


def test_an_idle_instance_is_idle_again_afterwards(short_dir: Path) -> None:
    table = echo_plugin_table(start="on-demand", listen_fds=True)
    with serve_mesh(short_dir, table) as mesh:
        held = mesh.runtime_dir / "echo-0.held.sock"
        wait_until(held.exists)
        for _ in range(3):
            with attached(mesh, "echo/0") as process:
                wait_until_attached_is_ready(mesh, "echo")
                assert "hi" in echo(mesh)
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 0
            wait_until(lambda: states(mesh, "echo") == ["idle"])
            wait_until(held.exists)
            assert "started as pid" not in mesh.log
        assert "hi" in echo(mesh)
        assert mesh.log.count("started as pid") == 1


@pytest.mark.parametrize("listen", [False, True], ids=["unix", "tcp"])
def test_callers_reach_the_command_instead_of_the_instance(short_dir: Path, listen: bool) -> None:
    settings = {"listen": f"tcp:127.0.0.1:{find_free_port()}"} if listen else {}
    with serve_mesh(short_dir, echo_plugin_table(**settings), min_ready=1) as mesh:
        supervised = rows(mesh, "echo")[0]["pid"]
        with attached(mesh, "echo/0") as process:
            wait_until_attached_is_ready(mesh, "echo")
            assert not Path(f"/proc/{supervised}").exists()
            (server,) = descendant_pids(process.pid)
            assert "hi" in echo(mesh)
            endpoint = run_json_command(mesh, "services", "plugin.echo")[0]["endpoints"][0]
            assert (endpoint["instance"], endpoint["pid"]) == (0, process.pid)
            with hold_pidfds([server]) as pidfds:
                process.send_signal(signal.SIGINT)  # The command gets it, and stops in order.
                assert process.wait(60) == 0
                wait_until_ended(pidfds)
        wait_until_back(mesh, "echo")
        assert "hi" in echo(mesh)
        assert mesh.stop() == 0


def test_a_command_runs_as_the_instance_would(short_dir: Path) -> None:
    table = plugin_table("p", *MINIMAL, env={"MINE": "yes"}, instances=2)
    with serve_mesh(short_dir, table, min_ready=2) as mesh:
        script = 'echo "$MINE $PLUGIN_INSTANCE $PLUGIN_SOCKET $(pwd) $0 $1"; exit 7'
        with attached(mesh, "p/1", "--", "sh", "-c", script, "zero", "--json") as process:
            out, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (7, "")
        assert out == f"yes 1 {mesh.runtime_dir}/p-1.sock {PLUGINS_DIRECTORY} zero --json\n"
        wait_until_back(mesh, "p")
        with attached(mesh, "p/1", "--", "sh", "-c", "kill -KILL $$") as process:
            assert process.wait(60) == 128 + signal.SIGKILL
        wait_until_back(mesh, "p")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_command_runs_as_the_user_of_the_plugin(short_dir: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    table = plugin_table("p", *MINIMAL, cwd=Path("/"), containment={"user": "nobody"})
    short_dir.chmod(0o711)
    with serve_mesh(short_dir, table) as mesh:
        with attached(mesh, "p", "--", "sh", "-c", f"id -u; id -g; {ESCAPES}") as process:
            assert process.stdout is not None
            assert [int(process.stdout.readline()) for _ in range(2)] == [
                nobody.pw_uid,
                nobody.pw_gid,
            ]
            found = wait_until(lambda: len(d := descendant_pids(process.pid)) == 2 and d)
            with hold_pidfds(found) as pidfds:
                process.kill()
                wait_until_ended(pidfds)


@pytest.mark.parametrize(
    ("command", "status", "reason"),
    [
        (["no-such-program"], 127, "cannot run no-such-program: No such file or directory"),
        (["/etc/passwd"], 126, "cannot run /etc/passwd: Permission denied"),
        (["/"], 126, "cannot run /: Permission denied"),
    ],
)
def test_what_cannot_be_executed(
    short_dir: Path, command: list[str], status: int, reason: str
) -> None:
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as mesh:
        with attached(mesh, "p", "--", *command) as process:
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (status, f"meshtrio: {reason}\n")
        wait_until_back(mesh, "p")


def test_names_and_numbers_that_are_not_there_change_nothing(short_dir: Path) -> None:
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as mesh:
        before = mesh.ps()[0]["pid"]
        for name, reason in [
            ("absent", "there is no plugin 'absent'; the plugins are: p"),
            ("p/1", "p has no instance 1; it has 1 of them, numbered from 0"),
            (f"p/{2**32 - 1}", f"p has no instance {2**32 - 1}"),
        ]:
            assert reason in run_failing_command(mesh, "attach", name)
        assert mesh.ps()[0]["pid"] == before


@pytest.mark.parametrize("group", ["p", "plugin.p"])
def test_a_second_one_is_refused(short_dir: Path, group: str) -> None:
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as mesh:
        with attached(mesh, group) as first:
            wait_until_attached_is_ready(mesh, "p")
            line = run_failing_command(mesh, "attach", "p/0")
            assert line == f"meshtrio: p/0 is attached by pid {first.pid} already\n"
            assert states(mesh, "p") == ["attached"]
        wait_until_back(mesh, "p")


def test_an_instance_that_was_stopped_stays_so(short_dir: Path) -> None:
    failing = plugin_table("bad", "startup_faults.py", "exit-at-once", restart="never")
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL) + failing, min_ready=1) as mesh:
        run_command_ok(mesh, "stop", "p")
        mesh.wait_for_log("not restarted (restart policy)")
        for name, state in (("p", "stopped"), ("bad", "failed")):
            with attached(mesh, name, "--", "true") as process:
                assert process.wait(60) == 0
            wait_until(lambda name=name, state=state: states(mesh, name) == [state])


def test_an_instance_that_is_started_meanwhile_runs_afterwards(short_dir: Path) -> None:
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as mesh:
        run_command_ok(mesh, "stop", "p")
        with attached(mesh, "p", "--", "sleep", "3600"):
            for command in ("start", "restart"):  # They leave it alone, and do not wait for it.
                run_command_ok(mesh, command, "p", "--timeout", "60")
            assert states(mesh, "p") == ["attached"]
            assert "0 of 1" not in mesh.log
        wait_until_back(mesh, "p")


def test_nothing_is_left_if_the_command_is_killed(short_dir: Path) -> None:
    """By the kernel's closing of the connection the mesh learns of it."""
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as mesh:
        with attached(mesh, "p", "--", "sh", "-c", ESCAPES) as process:
            found = wait_until(lambda: len(d := descendant_pids(process.pid)) == 2 and d)
            with hold_pidfds(found) as pidfds:
                process.kill()
                wait_until_ended(pidfds)
        wait_until_back(mesh, "p")
        assert pids_with_environment(f"PLUGIN_SOCKET={mesh.runtime_dir}/p-0") == [
            rows(mesh, "p")[0]["pid"]
        ]


def test_nothing_is_left_if_command_and_mesh_are_killed(short_dir: Path) -> None:
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as mesh:
        with attached(mesh, "p", "--", "sh", "-c", ESCAPES) as process:
            found = wait_until(lambda: len(d := descendant_pids(process.pid)) == 2 and d)
            with hold_pidfds(found) as pidfds:
                mesh.process.kill()
                process.kill()
                wait_until_ended(pidfds)


def test_a_command_that_crashes_gives_the_place_back(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        with attached(mesh, "echo") as process:
            wait_until_attached_is_ready(mesh, "echo")
            (server,) = descendant_pids(process.pid)
            os.kill(server, signal.SIGKILL)
            assert process.wait(60) == 128 + signal.SIGKILL
        wait_until_back(mesh, "echo")


def recorder(folder: Path) -> list[str]:
    """A command that writes to `folder/ended` how it was ended."""
    program = str(PLUGINS_DIRECTORY / "sigterm_recorder.py")
    return ["--", sys.executable, program, str(folder / "ended")]


@pytest.mark.parametrize("how", ["stop", "scale", "reload", "SIGTERM", "SIGHUP to attach"])
def test_the_place_can_be_taken_back_in_order(short_dir: Path, how: str) -> None:
    table = plugin_table("p", *MINIMAL, instances=2)
    other = plugin_table("q", *MINIMAL)
    with serve_mesh(short_dir, table + other, min_ready=3) as mesh:
        with attached(mesh, "p/1", *recorder(short_dir)) as process:
            ended = short_dir / "ended"
            wait_until(lambda: ended.exists() and ended.read_text() == "waiting")
            if how == "stop":
                run_command_ok(mesh, "stop", "p")
            elif how == "scale":
                run_command_ok(mesh, "scale", "p", "1")
            elif how == "reload":
                (short_dir / "mesh.toml").write_text(other)
                run_command_ok(mesh, "reload")
            elif how == "SIGTERM":
                assert mesh.stop() == 0
            else:
                process.send_signal(signal.SIGHUP)
            _, errors = process.communicate(timeout=60)
        assert ended.read_text() == "stopped in order"
        assert process.returncode == 0
        reason = "received SIGHUP" if how == "SIGHUP to attach" else "p/1 is to stop"
        assert errors == f"meshtrio: {reason}; stopping the command\n"
        if how == "SIGHUP to attach":
            wait_until_back(mesh, "p")
        elif how == "scale":
            assert states(mesh, "p") == ["ready"]
        elif how == "stop":
            assert states(mesh, "p") == ["stopped", "stopped"]


def test_a_mesh_that_is_gone_ends_the_command(short_dir: Path) -> None:
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as mesh:
        with attached(mesh, "p", *recorder(short_dir)) as process:
            ended = short_dir / "ended"
            wait_until(lambda: ended.exists() and ended.read_text() == "waiting")
            mesh.process.kill()
            _, errors = process.communicate(timeout=60)
        assert errors.startswith("meshtrio: the mesh is gone: ")


def test_dependents_and_groups_go_on(short_dir: Path) -> None:
    """What is attached counts as the plugin; a restart of its group leaves it alone."""
    config = echo_plugin_table() + plugin_table("dep", *MINIMAL, depends_on=["echo"])
    config += '[[group]]\nname = "g"\nmembers = ["echo", "dep"]\nstrategy = "one-for-all"\n'
    with serve_mesh(short_dir, config, min_ready=2) as mesh:
        with attached(mesh, "echo"):
            wait_until_attached_is_ready(mesh, "echo")
            before = rows(mesh, "dep")[0]["pid"]
            os.kill(before, signal.SIGKILL)
            wait_until(lambda: rows(mesh, "dep")[0]["pid"] not in (None, before))
            wait_until_back(mesh, "dep")
            assert states(mesh, "echo") == ["attached"]
        wait_until_back(mesh, "echo")


def test_another_config_applies_afterwards(short_dir: Path) -> None:
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as mesh:
        with attached(mesh, "p", "--", "sleep", "3600"):
            changed = plugin_table("p", *MINIMAL, env={"NEW": "yes"})
            (short_dir / "mesh.toml").write_text(changed)
            run_command_ok(mesh, "reload")
            assert states(mesh, "p") == ["attached"]
        wait_until_back(mesh, "p")
        pid = rows(mesh, "p")[0]["pid"]
        assert b"NEW=yes" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_while_an_instance_stops_attach_can_be_given_up(short_dir: Path) -> None:
    stubborn = plugin_table("p", "startup_faults.py", "ignore-sigterm", stop_timeout=600)
    with serve_mesh(short_dir, stubborn) as mesh:
        mesh.wait_for_log("ignoring")
        pid = rows(mesh, "p")[0]["pid"]
        process = subprocess.Popen(
            [sys.executable, "-m", "meshtrio", "attach", "p"], env=mesh.environment
        )
        try:
            mesh.wait_for_log("p/0: stopping")
            # The other one that comes meanwhile is refused as well.
            assert "already" in run_failing_command(mesh, "attach", "p")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
            process.wait()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: mesh.log.count("p/0: started") == 2)


def test_while_the_mesh_stops_it_is_refused(short_dir: Path) -> None:
    stubborn = plugin_table("p", "startup_faults.py", "ignore-sigterm", stop_timeout=60)
    with serve_mesh(short_dir, stubborn) as mesh:
        mesh.wait_for_log("ignoring")
        mesh.process.send_signal(signal.SIGTERM)
        mesh.wait_for_log("SIGTERM: stopping")
        assert run_failing_command(mesh, "attach", "p") == "meshtrio: the mesh is stopping\n"


def test_during_a_reload_it_takes_the_place_of_both_processes(short_dir: Path) -> None:
    """The reload fails, as the instance was stopped; its config applies afterwards."""
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as mesh:
        changed = plugin_table("p", "startup_faults.py", "never-bind", ready_timeout=600)
        (short_dir / "mesh.toml").write_text(changed)
        reload = [sys.executable, "-m", "meshtrio", "reload"]
        with subprocess.Popen(reload, env=mesh.environment, stderr=subprocess.PIPE) as reloading:
            wait_until(lambda: mesh.log.count("p/0: started") == 2)
            with attached(mesh, "p", "--", "sleep", "3600") as process:
                _, errors = reloading.communicate(timeout=60)
                assert reloading.returncode == 1
                assert b"p/0 was stopped before it was replaced" in errors
                assert process.poll() is None
                assert states(mesh, "p") == ["attached"]
        wait_until(lambda: states(mesh, "p") == ["starting"])


def test_a_mesh_stops_though_the_command_does_not_react(short_dir: Path) -> None:
    table = plugin_table("p", *MINIMAL, stop_timeout=0.2)
    with serve_mesh(short_dir, table, min_ready=1) as mesh:
        with attached(mesh, "p", "--", "sh", "-c", ESCAPES) as process:
            found = wait_until(lambda: len(d := descendant_pids(process.pid)) == 2 and d)
            with hold_pidfds(found) as pidfds:
                process.send_signal(signal.SIGSTOP)
                assert mesh.stop() == 0
                wait_until_ended(pidfds)


# -- on a terminal ---------------------------------------------------------------------------


class PtySession:
    """A program that leads a session with a terminal, and what it writes there."""

    def __init__(self, mesh: MeshProcess, *command: str) -> None:
        self.master, slave = os.openpty()

        def take_terminal() -> None:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command,
            env={**mesh.environment, "TERM": "dumb"},
            start_new_session=True,
            preexec_fn=take_terminal,
            pass_fds=[slave],
            **dict.fromkeys(("stdin", "stdout", "stderr"), slave),
        )
        os.close(slave)
        self.output = ""

    def expect(self, text: str, timeout: float = 60.0) -> None:
        """Wait until it has written `text` since the last time."""
        end = time.monotonic() + timeout
        while text not in self.output:
            readable, _, _ = select.select([self.master], [], [], max(end - time.monotonic(), 0))
            assert readable, f"{text!r} did not come: {self.output!r}"
            self.output += os.read(self.master, 4096).decode(errors="replace")
        self.output = self.output.partition(text)[2]

    def write(self, text: str) -> None:
        os.write(self.master, text.encode())


def pdb_command() -> list[str]:
    attach = [sys.executable, "-m", "meshtrio", "attach", "echo/0", "--"]
    return [*attach, sys.executable, "-m", "pdb", "echo_plugin.py"]


def test_a_session_of_pdb(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        session = PtySession(mesh, *pdb_command())
        try:
            session.expect("(Pdb) ")
            session.write("import os; print('number', os.environ['PLUGIN_INSTANCE'])\n")
            session.expect("number 0")
            session.expect("(Pdb) ")
            session.write("c\n")
            wait_until_attached_is_ready(mesh, "echo")
            assert "hi" in echo(mesh)
            session.write("\x1a")  # Ctrl-Z: it is resumed.
            assert "hi" in echo(mesh)
            session.write("\x03")  # Ctrl-C goes to the command alone, which finishes.
            session.expect("(Pdb) ")
            wait_until(lambda: "not ready" in rows(mesh, "echo")[0]["reason"])
            session.write("q\n")
            assert session.process.wait(60) == 0
        finally:
            session.process.kill()
            session.process.wait()
            os.close(session.master)
        wait_until_back(mesh, "echo")


def test_in_a_shell_the_terminal_is_given_back(short_dir: Path) -> None:
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as mesh:
        session = PtySession(mesh, "bash", "--norc", "-i")
        try:
            attach = shlex.join([sys.executable, "-m", "meshtrio", "attach", "p", "--"])
            session.write(f"{attach} sh -c 'stty raw -echo; read x; echo got $x; exit 3'\n")
            mesh.wait_for_log("attached by pid")
            session.write("line\n")
            session.expect("got line")
            session.write("echo status $?; stty -a\n")
            session.expect("status 3")
            session.expect(" icanon")  # The modes are those from before.
            wait_until_back(mesh, "p")
        finally:
            session.process.kill()
            session.process.wait()
            os.close(session.master)


def test_in_the_background_it_leaves_the_terminal_alone(short_dir: Path) -> None:
    """A command that reads from the terminal is stopped then, and not resumed again and again."""
    with serve_mesh(short_dir, plugin_table("p", *MINIMAL), min_ready=1) as mesh:
        session = PtySession(mesh, "bash", "--norc", "-i")
        try:
            attach = shlex.join([sys.executable, "-m", "meshtrio", "attach", "p", "--", "cat"])
            session.write(f"{attach} & sleep 0; echo job $!.\n")
            session.expect("job ")
            session.expect(".")
            mesh.wait_for_log("attached by pid")
            (shell,) = (session.process.pid,)
            found = wait_until(lambda: len(d := descendant_pids(shell)) == 2 and d)
            wait_until(lambda: any(state_of(pid) == "T" for pid in found))
            session.write("kill %1; wait; echo done\n")
            session.expect("\ndone")
            wait_until_back(mesh, "p")
        finally:
            session.process.kill()
            session.process.wait()
            os.close(session.master)


def state_of(pid: int) -> str:
    stat = procfs.read_stat(pid)
    return "" if stat is None else stat.state


def test_a_terminal_that_is_closed_gives_the_place_back(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        session = PtySession(mesh, *pdb_command())
        session.expect("(Pdb) ")
        with hold_pidfds({session.process.pid, *descendant_pids(session.process.pid)}) as pidfds:
            os.close(session.master)
            wait_until_ended(pidfds)
            session.process.wait(60)
        wait_until_back(mesh, "echo")
        assert "Traceback" not in mesh.log
