"""Reserved connection slots: which peers get them, and how many."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from meshtrio.rpc.connection_limiter import (
    MESH_SLOT,
    RESERVED_SLOTS,
    Reserve,
)
from meshtrio.transport.peer import Peer

OWN = Peer(pid=os.getpid(), uid=os.geteuid())


@contextmanager
def start_process_in_session() -> Iterator[Peer]:
    """A process in a session of its own."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield OWN.replace(pid=process.pid)
        process.communicate(b"\n")


def test_one_session_gets_half_of_the_places() -> None:
    reserve = Reserve()
    places = [reserve.admit(OWN, 0) for _ in range(RESERVED_SLOTS)]
    assert sum(place is not None for place in places) == RESERVED_SLOTS // 2
    with start_process_in_session() as other:
        others = [reserve.admit(other, 0) for _ in range(RESERVED_SLOTS)]
        assert sum(place is not None for place in others) == RESERVED_SLOTS // 2
    assert places[0] is not None
    reserve.release(places[0])
    assert reserve.admit(OWN, 0) == places[0]


def test_a_process_with_connections_gets_none() -> None:
    assert Reserve().admit(OWN, 3) is not None
    assert Reserve().admit(OWN, 4) is None


def test_other_users_get_none_and_root_does() -> None:
    assert Reserve().admit(OWN.replace(uid=12345), 0) is None
    assert Reserve().admit(OWN.replace(uid=0), 0) is not None
    assert Reserve().admit(Peer(address="127.0.0.1:5"), 0) is None


def test_processes_of_another_pid_namespace_share_half_of_them() -> None:
    reserve, unseen = Reserve(), OWN.replace(pid=0)
    places = [reserve.admit(unseen, number) for number in range(RESERVED_SLOTS)]
    assert sum(place is not None for place in places) == RESERVED_SLOTS // 2


def test_the_mesh_is_known_by_pid_and_uid() -> None:
    mesh = OWN.replace(pid=4711)
    assert Reserve.is_mesh(mesh, 4711)
    assert not Reserve.is_mesh(OWN, 4711)
    assert not Reserve.is_mesh(mesh.replace(uid=12345), 4711)
    # What is not known, and what the kernel says of all processes in other namespaces.
    assert not Reserve.is_mesh(mesh.replace(pid=None), None)
    assert not Reserve.is_mesh(mesh.replace(pid=0), 0)
    reserve = Reserve()
    reserve.release(MESH_SLOT)
    assert reserve.admit(OWN, 0) is not None
