"""Names, paths and values of the system that are not UTF-8 harm no mesh."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.programs import plugin, served, until
from tests.system.scrapes import telling

MINIMAL = ["-I", "-S", "minimal.py"]
NAMES = [b"caf\xc3", b"a) R 1 2 3 4 (", b"x\n\xff", "проверка".encode()[:15]]


@contextmanager
def named(name: bytes) -> Iterator[int]:
    """A process of this name beside the mesh, as any user of the machine may start one."""
    program = (
        "import ctypes, sys; "
        f"ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0); "
        "print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_another_process_of_any_name_ends_no_mesh(short_dir: Path) -> None:
    limited = {"containment": {"memory": 2**30}, "backoff": {"initial": 0.05}}
    with telling() as (table, url), ExitStack() as others:
        config = table + plugin("a", *MINIMAL, **limited) + plugin("b", *MINIMAL, **limited)
        for name in NAMES:
            others.enter_context(named(name))
        with served(short_dir, config, ready=2) as mesh:
            for command in (["restart", "a"], ["stop", "b"], ["start", "b"]):
                done = mesh.run(*command)
                assert done.returncode == 0, done.stderr
            top = mesh.run("top", "--once", "--json", "--interval", "0.1")
            assert top.returncode == 0, top.stderr
            assert [row["resident"] > 0 for row in json.loads(top.stdout)["instances"]] == [
                True
            ] * 2
            with urllib.request.urlopen(url, timeout=10) as reply:
                assert b"mesh_instance_resident_memory" in reply.read()
            # The memory of plugins is looked at once a second: until then, the mesh goes on.
            os.kill(mesh.ps()[0]["pid"], signal.SIGKILL)
            until(lambda: mesh.log.count("ready after") == 5)
            until(lambda: mesh.ps()[0]["uptime"] > 1.5)
            assert mesh.stop() == 0
        assert "Traceback" not in mesh.log
