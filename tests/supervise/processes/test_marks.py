"""What identifies processes: numbers in a limit, and what /proc says of them."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from meshtrio.supervise.processes import marks

ID, OTHER = "ab" * 16, "ac" * 16


@pytest.mark.parametrize("mesh_id", ["0" * 32, ID, "f" * 32])
@pytest.mark.parametrize("run", [1, 2, 2**22 - 1, 2**22, 2**22 + 1, 2**40])
def test_a_run_is_never_taken_for_a_warden(mesh_id: str, run: int) -> None:
    limit, warden = marks.limit_of(mesh_id, run), marks.limit_of(mesh_id, 0)
    assert warden < limit < warden + 2**22
    assert limit < 2**63  # what Python's setrlimit takes
    assert marks.is_mark(limit)
    assert marks.is_mark(warden)


def test_four_million_runs_have_marks_of_their_own() -> None:
    first = marks.limit_of(ID, 1)
    assert marks.limit_of(ID, 2**22 - 1) == first + 2**22 - 2
    assert marks.limit_of(ID, 2**22) == first


def test_limits_that_people_set_are_no_marks() -> None:
    assert not marks.is_mark(0)
    assert not marks.is_mark(2**40)


@contextmanager
def sleeper(limit: int = 0, **variables: str) -> Iterator[int]:
    # Once it has written, it has been executed: before that its environment reads as empty.
    with subprocess.Popen(
        ["sh", "-c", "echo here; read line"],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        if limit:
            marks.set_limit(process.pid, limit)
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("variables", "limit", "found"),
    [
        ({"MESH_ID": ID}, 0, True),
        ({}, marks.limit_of(ID, 1), True),
        ({}, marks.limit_of(ID, 2**22 - 1), True),
        ({}, marks.limit_of(ID, 0), False),
        ({}, marks.limit_of(OTHER, 1), False),
        ({"MESH_ID": OTHER}, 0, False),
        ({"MESH_ID": ID + "0"}, 0, False),
        ({"MESH_ID": ID[:-1]}, 0, False),
        ({"NOT_MESH_ID": f"MESH_ID={ID}"}, 0, False),
        ({"MESH_ID": f"/{ID}/"}, 0, False),
    ],
)
def test_a_process_is_found_by_either_mark(
    variables: dict[str, str], limit: int, found: bool
) -> None:
    with sleeper(limit, **variables) as pid:
        looked_at = marks.mark_of_mesh(ID, [os.getuid()]).look_at(pid)
        assert (looked_at is not None and looked_at.pid == pid) == found
        assert marks.mark_of_mesh(ID, [12345]).look_at(pid) is None


def test_a_child_needs_no_user() -> None:
    with sleeper(MESH_LIFE="x") as pid:
        assert marks.Mark("MESH_LIFE=x", [12345]).look_at(pid) is None
        assert marks.Mark("MESH_LIFE=x", [12345], parent=os.getpid()).look_at(pid) is not None
        assert marks.Mark("MESH_LIFE=y", [12345], parent=os.getpid()).look_at(pid) is None


def test_a_low_hard_limit_is_respected() -> None:
    """Then the environment alone marks a process; nothing fails."""
    with sleeper() as pid:
        resource.prlimit(pid, resource.RLIMIT_RSS, (2**30, 2**31))
        marks.set_limit(pid, marks.limit_of(ID, 1))
        assert resource.prlimit(pid, resource.RLIMIT_RSS) == (2**30, 2**31)
        assert marks.soft_limit(pid) == 2**30


def test_a_zombie_is_not_found() -> None:
    process = subprocess.Popen(["true"], env={})
    marks.set_limit(process.pid, marks.limit_of(ID, 1))
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert marks.mark_of_mesh(ID, [os.getuid()]).look_at(process.pid) is None
    process.wait()


def test_what_is_not_there_is_not_found() -> None:
    assert not marks.Status(2**30).alive
    assert marks.soft_limit(2**30) == 0
    assert marks.mark_of_mesh(ID, [0]).look_at(2**30) is None
