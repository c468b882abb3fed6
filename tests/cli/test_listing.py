"""What is known of commands without running them: help, completion, what they import."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import click
import pytest

from meshtrio.cli import commands
from tests.support.mesh_processes import MeshProcess

ALL = commands.list_commands(click.Context(commands))


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("name", ALL)
def test_a_command_is_what_the_list_says(name: str) -> None:
    context = click.Context(commands)
    found = commands.get_command(context, name)
    assert found is not None
    assert found.name == name
    formatter = click.HelpFormatter(width=100)
    commands.format_commands(context, formatter)
    assert f"{name} " in formatter.getvalue()
    assert found.get_help(click.Context(found, info_name=name))


def test_help_and_plugins_wait_for_nothing_they_do_not_need() -> None:
    ran = "import sys; sys.argv = ['meshtrio', '--help']\nfrom meshtrio.cli import main\n"
    ran += "try: main()\nexcept SystemExit: print('::', *sys.modules)\n"
    text, _, modules = python(ran).stdout.partition("::")
    assert "130  interrupted by Ctrl-C" in text
    assert not {"trio", "purerpc", "rich", "google"} & set(modules.split())
    serving = python("import meshtrio.cli.serve, sys; print(*sys.modules)").stdout.split()
    assert "meshtrio.mesh" in serving
    assert not {"rich", "watchfiles", "meshtrio.cli.call"} & set(serving)
    plugin = python("import meshtrio.plugin, sys; print(*sys.modules)").stdout.split()
    assert "meshtrio.plugin" in plugin
    assert not {"rich", "click", "watchfiles", "meshtrio.services.channelz"} & set(plugin)
    # What only some plugins need, or is imported by a program's own protos.
    others = {"google.protobuf.descriptor_pool", "json", "meshtrio.rpc.composite_tracer"}
    assert not (others | {"meshtrio.client", "meshtrio.config"}) & set(plugin)


PS = """\
import sys
from meshtrio.cli import main
sys.argv = ['meshtrio', 'ps']
try: main()
except SystemExit: print('::', *sys.modules)
"""


def test_commands_of_a_mesh_import_only_what_most_clients_need(mesh: MeshProcess) -> None:
    found = python(PS, MESH_SOCKET=str(mesh.socket))
    assert "echo" in found.stdout, found.stderr
    modules = set(found.stdout.partition("::")[2].split())
    assert "meshtrio.client.channel" in modules
    own = {"config", "mesh", "supervisor.log_line", "client.load_balancing.outlier_detection"}
    own |= {"client.retry.hedging", "grpc.outlier_detection", "rpc.composite_tracer"}
    assert not {f"meshtrio.{name}" for name in own} & modules
    assert not {"rich", "statistics", "difflib", "tomllib", "click.shell_completion"} & modules


CLASSES = """\
import attr._make
made = []
init = attr._make._ClassBuilder.__init__
def record(self, cls, *args, **kwargs):
    init(self, cls, *args, **kwargs)
    made.append(cls)
attr._make._ClassBuilder.__init__ = record
import meshtrio.plugin
for cls in made:
    print(cls.__module__, cls.__name__)
"""


def test_attrs_makes_no_classes_for_a_plugin() -> None:
    # Each class takes 0.1 to 0.5 ms, and as much again with methods to compare and show it.
    lines = python(CLASSES).stdout.splitlines()
    assert any(line.startswith("trio.") for line in lines)
    assert [line for line in lines if line.startswith("meshtrio.")] == []


@pytest.mark.parametrize(
    ("shell", "mark"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete --")]
)
def test_a_completion_script_is_printed(mesh: MeshProcess, shell: str, mark: str) -> None:
    found = mesh.run_command("completion", shell)
    assert (found.returncode, found.stderr) == (0, "")
    assert mark in found.stdout
    assert f"_MESHTRIO_COMPLETE={shell}_complete" in found.stdout


def completed(words: str, **environment: str) -> list[str]:
    """Return the shell completions of the last word."""
    count = len(words.split(" ")) - 1
    found = python(
        "from meshtrio.cli import main; main()",
        _MESHTRIO_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(count),
        **environment,
    )
    assert (found.returncode, found.stderr) == (0, "")
    return [line.partition(",")[2] for line in found.stdout.split()]


def test_commands_and_names_are_completed(mesh: MeshProcess) -> None:
    socket = str(mesh.socket)
    lines = {
        "meshtrio re": ["restart", "reload"],
        "meshtrio restart --j": ["--json"],
        "meshtrio restart ": ["bad", "pair", "echo", "wordy"],
        f"meshtrio ps --mesh-socket {socket} echo w": ["wordy"],
        "meshtrio call plugin.": ["plugin.bad", "plugin.echo", "plugin.wordy"],
    }
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda line: completed(line, MESH_SOCKET=socket), lines)
    assert dict(zip(lines, found, strict=True)) == lines


def test_without_a_mesh_no_name_is_completed() -> None:
    assert completed("meshtrio restart ", MESH_SOCKET="/nowhere") == []


def test_bad_usage_is_one_line_that_says_where_to_look(mesh: MeshProcess) -> None:
    found = mesh.run_command("scale", "echo", "many")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        "meshtrio: Invalid value for 'N': 'many' is not a valid integer range. "
        "See `meshtrio scale --help`\n"
    )
