"""Commands and the log of `serve` with a plugin whose every text would control a terminal; and with
a stdout that cannot show all characters, and without a current folder.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import purerpc
import pytest
import trio

from meshtrio import mesh as meshes
from meshtrio.cli import commands
from meshtrio.errors import MeshFailedError
from meshtrio.util.text import escape_unprintable
from tests.plugins.terminal_escapes import LINES, TERMINAL_ESCAPES
from tests.support.cli_commands import ECHO_METHOD, RunningCommand, start_command
from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    MeshProcess,
    plugin_table,
    serve_mesh,
    wait_until,
)

HOSTILE = str(PLUGINS_DIRECTORY / "terminal_escapes.py")
CALL = ("call", "plugin.hostile", ECHO_METHOD)
REPLY = (*CALL, '{"message": "reply"}')
SHOWN = escape_unprintable(TERMINAL_ESCAPES.rstrip())
SILENT = (
    "upgrade",
    "ps",
    "nodes",
    "dashboard",
    "tree",
    "log-level",
    "health",
    "top",
    "drain",
    "gen",
    "call of what is registered",
    "config",
)
"""Commands that show no text of the plugin while all is well, and are tried all the same."""
IN_PART = (
    "attach",
    "env",
    "env of no instance",
    "registered",
    "new",
    "completion",
    "usage",
    "check",
    "serve",
)
"""Commands that quote what they are given, or a part of it."""
COMMANDS = {
    "logs": ["logs", "hostile", "--since", "1h"],
    "events": ["events"],
    "history": ["history"],
    "dashboard": ["dashboard"],  # This mesh has none.
    "config": ["config"],
    "ps": ["ps"],
    "nodes": ["nodes"],  # Names of nodes are in tests/cluster/test_node_commands.py.
    "tree": ["tree"],
    "services": ["services", "plugin.dying"],
    "call that fails": [*CALL, "{}"],
    "call": list(REPLY),
    "call without endpoints": ["call", "plugin.dying", ECHO_METHOD, "--timeout=0.5"],
    "log-level": ["log-level", "hostile"],
    "env": ["env", "hostile"],
    "env of what is not there": ["env", TERMINAL_ESCAPES],
    "env of no instance": ["env", f"hostile/{TERMINAL_ESCAPES}"],
    "attach": ["attach", "dying", "--", TERMINAL_ESCAPES],
    "attach to what is not there": ["attach", TERMINAL_ESCAPES],
    "health": ["health", "hostile"],
    "health of what is not there": ["health", TERMINAL_ESCAPES],
    "top": ["top", "--once", "--interval=0.1"],
    "drain": ["drain", "dying"],
    "start": ["start", "dying"],
    "names": ["ps", TERMINAL_ESCAPES],
    "registered": ["services", "registered"],
    "call of what is registered": ["call", "registered", ECHO_METHOD, "--timeout=2"],
    "stop": ["stop", TERMINAL_ESCAPES],
    "restart": ["restart", TERMINAL_ESCAPES],
    "scale": ["scale", TERMINAL_ESCAPES, "2"],
    "run": ["run", TERMINAL_ESCAPES],
    "trace": ["trace", TERMINAL_ESCAPES],
    "upgrade": ["upgrade"],
    "reload": ["reload", f"/nowhere/{TERMINAL_ESCAPES}"],
    "check": ["check", "hostile.toml"],
    "serve": ["serve", "hostile.toml"],
    "new": ["new", TERMINAL_ESCAPES],
    "gen": ["gen", "hostile.proto"],
    "completion": ["completion", TERMINAL_ESCAPES],
    "usage": [TERMINAL_ESCAPES],
}
REGISTERED = f"/nowhere/{TERMINAL_ESCAPES[:60]}"
JSON = ("logs", "events", "history", "config", "ps", "tree", "services", "call", "top")


@pytest.fixture(scope="module")
def hostile() -> Iterator[MeshProcess]:
    # TOML allows no DEL in a string.
    hostile_env = {"EVIL": TERMINAL_ESCAPES.replace("\x7f", "")}
    config = plugin_table("hostile", HOSTILE, env=hostile_env) + plugin_table(
        "dying", HOSTILE, "die", restart="never"
    )
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        write_files(Path(folder))
        with serve_mesh(Path(folder), config, min_ready=1) as mesh, register_hostile_path(mesh):
            mesh.wait_for_log("not restarted (restart policy)")
            assert mesh.run_command(*CALL, "{}").returncode == 1
            mesh.wait_for_log("logger=")
            yield mesh


def write_files(folder: Path) -> None:
    """Write a config and a proto in which every name is hostile text."""
    name = json.dumps(TERMINAL_ESCAPES)
    tables = [f"[{name}]", "[[plugin]]", f"name = {name}", f"command = [{name}]", f"{name} = 1"]
    tables += [f"cwd = {name}", f"restart = {name}", f"env = {{ {name} = 1 }}"]
    tables += ["[[service]]", f"name = {name}", f"endpoints = [{name}]"]
    (folder / "hostile.toml").write_text("\n".join(tables).replace("\x7f", "\\u007F"))
    (folder / "hostile.proto").write_text(
        f'syntax = "proto3"; import "{TERMINAL_ESCAPES}"; {TERMINAL_ESCAPES}'
    )


@contextmanager
def register_hostile_path(mesh: MeshProcess) -> Iterator[None]:
    """Have a program register an endpoint whose path is hostile text."""
    program = (
        "import sys, trio\n"
        "from meshtrio import mesh\n"
        "async def main():\n"
        "    async with mesh.register('registered', 'unix:' + sys.argv[1]):\n"
        "        print('registered', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    command = [sys.executable, "-c", program, REGISTERED]
    with subprocess.Popen(command, env=mesh.environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def assert_harmless(text: str) -> None:
    """Nothing in it controls a terminal, and no line of it is another's."""
    for line in text.split("\n"):
        assert escape_unprintable(line) == line, ascii(line)
        assert not line.startswith(("meshtrio: not ours", "|")), line


