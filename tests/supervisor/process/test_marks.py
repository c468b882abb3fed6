"""Marks of processes: the encoding in a limit, and matching by /proc."""

from __future__ import annotations

import os
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from meshtrio.supervisor.process.cleanup import process_marker
from meshtrio.util import processes
from meshtrio.util.processes import ProcessInfo

ID, OTHER = "ab" * 16, "ac" * 16


@pytest.mark.parametrize("mesh_id", ["0" * 32, ID, "f" * 32])
@pytest.mark.parametrize("run", [1, 2, 2**22 - 1, 2**22, 2**22 + 1, 2**40])
def test_a_run_is_never_taken_for_a_warden(mesh_id: str, run: int) -> None:
    limit, warden = (
        process_marker.encode_marker_limit(mesh_id, run),
        process_marker.encode_marker_limit(mesh_id, 0),
    )
    assert warden < limit < warden + 2**22
    assert limit < 2**63  # what Python's setrlimit takes
    assert process_marker.is_marker_limit(limit)
    assert process_marker.is_marker_limit(warden)


def test_four_million_runs_have_marks_of_their_own() -> None:
    first = process_marker.encode_marker_limit(ID, 1)
    assert process_marker.encode_marker_limit(ID, 2**22 - 1) == first + 2**22 - 2
    assert process_marker.encode_marker_limit(ID, 2**22) == first


def test_limits_that_users_set_are_not_marks() -> None:
    assert not process_marker.is_marker_limit(0)
    assert not process_marker.is_marker_limit(2**40)


@contextmanager
def sleeper(limit: int = 0, **variables: str) -> Iterator[int]:
    # It writes after execve(2); until then its environment reads as empty.
    with subprocess.Popen(
        ["sh", "-c", "echo here; read line"],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        if limit:
            process_marker.set_marker_limit(process.pid, limit)
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("variables", "limit", "found"),
    [
        ({"MESH_ID": ID}, 0, True),
        ({}, process_marker.encode_marker_limit(ID, 1), True),
        ({}, process_marker.encode_marker_limit(ID, 2**22 - 1), True),
        ({}, process_marker.encode_marker_limit(ID, 0), False),
        ({}, process_marker.encode_marker_limit(OTHER, 1), False),
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
        looked_at = process_marker.make_mesh_marker(ID, [os.getuid()]).match_process(pid)
        assert (looked_at is not None and looked_at.pid == pid) == found
        assert process_marker.make_mesh_marker(ID, [12345]).match_process(pid) is None


def test_a_child_needs_no_user() -> None:
    with sleeper(MESH_LAUNCH_ID="x") as pid:
        assert process_marker.ProcessMarker("MESH_LAUNCH_ID=x", [12345]).match_process(pid) is None
        assert (
            process_marker.ProcessMarker(
                "MESH_LAUNCH_ID=x", [12345], parent_pid=os.getpid()
            ).match_process(pid)
            is not None
        )
        assert (
            process_marker.ProcessMarker(
                "MESH_LAUNCH_ID=y", [12345], parent_pid=os.getpid()
            ).match_process(pid)
            is None
        )


@pytest.mark.parametrize("is_child", [False, True])
def test_a_process_whose_namespaces_are_not_told_is_not_matched(
    is_child: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a kernel without PID namespaces, whose status has no NSpid."""
    read = processes.read_proc_file
    hidden = re.compile(rb"^NSpid:.*\n", re.MULTILINE)
    monkeypatch.setattr(processes, "read_proc_file", lambda *name: hidden.sub(b"", read(*name)))
    parent_pid = os.getpid() if is_child else None
    marker = process_marker.make_mesh_marker(ID, [os.getuid()], parent_pid=parent_pid)
    with sleeper(MESH_ID=ID) as pid:
        assert ProcessInfo(pid).is_alive
        assert marker.is_carried_by(pid)
        assert marker.match_process(pid) is None
        assert list(marker.find_processes()) == []


def test_a_low_hard_limit_is_respected() -> None:
    """The environment alone marks a process then."""
    with sleeper() as pid:
        resource.prlimit(pid, resource.RLIMIT_RSS, (2**30, 2**31))
        process_marker.set_marker_limit(pid, process_marker.encode_marker_limit(ID, 1))
        assert resource.prlimit(pid, resource.RLIMIT_RSS) == (2**30, 2**31)
        assert process_marker.read_rss_limit(pid) == 2**30


def test_a_zombie_is_not_found() -> None:
    process = subprocess.Popen(["true"], env={})
    process_marker.set_marker_limit(process.pid, process_marker.encode_marker_limit(ID, 1))
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_marker.make_mesh_marker(ID, [os.getuid()]).match_process(process.pid) is None
    process.wait()


def test_what_is_not_there_is_not_found() -> None:
    assert not ProcessInfo(2**30).is_alive
    assert process_marker.read_rss_limit(2**30) == 0
    assert process_marker.make_mesh_marker(ID, [0]).match_process(2**30) is None
