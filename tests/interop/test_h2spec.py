"""h2spec: every case of RFC 9113 and RFC 7541 it knows, strict ones too, plain and over TLS."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import trustme

from meshtrio.http2.frames import DEFAULT_MAX_FRAME_SIZE
from tests.support.interop_servers import start_meshtrio_server
from tests.tools import find_tool

CASES = 146


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_h2spec(tls: bool, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    options = ["--tls", "--insecure"] if tls else []
    # With HTTP/2's default frame size: one case sends a HEADERS frame of 20 KB and takes it for
    # larger than whatever SETTINGS said.
    arguments = [str(certificate)] if tls else []
    with start_meshtrio_server(*arguments, frame_size=DEFAULT_MAX_FRAME_SIZE) as port:
        done = subprocess.run(
            [find_tool("h2spec"), "--strict", "-h", "127.0.0.1", "-p", str(port), *options],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert re.search(f"{CASES} tests, {CASES} passed, 0 skipped, 0 failed", done.stdout), (
        done.stdout
    )