def test_every_command_is_tried() -> None:
    known = commands.list_commands(click.Context(commands))
    assert set(known) == {arguments[0] for arguments in COMMANDS.values()} & set(known)


@pytest.mark.parametrize("name", COMMANDS)
def test_control_characters_are_shown_as_escapes(hostile: MeshProcess, name: str) -> None:
    found = run(hostile, *COMMANDS[name])
    assert "Traceback" not in found.stderr
    assert_harmless(found.stdout)
    assert_harmless(found.stderr)
    if name in IN_PART:
        assert "EVIL" in found.stdout + found.stderr
    elif name not in (*SILENT, "call"):
        assert SHOWN in found.stdout + found.stderr


def run(mesh: MeshProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder of the hostile files, without taking a CR for a newline."""
    done = subprocess.run(
        [sys.executable, "-m", "meshtrio", *arguments],
        cwd=mesh.runtime_dir.parent,
        env=mesh.environment,
        capture_output=True,
        timeout=120,
        check=False,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


UNFORESEEN = f"""
import gc, logging, sys, threading, warnings
import meshtrio.cli, meshtrio.cli.inspect_commands
from meshtrio.errors import MeshFailedError

EVIL = {TERMINAL_ESCAPES!r}

class Unraisable:
    def __del__(self):
        raise RuntimeError("unraisable " + EVIL)

def fails(*_):
    Unraisable()
    gc.collect()
    warnings.warn("warning " + EVIL)
    logging.getLogger("meshtrio.rpc").error("record " + EVIL)
    thread = threading.Thread(target=lambda: 1 / len(EVIL[:0] and EVIL) if EVIL else None)
    thread.start()
    thread.join()
    failed = MeshFailedError("x", 0, 3, 1.0, (), "died", ("tail " + EVIL,))
    raise ExceptionGroup("group " + EVIL, [failed, RuntimeError("error " + EVIL)])

meshtrio.cli.inspect_commands.run_with_control = fails
sys.argv = ["meshtrio", "ps"]
meshtrio.cli.main()
"""


def test_what_python_writes_to_stderr_is_escaped_as_well() -> None:
    command = [sys.executable, "-c", UNFORESEEN]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    text = done.stderr.decode()
    assert done.returncode == 1
    assert_harmless(text)
    for what in ("unraisable", "warning", "record", "tail", "group", "error"):
        assert f"{what} {SHOWN[:20]}" in text


def test_the_error_that_ends_an_embedded_mesh_is_shown_with_escapes() -> None:
    failed = MeshFailedError("x", 0, 3, 1.0, (), "died", (TERMINAL_ESCAPES, "next"))
    assert_harmless(str(failed))
    assert failed.stderr_tail == (TERMINAL_ESCAPES, "next")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_is_controlled_by_the_command_alone(hostile: MeshProcess, name: str) -> None:
    text = on_terminal(hostile, *COMMANDS[name])
    assert "Traceback" not in text
    assert "\x1b[31mEVIL" not in text
    assert "\x1b]" not in text
    # What is left without the colours, and the spinner, of the command itself.
    assert_harmless(
        re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\r?(\x1b\[1A)?\x1b\[2K|\x1b\[1A", "", text)
    )
    if name not in SILENT:
        assert "EVIL" in text


def on_terminal(mesh: MeshProcess, *arguments: str) -> str:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "meshtrio", *arguments],
        cwd=mesh.runtime_dir.parent,
        env={**mesh.environment, "TERM": "xterm-256color", "COLUMNS": "1000"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        written = b""
        while data := read_terminal(ours):
            written += data
        os.close(ours)
        process.wait(20)
    # A terminal makes CR LF of LF.
    return written.decode().replace("\r\n", "\n")


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's word for the end of a terminal
        return b""


@pytest.mark.parametrize("name", JSON)
def test_json_is_what_the_plugin_wrote(hostile: MeshProcess, name: str) -> None:
    found = run(hostile, *COMMANDS[name], "--json")
    assert (found.returncode, found.stderr) == (0, "")
    assert_harmless(found.stdout)
    lines = name in ("logs", "events", "call")
    documents = [json.loads(text) for text in found.stdout.splitlines() if lines] or [
        json.loads(found.stdout)
    ]
    if name not in SILENT:
        assert any(TERMINAL_ESCAPES.rstrip() in text for text in texts_in(documents))


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


def test_the_log_of_serve(hostile: MeshProcess) -> None:
    log = hostile.log
    assert_harmless(log)
    for text in (
        f"hostile/0 | {SHOWN}",
        f"hostile/0 | err {SHOWN}",
        f"last stderr line: {SHOWN}",
    ):
        assert text in log
    # Each line that is not the first of a record has the mark of its plugin.
    for line in log.split("\n")[:-1]:
        assert re.match(r"(\d\d:\d\d:\d\d\.\d{3}| {12}) (mesh: |hostile/0 \| |dying/0 \| )", line)


def test_calls_that_are_followed(hostile: MeshProcess) -> None:
    with (
        start_command(hostile, "trace", "hostile") as trace,
        start_command(hostile, "trace", "--json") as lines,
    ):
        # Whether they follow yet cannot be seen: calls are made until both have told of one.
        wait_until(
            lambda: (
                hostile.run_command(*CALL, "{}").returncode == 1 and have_all_written(trace, lines)
            )
        )
        line = trace.read_line()
        assert_harmless(line)
        assert f": {escape_unprintable(LINES)}" in line
        found = lines.read_json()
        assert found["call"]["message"] == LINES
        trace.interrupt()
        lines.interrupt()


def have_all_written(*commands: RunningCommand) -> bool:
    """Return whether all commands have written something."""
    outputs = [command.process.stdout for command in commands]
    return len(select.select(outputs, [], [], 0.1)[0]) == len(outputs)


async def test_names_of_services_that_others_register(hostile: MeshProcess) -> None:
    with trio.fail_after(30):
        with pytest.raises(purerpc.InvalidArgumentError) as refused:
            async with meshes.register(
                f"a {TERMINAL_ESCAPES}", "unix:/nowhere", mesh_socket=hostile.socket
            ):
                pass
    assert "is not the name of a service" in str(refused.value)
    completed = await trio.to_thread.run_sync(complete, hostile)
    assert completed == "plain,plugin.dying\nplain,plugin.hostile\nplain,registered\n"


def complete(mesh: MeshProcess) -> str:
    environment = {
        **mesh.environment,
        "_MESHTRIO_COMPLETE": "bash_complete",
        "COMP_WORDS": "meshtrio services ",
        "COMP_CWORD": "2",
    }
    command = [sys.executable, "-m", "meshtrio"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    ).stdout


# -- encodings -------------------------------------------------------------------------------

GREEK = "καλημέρα, 😀"


@pytest.mark.parametrize("name", COMMANDS)
def test_an_encoding_that_lacks_characters(hostile: MeshProcess, name: str) -> None:
    found = in_encoding(hostile, "ascii:strict", *COMMANDS[name])
    assert b"Traceback" not in found.stderr
    assert found.returncode in ((127,) if name == "attach" else (0, 1, 2))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_in_an_encoding_that_lacks_characters(hostile: MeshProcess, encoding: str) -> None:
    text = json.dumps({"message": GREEK})
    found = in_encoding(hostile, encoding, "call", "plugin.hostile", ECHO_METHOD, text)
    assert found.returncode == 1
    assert b"NOT_FOUND" in found.stderr
    found = in_encoding(hostile, encoding, *REPLY)
    assert json.loads(found.stdout.decode(encoding)) == {"message": TERMINAL_ESCAPES}
    tree = in_encoding(hostile, encoding, "tree").stdout.decode(encoding)
    assert "+-- hostile (" in tree


def in_encoding(
    mesh: MeshProcess, encoding: str, *arguments: str
) -> subprocess.CompletedProcess[bytes]:
    environment = {**mesh.environment, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    return subprocess.run(
        [sys.executable, "-m", "meshtrio", *arguments],
        env=environment,
        capture_output=True,
        timeout=120,
        check=False,
    )


# -- without a current folder ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("ps", 0),
        ("tree", 0),
        ("services", 0),
        ("logs -n 1", 0),
        (f"call plugin.hostile {ECHO_METHOD}", 1),
        ("ps --mesh-socket relative.sock", 1),
        (f"call --mesh-socket relative.sock plugin.hostile {ECHO_METHOD}", 1),
        ("reload relative.toml", 1),
        ("check relative.toml", 2),
        ("serve relative.toml", 2),
        ("new something", 2),
        (f"call plugin.hostile {ECHO_METHOD} --proto x.proto", 2),
        ("gen x.proto", 1),
    ],
)
def test_a_current_folder_that_was_removed(hostile: MeshProcess, command: str, status: int) -> None:
    script = f'cd "$(mktemp -d)" && rmdir "$PWD" && exec "$0" -m meshtrio {command}'
    found = subprocess.run(
        ["sh", "-c", script, sys.executable],
        env=hostile.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in found.stderr
    assert found.returncode == status, found
