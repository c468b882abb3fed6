"""The soak cases of gRPC's interop client against a meshtrio server, and through a gateway.

`channel_soak` opens a channel for each call and closes none of them before its end: a thousand
connections of one host. Through a gateway it is in `test_soak`.

Source: grpc/doc/interop-test-descriptions.md, "rpc_soak" and "channel_soak".
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.interop_servers import start_interop_gateway, start_meshtrio_server
from tests.tools import find_tool

CALLS = 1000
WITHIN = 60
"""Seconds for one case."""
SIZE = 10_000
"""Bytes of a request, and of a reply."""


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    with start_meshtrio_server() as port, start_interop_gateway(port) as listen:
        yield {"direct": port, "gateway": listen}


@pytest.mark.parametrize(
    ("case", "route"),
    [("rpc_soak", "direct"), ("rpc_soak", "gateway"), ("channel_soak", "direct")],
)
def test_no_call_of_a_soak_fails(case: str, route: str, ports: dict[str, int]) -> None:
    options = {
        "server_host": "127.0.0.1",
        "server_port": ports[route],
        "test_case": case,
        "soak_iterations": CALLS,
        "soak_max_failures": 0,
        "soak_num_threads": 4,
        "soak_per_iteration_max_acceptable_latency_ms": 20_000,
        "soak_overall_timeout_seconds": WITHIN,
        "soak_request_size": SIZE,
        "soak_response_size": SIZE,
    }
    done = subprocess.run(
        [
            find_tool("grpc-interop-client"),
            *(f"-{name}={value}" for name, value in options.items()),
        ],
        capture_output=True,
        text=True,
        timeout=2 * WITHIN,
        check=False,
    )
    summary = done.stderr[-2000:]
    assert done.returncode == 0, summary
    assert f"soak test successes: {CALLS} / {CALLS} iterations" in done.stderr, summary
