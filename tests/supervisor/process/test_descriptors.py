"""The descriptor limit: raised for the mesh, restored in its children."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshtrio.util.descriptor_limit import DescriptorLimit
from tests.support.mesh_processes import limit_descriptors, plugin_table, serve_mesh

NOFILE = resource.RLIMIT_NOFILE
PRINTS = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
SLEEPS = "import sys; print('on', flush=True); sys.stdin.read()"
SERVES = """\
import resource
from meshtrio import plugin
from echo_plugin import EchoServicer

print("limits", *resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
plugin.run(EchoServicer())
"""


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """Restore the limits of this process after the test."""
    before = resource.getrlimit(NOFILE)
    resource.setrlimit(NOFILE, (1000, before[1]))
    yield resource.getrlimit(NOFILE)
    resource.setrlimit(NOFILE, before)


def test_it_is_raised_and_children_get_the_original(limits: tuple[int, int]) -> None:
    limit = DescriptorLimit()
    hard = limits[1]
    assert limit.raise_to_hard_limit() == hard - 1
    assert resource.getrlimit(NOFILE) == (hard - 1, hard)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", SLEEPS], stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        child.stdout.readline()
        limit.restore_in_child(child.pid)
        assert resource.prlimit(child.pid, NOFILE) == limits
        # A child that has set its own limit keeps it.
        resource.prlimit(child.pid, NOFILE, (1500, hard))
        limit.restore_in_child(child.pid)
        assert resource.prlimit(child.pid, NOFILE) == (1500, hard)
    limit.restore_in_child(child.pid)  # It is gone, which is no error.


def test_it_is_never_lowered(limits: tuple[int, int]) -> None:
    resource.setrlimit(NOFILE, (limits[1], limits[1]))
    assert DescriptorLimit().raise_to_hard_limit() == limits[1]
    assert resource.getrlimit(NOFILE)[0] == limits[1]


def test_it_is_not_raised_without_bounds(limits: tuple[int, int]) -> None:
    assert DescriptorLimit(max_soft_limit=1200).raise_to_hard_limit() == 1200
    assert resource.getrlimit(NOFILE) == (1200, limits[1])


def test_serve_and_its_plugins_raise_theirs_from_what_serve_was_given(short_dir: Path) -> None:
    hard = resource.getrlimit(NOFILE)[1]
    (short_dir / "prints.py").write_text(SERVES)
    own = {"rlimits": {"nofile": 777}}
    path = {"PYTHONPATH": str(Path(__file__).parents[3] / "examples" / "echo-plugin")}
    config = plugin_table("plain", "prints.py", cwd=short_dir, env=path)
    config += plugin_table("own", "prints.py", cwd=short_dir, env=path, containment=own)
    with limit_descriptors(1024), serve_mesh(short_dir, config, min_ready=2) as found:
        assert resource.prlimit(found.process.pid, NOFILE) == (hard - 1, hard)
        found.wait_for_log(f"limits 1024 {hard}")
        found.wait_for_log("limits 777 777")
        (pid,) = [row["pid"] for row in found.ps() if row["name"] == "plain"]
        assert resource.prlimit(pid, NOFILE) == (hard - 1, hard)
