"""Programs that are started with a MESHTRIO_BUSY_POLL that cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = [sys.executable, "-c", "from meshtrio import plugin; plugin.run()"]
MESH = [sys.executable, "-m", "meshtrio", "serve", "mesh.toml"]


@pytest.mark.parametrize("command", [PLUGIN, MESH], ids=["plugin", "mesh"])
def test_they_report_it_and_exit(command: list[str], short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text('[mesh]\nruntime_dir = "run"\n')
    environment = os.environ | {
        "MESHTRIO_BUSY_POLL": "sometimes",
        "PLUGIN_SOCKET": str(short_dir / "s"),
    }
    done = subprocess.run(
        command, env=environment, cwd=short_dir, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "MESHTRIO_BUSY_POLL='sometimes': set \"off\", or" in done.stderr
    assert "Traceback" not in done.stderr
