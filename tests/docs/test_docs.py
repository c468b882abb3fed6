"""Each page of docs, and the README, to the letter."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import ROOT
from tests.docs.blocks import matches, parse_blocks
from tests.docs.pages import PageRunner
from tests.tools import find_debian_tool

PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/*.md")]
    if "_build" not in page.parts and any(True for _ in parse_blocks(page))
)
NEEDED = {
    "docs/how-to/another-language.md": "node",
    "docs/how-to/grpcurl.md": "go",
    "docs/how-to/metrics.md": "curl",
    "docs/how-to/other-programs.md": "redis-server nginx",
    "docs/how-to/several-hosts.md": "etcd",
    "docs/how-to/systemd.md": "systemd-analyze",
    "examples/go-service/README.md": "go",
    "examples/monitoring/README.md": "prometheus",
}
"""Programs that readers of a page have."""
LONG_PAGES = {"docs/tutorial.md", "examples/monitoring/README.md"}
_PAGE_TIMEOUT = 900


@contextmanager
def machine_lock() -> Iterator[None]:
    """Wait until no other test run on this machine runs a page: the ports are those in its text."""
    lock = Path(tempfile.gettempdir(), f"meshtrio-docs-{os.geteuid()}.lock")
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.timeout(_PAGE_TIMEOUT)
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.long if page in LONG_PAGES else ()) for page in PAGES],
)
def test_every_block_of_a_page(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in NEEDED:
        for program in NEEDED[page].split():
            find_debian_tool(program)
    # As if the environment these tests run in were activated.
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    with machine_lock(), tempfile.TemporaryDirectory(prefix="mt-") as folder, ExitStack() as stack:
        PageRunner(ROOT / page, Path(folder), stack).run()


def test_output_is_compared() -> None:
    assert matches("a … c\nd\n", "a b c  \nd")
    assert not matches("a\nb", "a\nc")
    assert not matches("a", "a\nb")
    assert matches("pid 12, up 3.4s\n└── ready", "pid 1234,   up 1m02s\n└── ready", like=True)
    assert not matches("pid 12, ready", "pid 12, starting", like=True)
    assert not matches("pid 12", "pid unknown", like=True)
