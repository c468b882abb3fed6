"""`meshtrio new`: what it makes runs at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from meshtrio.cli.code_commands import ProjectNames
from meshtrio.util.errors import UsageError


def run(*arguments: str, cwd: Path, program: str = "meshtrio") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_a_new_plugin_passes_its_own_test(tmp_path: Path) -> None:
    made = run("new", "my-Greeter", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    folder = tmp_path / "my-Greeter"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {
        *("pyproject.toml", "README.md", "mesh.toml", "plugin.py"),
        "my_greeter/v1/my_greeter.proto",
        *(f"my_greeter/v1/my_greeter_{end}" for end in ("pb2.py", "pb2.pyi", "grpc.py")),
        "tests/test_my_greeter.py",
    }
    for path in folder.rglob("*"):
        assert not path.is_file() or "$" not in path.read_text(), path
    tested = run("-q", cwd=folder, program="pytest")
    assert tested.returncode == 0, tested.stdout
    assert "2 passed" in tested.stdout
    assert "meshtrio serve mesh.toml" in made.stdout
    assert "plugin.my-Greeter my_greeter.v1.MyGreeterService/Greet" in made.stdout

    again = run("new", "my-Greeter", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "meshtrio: my-Greeter already exists; choose another with --folder\n"


def test_without_protoc_the_extra_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    program = "import sys; sys.modules['grpc_tools'] = None; from meshtrio.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", program, "new", "thing", "--folder", "elsewhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.returncode == 2
    assert found.stderr == ("meshtrio: new needs protoc: pip install 'meshtrio[gen]'\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "package", "service"),
    [
        ("greeter", "greeter", "GreeterService"),
        ("two-words", "two_words", "TwoWordsService"),
        ("a__B-", "a_b", "ABService"),
        # A folder of these names would stand before the modules that are meant.
        ("queue", "queue_plugin", "QueueService"),
        ("trio", "trio_plugin", "TrioService"),
        ("lambda", "lambda_plugin", "LambdaService"),
    ],
)
def test_names_become_identifiers(name: str, package: str, service: str) -> None:
    assert ProjectNames.from_plugin_name(name) == ProjectNames(name, package, service)


@pytest.mark.parametrize("name", ["", "1st", "-x", "a/b", "a b", "é", "x" * 65])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(UsageError, match="invalid plugin name"):
        ProjectNames.from_plugin_name(name)
