"""Signals by pidfd, against real processes."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from meshtrio.util.descriptors import closing_descriptor
from meshtrio.util.processes import has_exited, send_signals


def test_a_signal_is_sent_to_the_process_that_is_meant_only() -> None:
    with (
        subprocess.Popen(["sleep", "3600"]) as process,
        closing_descriptor(os.pidfd_open(process.pid)) as pidfd,
    ):
        assert not send_signals(process.pid, (signal.SIGKILL,), lambda: False)
        assert not has_exited(pidfd)
        assert send_signals(process.pid, (signal.SIGKILL,), lambda: True)
        assert process.wait(10) == -signal.SIGKILL
        assert has_exited(pidfd)


def test_a_process_that_does_not_exist() -> None:
    process = subprocess.Popen(["true"])
    process.wait(10)
    assert not send_signals(process.pid, (signal.SIGKILL,), lambda: True)


def test_the_descriptor_is_closed_when_a_check_raises() -> None:
    def fail() -> bool:
        raise PermissionError

    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(PermissionError):
        send_signals(os.getpid(), (0,), fail)
    assert sorted(os.listdir("/proc/self/fd")) == before
