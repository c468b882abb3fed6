"""The official interop cases: grpc-go's client and our server, ours and grpc-go's server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.interop.client import CASES, COMPRESSED
from tests.support.interop_servers import (
    CASE_TIMEOUT,
    run_interop_case,
    start_grpc_go_server,
    start_meshtrio_server,
)
from tests.tools import find_tool


@pytest.fixture(scope="module")
def our_port() -> Iterator[int]:
    with start_meshtrio_server() as port:
        yield port


@pytest.fixture(scope="module")
def their_port() -> Iterator[int]:
    with start_grpc_go_server() as port:
        yield port


@pytest.mark.parametrize("name", CASES)
async def test_our_client_against_our_server(name: str, our_port: int) -> None:
    await run_interop_case(name, our_port)


@pytest.mark.parametrize("name", sorted(CASES.keys() - COMPRESSED))
async def test_our_client_against_grpc_go(name: str, their_port: int) -> None:
    await run_interop_case(name, their_port)


@pytest.mark.parametrize("name", sorted(CASES.keys() - COMPRESSED))
def test_grpc_go_against_our_server(name: str, our_port: int) -> None:
    command = [find_tool("grpc-interop-client"), "-server_host=127.0.0.1"]
    done = subprocess.run(
        [*command, f"-server_port={our_port}", f"-test_case={name}"],
        capture_output=True,
        text=True,
        timeout=CASE_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
