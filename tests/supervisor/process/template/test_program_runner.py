"""What a forked child runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import ROOT

PROGRAM = """
import sys
from meshtrio.supervisor.process.template.program_runner import run_program
run_program("", sys.argv[1], [], sys.argv[2])
"""


def test_a_script_that_was_replaced_after_its_check_is_not_run(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print('it runs')")
    command = [sys.executable, "-c", PROGRAM, str(script), "0" * 64]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{script} has SHA-256 " in done.stderr
