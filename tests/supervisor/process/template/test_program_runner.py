"""What a forked child runs."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from meshtrio.supervisor.process.template.compiled_scripts import CompiledScripts
from tests import ROOT

PROGRAM = """
import sys
from meshtrio.supervisor.process.template.program_runner import ProgramRunner
ProgramRunner().run("", sys.argv[1], [], sys.argv[2], "/")
"""


def test_a_script_that_was_replaced_after_its_check_is_not_run(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('it runs')")
    command = [sys.executable, "-c", PROGRAM, str(script), "0" * 64]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{script} has SHA-256 " in done.stderr


def run_script(scripts: CompiledScripts, path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    exec(scripts.get_code(str(path), path.read_bytes()), found)
    return found


def test_a_script_is_compiled_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    script, scripts = tmp_path / "script.py", CompiledScripts()
    script.write_text("a = 1")
    scripts.prepare(str(script))
    source = script.read_bytes()
    code = scripts.get_code(str(script), source)
    assert code.co_filename == str(script)
    scripts.prepare(str(script))
    assert scripts.get_code(str(script), source) is code
    script.write_text("a = 2, 'longer'")
    # It was replaced after the template had compiled it.
    assert run_script(scripts, script)["a"] == (2, "longer")
    scripts.prepare(str(script))
    assert scripts.get_code(str(script), source) is not code
    assert run_script(scripts, script)["a"] == (2, "longer")


def test_a_script_with_a_warning_is_compiled_where_that_is_shown(tmp_path: Path) -> None:
    script, scripts = tmp_path / "script.py", CompiledScripts()
    script.write_text("a = 1 is 1")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scripts.prepare(str(script))
        assert not caught
        scripts.get_code(str(script), script.read_bytes())
    assert [each.category for each in caught] == [SyntaxWarning]


@pytest.mark.parametrize(
    "kind", ["missing", "fifo", "folder", "zeros", "syntax", "encoding", "long"]
)
def test_what_cannot_be_compiled_is_left_to_the_child(tmp_path: Path, kind: str) -> None:
    path, scripts = tmp_path / "script.py", CompiledScripts()
    contents = {
        "zeros": bytes(10),
        "syntax": b"def f(:",
        "encoding": b"a = '\xff'",
        "long": b"a = 1\n" * 1_000_000,
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    scripts.prepare(str(path))
    assert not scripts.is_compiled(str(path))
