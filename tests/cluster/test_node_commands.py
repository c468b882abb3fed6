"""`meshtrio nodes`, and --all-nodes: over mutual TLS, and with nodes that cannot be asked."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshtrio.util.text import escape_unprintable
from tests.support.cli_commands import run_command_ok, run_failing_command, run_json_command
from tests.support.etcd_server import EtcdCluster, run_etcd
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    serve_mesh,
    service_table,
    wait_until,
)
from tests.support.secure_nodes import NodeAuthority, make_secure_tables, serve_node

NAMES = ["a", "b", "denying", "hidden"]
DENIED = "access.control: "
HIDDEN = "it advertises no gateway: set advertise in its [mesh.discovery]"


class Nodes:
    """Four nodes: `a` and `b` answer each other; one denies control, one has no address."""

    def __init__(self, etcd: EtcdCluster, a: MeshProcess, b: MeshProcess) -> None:
        self.etcd, self.a, self.b = etcd, a, b


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(prefix="mt-") as name, run_etcd() as etcd:
        folder, authority = Path(name), NodeAuthority(Path(name))

        def config(node: str, *tables: str, **settings: Any) -> str:
            return "\n".join([make_secure_tables(authority, etcd, node, **settings), *tables])

        outside = service_table("outside", endpoints=["tcp:127.0.0.1:1"])
        config_a = config("a", echo_plugin_table(), outside, zone="z")
        config_b = config("b", echo_plugin_table(instances=2), echo_plugin_table("other"))
        with (
            serve_node(folder, "a", config_a, ready=1) as a,
            serve_node(folder, "b", config_b, ready=3) as b,
            serve_node(
                folder, "denying", config("denying", echo_plugin_table("far"), control=""), ready=1
            ),
            serve_node(folder, "hidden", config("hidden", advertises=False)),
        ):
            wait_until(lambda: count_endpoints(a) == {"a": 1, "b": 3, "denying": 1, "hidden": 0})
            yield Nodes(etcd, a, b)


def count_endpoints(mesh: MeshProcess) -> dict[str, int]:
    listed = run_json_command(mesh, "nodes")["nodes"]
    return {each["name"]: each["endpoints"] for each in listed}


def run_partly(mesh: MeshProcess, *arguments: str) -> tuple[str, list[str]]:
    """Run a command that some nodes do not answer; return its output and lines of stderr."""
    found = mesh.run_command(*arguments)
    assert found.returncode == 1, found
    return found.stdout, found.stderr.splitlines()


def assert_problems(lines: list[str]) -> None:
    denied, hidden = lines
    assert denied.startswith(f"meshtrio: node denying: {DENIED}")
    assert "CN=node-a" in denied
    assert hidden == f"meshtrio: node hidden: {HIDDEN}"


def test_nodes_are_listed_with_their_leases_and_endpoints(nodes: Nodes) -> None:
    reply = run_json_command(nodes.a, "nodes")
    assert [each["name"] for each in reply["nodes"]] == NAMES
    first, second, *_, hidden = reply["nodes"]
    assert [each["this_mesh"] for each in reply["nodes"]] == [True, False, False, False]
    assert first["zone"] == "z"
    assert first["address"].startswith("tcp:127.0.0.1:")
    assert hidden["address"] == ""
    leases = {f"{each:016x}" for each in nodes.etcd.leases()}
    assert {each["lease"] for each in reply["nodes"]} == leases
    assert abs(second["since"] - time.time()) < 600
    status = reply["discovery"]
    assert (status["node"], status["prefix"], status["member"]) == (
        *("a", "meshtrio"),
        nodes.etcd.endpoints[0],
    )
    assert (status["connected"], status["problem"]) == (True, "")
    assert (status["registered"], status["registration_problem"]) == (True, "")
    assert status["lease"] == first["lease"]
    assert status["lease_renewals"] >= 1
    assert status["lease_losses"] == 0
    assert 0 <= status["lag"] < 10
    assert status["revision"] > 1


def test_nodes_as_a_table(nodes: Nodes) -> None:
    titles, first, *lines = run_command_ok(nodes.a, "nodes").splitlines()
    assert titles.split() == [
        *("NODE", "ZONE", "ADDRESS", "ENDPOINTS", "LEASE", "SINCE", "VERSION", "NOTE")
    ]
    assert first.startswith("a ")
    assert first.endswith("this mesh")
    assert lines[-2].startswith(f"etcd: following {nodes.etcd.endpoints[0]}, revision ")
    assert lines[-1].startswith("node a: registered, ")
    assert lines[-1].endswith("0 leases lost")


def test_keys_that_cannot_be_used_are_listed(nodes: Nodes) -> None:
    nodes.etcd.put("meshtrio/plugin.echo/x", "garbage")
    wait_until(lambda: "ignored key" in run_command_ok(nodes.a, "nodes"))
    (line,) = (each for each in run_command_ok(nodes.a, "nodes").splitlines() if "ignored" in each)
    assert line == "ignored key meshtrio/plugin.echo/x: it is not JSON"
    nodes.etcd.delete("meshtrio/plugin.echo/x")


def test_what_others_have_written_to_etcd_does_not_control_the_terminal(nodes: Nodes) -> None:
    value = {"Op": 0, "Addr": "h:1", "Metadata": {"zone": "x\x1b[31m", "version": "\x9b\n"}}
    keys = ["meshtrio/.nodes/evil", "meshtrio/plugin.echo/\x1b]0;x\x07"]
    nodes.etcd.put(keys[0], json.dumps(value))
    nodes.etcd.put(keys[1], "garbage")
    wait_until(lambda: "ignored key" in nodes.a.run_command("nodes").stdout)
    for command in (["nodes"], ["nodes", "--json"]):
        found = nodes.a.run_command(*command)
        lines = (found.stdout + found.stderr).split("\n")
        assert all(escape_unprintable(line) == line for line in lines), found
        assert any("x\\x1b[31m" in line or "x\\u001b[31m" in line for line in lines), found
    for key in keys:
        nodes.etcd.delete(key)
    wait_until(lambda: "ignored key" not in nodes.a.run_command("nodes").stdout)


def test_ps_of_all_nodes(nodes: Nodes) -> None:
    output, problems = run_partly(nodes.a, "ps", "--all-nodes")
    titles, *rows = (line.split() for line in output.splitlines())
    assert titles[:3] == ["NODE", "NAME", "INSTANCE"]
    assert [row[:3] for row in rows] == [
        ["a", "echo", "0"],
        ["b", "echo", "0"],
        ["b", "echo", "1"],
        ["b", "other", "0"],
    ]
    assert {row[4] for row in rows} == {"ready"}
    assert_problems(problems)


def test_ps_of_all_nodes_as_json(nodes: Nodes) -> None:
    output, problems = run_partly(nodes.b, "ps", "--all-nodes", "--json", "other", "echo")
    assert len(problems) == 2
    *rows, denying, hidden = json.loads(output)
    assert [(row["node"], row["name"], row["problem"]) for row in rows] == [
        ("a", "echo", None),
        ("b", "other", None),
        ("b", "echo", None),
        ("b", "echo", None),
    ]
    assert rows[0]["pid"] == nodes.a.ps()[0]["pid"]
    assert denying["node"] == "denying"
    assert denying["problem"].startswith(DENIED)
    assert hidden == {"node": "hidden", "problem": HIDDEN}


def test_services_of_all_nodes(nodes: Nodes) -> None:
    output, problems = run_partly(nodes.a, "services", "--all-nodes")
    titles, *rows = (line.split() for line in output.splitlines())
    assert titles[:3] == ["NODE", "SERVICE", "ADDRESS"]
    found = [(row[0], row[1], row[2].partition(":")[0]) for row in rows]
    assert found == [
        ("a", "outside", "tcp"),
        ("a", "plugin.echo", "unix"),
        # Of the node that cannot be asked it is what this mesh knows by etcd.
        ("denying", "plugin.far", "tcp"),
        ("b", "plugin.echo", "unix"),
        ("b", "plugin.echo", "unix"),
        ("b", "plugin.other", "unix"),
    ]
    assert_problems(problems)


def test_services_of_all_nodes_as_json(nodes: Nodes) -> None:
    output, _ = run_partly(nodes.a, "services", "--all-nodes", "--json", "plugin.echo")
    states = [each for each in json.loads(output) if each["problem"] is None]
    assert [(each["node"], len(each["endpoints"])) for each in states] == [("a", 1), ("b", 2)]
    assert all(not endpoint["node"] for each in states for endpoint in each["endpoints"])


def test_a_service_of_other_nodes_is_shown_with_its_node(nodes: Nodes) -> None:
    output = run_command_ok(nodes.a, "services", "plugin.other")
    assert output.rstrip().endswith("TLS, gateway of b")


def test_trees_of_all_nodes(nodes: Nodes) -> None:
    output, problems = run_partly(nodes.a, "tree", "--all-nodes")
    roots = [line for line in output.splitlines() if line.startswith("node ")]
    assert [line.partition(",")[0] for line in roots] == [
        f"node a: mesh {nodes.a.socket}",
        f"node b: mesh {nodes.b.socket}",
    ]
    assert_problems(problems)
    output, _ = run_partly(nodes.a, "tree", "--all-nodes", "--json")
    a, b, *_ = json.loads(output)
    assert (a["node"], a["problem"], a["kind"]) == ("a", None, "MESH")
    assert [each["name"] for each in b["nodes"]] == ["echo", "other"]
    assert b["nodes"][0]["instances"][0]["in_flight"] == 0


def test_a_name_that_no_node_has_leaves_only_those_that_cannot_be_asked(nodes: Nodes) -> None:
    output, problems = run_partly(nodes.a, "ps", "--all-nodes", "nonesuch")
    assert len(output.splitlines()) == 1
    assert len(problems) == 2


# -- one mesh ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["nodes", "ps --all-nodes", "services --all-nodes", "tree --all-nodes --json"]
)
def test_a_mesh_without_discovery_says_what_to_configure(
    lone_mesh: MeshProcess, command: str
) -> None:
    error = run_failing_command(lone_mesh, *command.split())
    assert "set etcd in [mesh.discovery] of its config" in error


@pytest.fixture(scope="module")
def lone_mesh() -> Iterator[MeshProcess]:
    with tempfile.TemporaryDirectory(prefix="mt-") as name, serve_mesh(Path(name), "") as mesh:
        yield mesh


def test_a_lone_node_has_all_answers_and_unknown_names_are_errors(short_dir: Path) -> None:
    with run_etcd() as etcd:
        config = make_secure_tables(NodeAuthority(short_dir), etcd, "a") + echo_plugin_table()
        with serve_node(short_dir, "a", config, ready=1) as mesh:
            (row,) = run_json_command(mesh, "ps", "--all-nodes")
            assert (row["node"], row["name"]) == ("a", "echo")
            assert "nonesuch" in run_failing_command(mesh, "ps", "--all-nodes", "nonesuch")
            assert "nonesuch" in run_failing_command(mesh, "services", "--all-nodes", "nonesuch")


def test_a_stopped_node_does_not_keep_the_others_from_answering(short_dir: Path) -> None:
    with run_etcd() as etcd:
        authority = NodeAuthority(short_dir)
        config_a, config_b = (make_secure_tables(authority, etcd, node) for node in ("a", "b"))
        with (
            serve_node(short_dir, "a", config_a + echo_plugin_table(), ready=1) as a,
            serve_node(short_dir, "b", config_b) as b,
        ):
            wait_until(lambda: "b" in count_endpoints(a))
            b.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            output, (problem,) = run_partly(a, "ps", "--all-nodes")
            # Five, and what a busy machine needs to start the command.
            assert time.monotonic() - began < 20
            assert output.splitlines()[1].split()[:3] == ["a", "echo", "0"]
            assert problem.startswith("meshtrio: node b: tcp:127.0.0.1:")
            assert problem.endswith("did not answer within 5 s")
            b.process.send_signal(signal.SIGCONT)
            # Its lease lasts for a minute, so that etcd still has it.
            b.process.kill()
            b.process.wait()
            _, (problem,) = run_partly(a, "ps", "--all-nodes")
            assert "Connection refused" in problem


def test_without_etcd_a_node_answers_with_what_it_knows(short_dir: Path) -> None:
    with run_etcd() as etcd:
        authority = NodeAuthority(short_dir)
        config_a, config_b = (make_secure_tables(authority, etcd, node, ttl=2) for node in "ab")
        with serve_node(short_dir, "a", config_a) as a, serve_node(short_dir, "b", config_b):
            wait_until(lambda: "b" in count_endpoints(a))
            etcd.members[0].kill()
            wait_until(lambda: not get_status(a)["registered"])
            wait_until(lambda: not get_status(a)["connected"])
            status = get_status(a)
            assert etcd.endpoints[0] in status["problem"]
            assert etcd.endpoints[0] in status["registration_problem"]
            assert (status["lease"], status["lease_losses"]) == ("", 1)
            assert count_endpoints(a).keys() == {"a", "b"}
            assert run_json_command(a, "ps", "--all-nodes") == []
            *_, etcd_line, node_line = run_command_ok(a, "nodes").splitlines()
            assert etcd_line.startswith("etcd: not connected, revision ")
            assert node_line.startswith("node a: not registered, ")
            before = status["lag"]
            wait_until(lambda: get_status(a)["lag"] > before)
            etcd.start(etcd.members[0])
            wait_until(lambda: get_status(a)["registered"] and get_status(a)["connected"])
            # Until it is back; it may have no leader at first.
            assert 1 <= a.log.count("watching 'meshtrio/' failed") <= 2, a.log
            assert_logged_once(a.log, f"watching 'meshtrio/' again, at {etcd.endpoints[0]}")
            assert_logged_once(a.log, "node a has lost its lease")
            assert_logged_once(a.log, "registered as node a again")


def get_status(mesh: MeshProcess) -> Any:
    return run_json_command(mesh, "nodes")["discovery"]


def assert_logged_once(log: str, text: str) -> None:
    assert log.count(text) == 1, log


def test_a_mesh_that_starts_without_etcd_answers(short_dir: Path) -> None:
    with run_etcd() as etcd:
        etcd.members[0].kill()
        config = make_secure_tables(NodeAuthority(short_dir), etcd, "a")
        with serve_mesh(short_dir, config) as mesh:
            wait_until(lambda: "Connection refused" in get_status(mesh)["problem"])
            reply = run_json_command(mesh, "nodes")
            assert reply["nodes"] == []
            assert not reply["discovery"]["registered"]
            assert "nothing known" in run_command_ok(mesh, "nodes")


def test_a_name_that_is_taken_is_shown_as_such(short_dir: Path) -> None:
    with run_etcd() as etcd:
        authority = NodeAuthority(short_dir)
        first, second = (make_secure_tables(authority, etcd, "a") for _ in range(2))
        with serve_node(short_dir, "a", first + echo_plugin_table(), ready=1) as one:
            with serve_mesh(short_dir, second) as other:
                wait_until(lambda: "another mesh has" in get_status(other)["registration_problem"])
                (listed,) = run_json_command(other, "nodes")["nodes"]
                assert not listed["this_mesh"]
                address = run_json_command(one, "nodes")["nodes"][0]["address"]
                text = "node a: it is not registered: another mesh has the name 'a', with the "
                assert_logged_once(other.log, f"{text}gateway {address}")
