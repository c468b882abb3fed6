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
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio

from meshtrio import mesh as meshes
from meshtrio.texts import visible
from tests.cli.commands import ECHO_METHOD, Command, begun
from tests.plugins.hostile import EVIL, LINES
from tests.programs import PLUGINS, Served, plugin, served, until

HOSTILE = str(PLUGINS / "hostile.py")
CALL = ("call", "plugin.hostile", ECHO_METHOD)
REPLY = (*CALL, '{"message": "reply"}')
SHOWN = visible(EVIL.rstrip())
SILENT = ("ps", "tree", "log-level", "top", "drain")
"""Commands that show no text of the plugin while all is well, and are tried all the same."""
COMMANDS = {
    "logs": ["logs", "hostile", "--since", "1h"],
    "events": ["events"],
    "ps": ["ps"],
    "tree": ["tree"],
    "services": ["services", "plugin.dying"],
    "call that fails": [*CALL, "{}"],
    "call": list(REPLY),
    "call without endpoints": ["call", "plugin.dying", ECHO_METHOD, "--timeout=0.5"],
    "log-level": ["log-level", "hostile"],
    "top": ["top", "--once", "--interval=0.1"],
    "drain": ["drain", "dying"],
    "start": ["start", "dying"],
    "names": ["ps", EVIL],
}
OURS = r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[2K|\x1b\[1A|\r"
"""What a command itself controls a terminal by: colours, and the spinner of one that takes long."""
JSON = ("logs", "events", "ps", "tree", "services", "call", "top")


@pytest.fixture(scope="module")
def hostile() -> Iterator[Served]:
    config = plugin("hostile", HOSTILE) + plugin("dying", HOSTILE, "die", restart="never")
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with served(Path(folder), config, ready=1) as mesh:
            mesh.wait_for("its restart policy leaves it so")
            assert mesh.run(*CALL, "{}").returncode == 1
            mesh.wait_for("logger=")
            yield mesh


def assert_harmless(text: str) -> None:
    """Nothing in it controls a terminal, and no line of it is another's."""
    for line in text.split("\n"):
        assert visible(line) == line, ascii(line)
        assert not line.startswith(("meshtrio: not ours", "|")), line


@pytest.mark.parametrize("name", COMMANDS)
def test_control_characters_are_shown_as_escapes(hostile: Served, name: str) -> None:
    found = hostile.run(*COMMANDS[name])
    assert "Traceback" not in found.stderr
    assert_harmless(found.stdout)
    assert_harmless(found.stderr)
    if name not in (*SILENT, "call"):
        assert SHOWN in found.stdout + found.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_is_controlled_by_the_command_alone(hostile: Served, name: str) -> None:
    text = on_terminal(hostile, *COMMANDS[name])
    assert "Traceback" not in text
    assert "\x1b[31mEVIL" not in text
    assert "\x1b]" not in text
    assert_harmless(re.sub(OURS, "", text))
    if name not in SILENT:
        assert "EVIL" in text


def on_terminal(mesh: Served, *arguments: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "meshtrio", *arguments],
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
    return written.decode()


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's word for the end of a terminal
        return b""


@pytest.mark.parametrize("name", JSON)
def test_json_is_what_the_plugin_wrote(hostile: Served, name: str) -> None:
    found = hostile.run(*COMMANDS[name], "--json")
    assert (found.returncode, found.stderr) == (0, "")
    assert_harmless(found.stdout)
    lines = name in ("logs", "events", "call")
    documents = [json.loads(text) for text in found.stdout.splitlines() if lines] or [
        json.loads(found.stdout)
    ]
    if name not in SILENT:
        assert any(EVIL.rstrip() in text for text in texts_in(documents))


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


def test_the_log_of_serve(hostile: Served) -> None:
    log = hostile.log
    assert_harmless(log)
    for text in (
        f"hostile/0 | {SHOWN}",
        f"hostile/0 | err {SHOWN}",
        f"its last words: {SHOWN}",
    ):
        assert text in log
    # Each line that is not the first of a record has the mark of its plugin.
    for line in log.split("\n")[:-1]:
        assert re.match(r"(\d\d:\d\d:\d\d\.\d{3}| {12}) (mesh: |hostile/0 \| |dying/0 \| )", line)


def test_calls_that_are_followed(hostile: Served) -> None:
    with begun(hostile, "trace", "hostile") as trace, begun(hostile, "trace", "--json") as lines:
        # Whether they follow yet cannot be seen: calls are made until both have told of one.
        until(lambda: hostile.run(*CALL, "{}").returncode == 1 and readable(trace, lines))
        line = trace.line()
        assert_harmless(line)
        assert f": {visible(LINES)}" in line
        found = lines.record()
        assert found["call"]["message"] == LINES
        trace.interrupt()
        lines.interrupt()


def readable(*commands: Command) -> bool:
    """Whether all of them have written something."""
    outputs = [command.process.stdout for command in commands]
    return len(select.select(outputs, [], [], 0.1)[0]) == len(outputs)


async def test_names_of_services_that_others_register(hostile: Served) -> None:
    with trio.fail_after(30):
        with pytest.raises(purerpc.InvalidArgumentError) as refused:
            async with meshes.register(f"a {EVIL}", "unix:/nowhere", mesh_socket=hostile.socket):
                pass
    assert "is not the name of a service" in str(refused.value)
    completed = await trio.to_thread.run_sync(complete, hostile)
    assert completed == "plain,plugin.dying\nplain,plugin.hostile\n"


def complete(mesh: Served) -> str:
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
def test_an_encoding_that_lacks_characters(hostile: Served, name: str) -> None:
    found = in_encoding(hostile, "ascii:strict", *COMMANDS[name])
    assert b"Traceback" not in found.stderr
    assert found.returncode in (0, 1, 2)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_in_an_encoding_that_lacks_characters(hostile: Served, encoding: str) -> None:
    text = json.dumps({"message": GREEK})
    found = in_encoding(hostile, encoding, "call", "plugin.hostile", ECHO_METHOD, text)
    assert found.returncode == 1
    assert b"NOT_FOUND" in found.stderr
    found = in_encoding(hostile, encoding, *REPLY)
    assert json.loads(found.stdout.decode(encoding)) == {"message": EVIL}
    tree = in_encoding(hostile, encoding, "tree").stdout.decode(encoding)
    assert "+-- hostile (" in tree


def in_encoding(mesh: Served, encoding: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
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
def test_a_current_folder_that_was_removed(hostile: Served, command: str, status: int) -> None:
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
