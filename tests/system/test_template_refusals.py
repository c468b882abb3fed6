"""A module that forbids to fork costs a plugin its warm start only, and the log says why, once."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest

from meshtrio.supervisor import events
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import pids_with_environment, plugin_table, wait_until

PROGRAM = (
    "import sys, time; print('began with', 'bad' in sys.modules, flush=True); time.sleep(3600)"
)
REFUSED = {
    "import threading, time; threading.Thread(target=time.sleep, args=(3600,)).start()": (
        "bad started a thread (Thread-1 (sleep)) when it was imported"
    ),
    "import os; os.fork()": "bad forked when it was imported",
    "import subprocess; subprocess.Popen(['sleep', '3600'])": (
        "bad left a child process running when it was imported"
    ),
    "raise RuntimeError('as told')": "importing bad failed: RuntimeError: as told",
    "import sys; sys.exit(3)": "importing bad failed: SystemExit: 3",
    "import no_such_module": "importing bad failed: ModuleNotFoundError",
    "import time; time.sleep(60)": "took more than 2 s",
    "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()": (
        "bad left a socket open when it was imported"
    ),
    "left = open(__file__)": "/bad.py open when it was imported",
    "import os; os.kill(os.getpid(), 11)": "was killed by SIGSEGV during its imports",
    "import os, sys; print('last line', file=sys.stderr); os.abort()": (
        "SIGABRT during its imports: last line"
    ),
    "import os; os._exit(7)": "the template exited with status 7 during its imports",
}


@pytest.mark.parametrize("module", REFUSED, ids=REFUSED.values())
async def test_it_is_started_by_exec(
    module: str, short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (short_dir / "bad.py").write_text(module)
    (short_dir / "program.py").write_text(PROGRAM)
    mark = f"TEST_OF_REFUSALS={short_dir}"
    name, _, value = mark.partition("=")
    config = plugin_table(
        "p",
        "program.py",
        cwd=short_dir,
        start="fork",
        preload=["bad"],
        instances=2,
        ready_timeout=2.0,
        backoff={"initial": 0.01},
        env={name: value},
    )
    with caplog.at_level(logging.WARNING, "meshtrio.mesh"):
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_event(events.LineWritten, count=2)
            for each in watched.mesh.instances():
                assert each.pid is not None
                os.kill(each.pid, signal.SIGKILL)
            await watched.wait_for_event(events.LineWritten, count=4)
            lines = watched.find_events(events.LineWritten)
            assert {line.event.line for line in lines} == {"began with False"}
            # Nothing of the template, nor of what its module has started, is left.
            wait_until(lambda: len(pids_with_environment(mark)) == 2)
    refusals = [r.getMessage() for r in caplog.records if "not by fork" in r.getMessage()]
    assert len(refusals) == 1
    assert REFUSED[module] in refusals[0]
