"""The services that are made when they are first called."""

from __future__ import annotations

import subprocess
import sys

from tests import ROOT


def test_a_service_that_cannot_be_made_now_fails_that_call_alone() -> None:
    command = [sys.executable, "-m", "tests.support.descriptor_exhaustion"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    service = "grpc.channelz.v1.Channelz"
    reason = "Too many open files"
    unavailable = f"UNAVAILABLE {service} is unavailable: {reason}; call again later"
    unknown = "UNIMPLEMENTED /x.Unknown/Get is unknown"
    assert done.stdout.splitlines() == [unknown, unavailable, unavailable, unknown, "OK"]
    assert done.stderr.count(f"{service} cannot be served now: [Errno 24] {reason}") == 2
