"""The official interop cases once more, through a mesh's gateway."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.interop.client import CASES, COMPRESSED
from tests.support.interop_servers import (
    CASE_TIMEOUT,
    run_interop_case,
    start_grpc_go_server,
    start_interop_gateway,
    start_meshtrio_server,
)
from tests.tools import find_tool


@pytest.fixture(scope="module")
def to_ours() -> Iterator[int]:
    with start_meshtrio_server() as port, start_interop_gateway(port) as listen:
        yield listen


@pytest.fixture(scope="module")
def to_theirs() -> Iterator[int]:
    with start_grpc_go_server() as port, start_interop_gateway(port) as listen:
        yield listen


@pytest.mark.parametrize("name", CASES)
async def test_our_client_to_our_server(name: str, to_ours: int) -> None:
    await run_interop_case(name, to_ours)


@pytest.mark.parametrize("name", sorted(CASES.keys() - COMPRESSED))
def test_grpc_go_to_our_server(name: str, to_ours: int) -> None:
    run_theirs(name, to_ours)


@pytest.mark.parametrize("name", sorted(CASES.keys() - COMPRESSED))
def test_grpc_go_to_grpc_go(name: str, to_theirs: int) -> None:
    run_theirs(name, to_theirs)


def run_theirs(name: str, port: int) -> None:
    command = [find_tool("grpc-interop-client"), "-server_host=127.0.0.1", f"-server_port={port}"]
    done = subprocess.run(
        [*command, f"-test_case={name}"],
        capture_output=True,
        text=True,
        timeout=CASE_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
