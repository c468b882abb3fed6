"""A test that hangs fails alone; the rest of the run goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

_CONFTEST = """
from tests.support.hang_guard import HangGuard

def pytest_configure(config):
    config.pluginmanager.register(HangGuard(grace=0.5))
"""
_HANGING = """
import subprocess, threading, trio, pytest

async def test_in_trio():
    try:
        await trio.sleep_forever()
    finally:
        print("unwound")

async def test_in_a_shield():
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

async def test_under_a_virtual_clock(autojump_clock):
    await trio.sleep(1_000_000)
    await trio.sleep_forever()

def test_in_a_child():
    subprocess.run(["sleep", "1000"])

def test_in_a_thread():
    threading.Event().wait()

def test_in_a_run_of_its_own():
    trio.run(trio.sleep_forever)

@pytest.mark.timeout(60)
async def test_that_may_take_longer():
    await trio.sleep(3)

async def test_that_does_not_hang():
    pass
"""


@pytest.mark.long
def test_tests_that_hang_fail_alone(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    (tmp_path / "test_hanging.py").write_text(_HANGING)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\ntimeout = 2\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "6 failed, 2 passed" in run.stdout, run.stdout + run.stderr
    assert run.stdout.count("still running after 2 s") >= 6
    assert "unwound" in run.stdout
    assert "in test_in_trio" in run.stdout  # Of trio's tasks.
