"""The peers on grpc-go and etcd's naming packages: they find each other, without meshtrio."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.etcd_server import run_etcd
from tests.tools import find_tool

PREFIX = "meshtrio/plugin.echo/"


@pytest.fixture
def etcd() -> Iterator[str]:
    """The URL of a running etcd."""
    with run_etcd() as cluster:
        yield cluster.endpoints[0]


def read_keys(url: str) -> dict[str, Any]:
    """Return the values of all endpoints, by their keys."""
    end = PREFIX[:-1] + chr(ord(PREFIX[-1]) + 1)
    query = {"key": b64encode(PREFIX.encode()), "range_end": b64encode(end.encode())}
    body = json.dumps({name: value.decode() for name, value in query.items()}).encode()
    with urllib.request.urlopen(f"{url}/v3/kv/range", body, timeout=5) as response:
        found = json.load(response).get("kvs", [])
    return {b64decode(kv["key"]).decode(): json.loads(b64decode(kv["value"])) for kv in found}


@contextmanager
def run_server(url: str, *flags: str) -> Iterator[tuple[str, str]]:
    """Run a server that registers itself; its key and address."""
    command = [find_tool("grpc-go-etcd"), "server", "-etcd", url, *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            word, key, address = process.stdout.readline().split()
            assert word == "registered"
            yield key, address
        finally:
            process.terminate()
            assert process.stdout.readline() == f"removed {key}\n"
            assert process.wait(20) == 0


def call_echo(url: str, count: int) -> list[dict[str, Any]]:
    command = [find_tool("grpc-go-etcd"), "client", "-etcd", url, "-interval", "1ms"]
    command += ["-target", "etcd:///meshtrio/plugin.echo", "-count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_the_manager_registers_is_found_by_the_resolver(etcd: str) -> None:
    metadata = {"weight": 2, "zone": "eu-1b"}
    suffix = ("-suffix", "host-b/0", "-metadata", json.dumps(metadata))
    with (
        run_server(etcd, "-instance", "1") as (first_key, first),
        run_server(etcd, "-instance", "2", *suffix) as (second_key, second),
    ):
        assert read_keys(etcd) == {
            first_key: {"Op": 0, "Addr": first, "Metadata": None},
            second_key: {"Op": 0, "Addr": second, "Metadata": metadata},
        }
        assert (first_key, second_key) == (PREFIX + first, PREFIX + "host-b/0")
        replies = call_echo(etcd, 100)
        assert {reply["code"] for reply in replies} == {"OK"}
        found = {(reply["instance"], reply["address"]) for reply in replies}
        assert found == {(1, first), (2, second)}
    assert read_keys(etcd) == {}
