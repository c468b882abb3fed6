"""Which of some process runs holds a socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree, find_holder

HOLDS = "import sys; sys.stdin.read()"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def start(stack: ExitStack, *descriptors: int) -> ProcessTree:
    """Start a process in a session of its own that has some descriptors, until the stack ends."""
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", HOLDS],
            stdin=subprocess.PIPE,
            pass_fds=descriptors,
            start_new_session=True,
        )
    )
    return ProcessTree(process.pid, "")


def test_it_is_the_run_that_has_a_descriptor_of_it(listener: socket.socket) -> None:
    inode = os.fstat(listener.fileno()).st_ino
    with ExitStack() as stack:
        holder, other = start(stack, listener.fileno()), start(stack)
        assert find_holder([other, holder], inode) is holder
        assert find_holder([holder], inode) is holder
        assert find_holder([other], inode) is None
        assert find_holder([], inode) is None
        assert find_holder([holder, other], inode + 1_000_000_000) is None


def test_a_run_that_has_ended_holds_nothing(listener: socket.socket) -> None:
    with ExitStack() as stack:
        ended = start(stack, listener.fileno())
    assert find_holder([ended], os.fstat(listener.fileno()).st_ino) is None
