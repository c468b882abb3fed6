"""What a user with `access.registry` or `access.control` alone can do, tried as such a user."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio

from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import control
from tests.support.grpcurl_as_user import GrpcurlAsUser, make_shared_directory
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    wait_until,
)

ROOT, NOBODY, OTHER = 0, 65534, 65533
CONTROL = control.DESCRIPTOR.services_by_name["Control"]
REGISTER, RESOLVE, WATCH = "Registry/Register", "Registry/Resolve", "Registry/Watch"
RULE = f'[mesh.access.registry]\nusers = ["{NOBODY}", "{OTHER}"]\n'

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as other users")


@pytest.fixture
def folder() -> Iterator[Path]:
    with make_shared_directory() as found:
        yield found


@contextmanager
def serve_shared_mesh(
    folder: Path, config: str, ready: int = 0
) -> Iterator[tuple[MeshProcess, GrpcurlAsUser]]:
    with serve_mesh(folder, config, min_ready=ready) as mesh:
        yield mesh, GrpcurlAsUser(folder, mesh.socket)


def endpoint_owners(grpcurl: GrpcurlAsUser, service: str) -> list[Any]:
    """Return the uids that have registered the endpoints of a service, None for the mesh's own."""
    state = json.loads(grpcurl.call(ROOT, RESOLVE, service=service))
    return [endpoint.get("owner") for endpoint in state.get("endpoints", [])]


def test_a_registrar_gets_no_part_of_what_others_serve(folder: Path) -> None:
    config = f'{RULE}\n[[service]]\nname = "db"\nendpoints = ["unix:/run/db.sock"]\n'
    with (
        serve_shared_mesh(folder, config + echo_plugin_table(), 1) as (_, grpcurl),
        ExitStack() as stack,
    ):
        roots = grpcurl.open_stream(ROOT, REGISTER, service="roots", address="unix:/run/r")
        stack.enter_context(roots)
        mine = grpcurl.open_stream(OTHER, REGISTER, service="others", address="unix:/run/o")
        stack.enter_context(mine)
        for service, reason in (
            ("plugin.echo", "a plugin or the config has that name"),
            ("db", "a plugin or the config has that name"),
            ("roots", "another user serves it"),
            ("others", "another user serves it"),
        ):
            for address in ("unix:/run/mine", "unix:/run/r", "unix:/run/o"):
                found = grpcurl.call(NOBODY, REGISTER, service=service, address=address)
                assert "Code: PermissionDenied" in found
                assert f"may not register {service}: {reason}" in found
        assert endpoint_owners(grpcurl, "plugin.echo") == [ROOT]
        assert endpoint_owners(grpcurl, "roots") == [None]
        assert endpoint_owners(grpcurl, "others") == [OTHER]
        found = grpcurl.call(NOBODY, REGISTER, service="mine", address="unix:/run/m", weight=1000)
        assert "may only register with weight 1" in found
        stack.enter_context(
            grpcurl.open_stream(NOBODY, REGISTER, service="mine", address="unix:/run/m", weight=1)
        )
        assert endpoint_owners(grpcurl, "mine") == [NOBODY]


def test_the_rule_can_list_what_registrars_serve_beside_others(folder: Path) -> None:
    config = f'{RULE}services = ["plugin.echo", "shared-*"]\n\n{echo_plugin_table()}'
    with serve_shared_mesh(folder, config, 1) as (_, grpcurl), ExitStack() as stack:
        for uid in (NOBODY, OTHER):
            for service in ("plugin.echo", "shared-1"):
                address = f"unix:/run/{service}-{uid}"
                stack.enter_context(
                    grpcurl.open_stream(uid, REGISTER, service=service, address=address)
                )
        assert endpoint_owners(grpcurl, "plugin.echo") == [ROOT, NOBODY, OTHER]
        # Nobody ends another's registration; one's own is replaced.
        address = f"unix:/run/shared-1-{OTHER}"
        found = grpcurl.call(NOBODY, REGISTER, service="shared-1", address=address)
        assert "Code: PermissionDenied" in found
        assert "which another user has registered" in found
        assert sorted(endpoint_owners(grpcurl, "shared-1")) == [OTHER, NOBODY]
        with grpcurl.open_stream(OTHER, REGISTER, service="shared-1", address=address):
            assert sorted(endpoint_owners(grpcurl, "shared-1")) == [OTHER, NOBODY]


def test_a_name_is_given_up_when_the_config_or_the_meshs_user_takes_it(folder: Path) -> None:
    with serve_shared_mesh(folder, RULE) as (mesh, grpcurl):
        one = grpcurl.open_stream(NOBODY, REGISTER, service="plugin.echo", address="unix:/run/1")
        two = grpcurl.open_stream(NOBODY, REGISTER, service="two", address="unix:/run/2")
        with one as first, two as second:
            assert endpoint_owners(grpcurl, "plugin.echo") == [NOBODY]
            (folder / "mesh.toml").write_text(RULE + echo_plugin_table())
            assert mesh.run_command("reload").returncode == 0
            _, errors = first.communicate(timeout=60)
            assert "Code: PermissionDenied" in errors
            wait_until(lambda: endpoint_owners(grpcurl, "plugin.echo") == [ROOT])
            with grpcurl.open_stream(ROOT, REGISTER, service="two", address="unix:/run/3"):
                _, errors = second.communicate(timeout=60)
                assert "uid 65534 no longer serves two: another user serves it" in errors
                wait_until(lambda: endpoint_owners(grpcurl, "two") == [None])


# -- bounds ------------------------------------------------------------------------------------


async def test_commands_work_when_a_program_of_the_same_user_has_all_calls(folder: Path) -> None:
    limits = "[mesh.limits]\nmax_calls_per_user = 6\n"
    with serve_mesh(folder, limits + echo_plugin_table(), min_ready=1) as mesh:
        async with connect_to_mesh(mesh.socket) as channel, AsyncExitStack() as stack:
            stack.enter_context(trio.fail_after(60))
            stub = DynamicStub(channel, CONTROL)
            for _ in range(6):
                events = await stack.enter_async_context(
                    stub.WatchEvents(control.WatchEventsRequest(last=1, follow=True))
                )
                assert await anext(events)
            with pytest.raises(purerpc.ResourceExhaustedError, match="max_calls_per_user"):
                await stub.ListInstances(control.ListInstancesRequest())
            assert [row["state"] for row in await trio.to_thread.run_sync(mesh.ps)] == ["ready"]
            stopped = await trio.to_thread.run_sync(mesh.run_command, "stop", "echo")
            assert stopped.returncode == 0, stopped.stderr


def test_what_one_user_holds_is_bounded(folder: Path) -> None:
    limits = "[mesh.limits]\nmax_calls_per_user = 6\nmax_registrations_per_user = 3\n"
    limits += "max_endpoints_per_service = 4\n"
    rule = f'{RULE}services = ["shared"]\n'
    with serve_shared_mesh(folder, rule + limits) as (mesh, grpcurl), ExitStack() as stack:

        def register(uid: int, number: int, service: str) -> None:
            address = f"unix:/run/{uid}-{number}"
            call = grpcurl.open_stream(uid, REGISTER, service=service, address=address)
            stack.enter_context(call)

        for number in range(3):
            register(NOBODY, number, "shared")
        with pytest.raises(AssertionError, match=r"uid 65534 has 3 registrations, the maximum of"):
            register(NOBODY, 3, "more")
        register(OTHER, 0, "shared")
        with pytest.raises(AssertionError, match=r"shared has 4 registered endpoints"):
            register(OTHER, 1, "shared")
        # Watches count over all connections, together with the registrations.
        for _ in range(3):
            stack.enter_context(grpcurl.open_stream(NOBODY, WATCH, service="shared"))
        text = grpcurl.call(NOBODY, WATCH, service="shared")
        assert "Code: ResourceExhausted" in text
        assert "uid 65534 has 6 calls open to meshtrio.v1.Registry" in text
        assert "max_calls_per_user" in text
        assert '"shared"' in grpcurl.call(OTHER, RESOLVE, service="shared")
        # The operator's commands are not affected.
        assert mesh.run_command("services").returncode == 0
        stack.close()
        wait_until(lambda: '"shared"' in grpcurl.call(NOBODY, RESOLVE, service="shared"))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"address": f"unix:/{'x' * 107}"}, "at most 107 bytes"),
        ({"address": "unix:/a\0b"}, "at most 107 bytes, and no NUL"),
        ({"service": "x" * 257}, "is not the name of a service"),
        ({"service": "a\x1b[2J"}, "is not the name of a service"),
        ({"address": f"tcp:{'x' * 254}:1"}, "at most 253 characters"),
        ({"address": "tcp:a b:1"}, "at most 253 characters"),
        ({"address": "tcp:a:1", "tls": {"server_name": "x" * 254}}, "at most 253 characters"),
        ({"address": "tcp:a:1", "tls": {"ca_path": "/" + "x" * 4096}}, "at most 4096 bytes"),
    ],
)
def test_names_and_addresses_have_lengths(
    values: dict[str, Any], reason: str, bare: GrpcurlAsUser
) -> None:
    values = {"service": "thing", "address": "unix:/a", **values}
    found = bare.call(ROOT, REGISTER, **values)
    assert "Code: InvalidArgument" in found
    assert reason in found


@pytest.fixture(scope="module")
def bare() -> Iterator[GrpcurlAsUser]:
    with make_shared_directory() as folder, serve_shared_mesh(folder, "") as (_, grpcurl):
        yield grpcurl


def test_deaths_with_much_stderr_leave_the_service_reachable(folder: Path) -> None:
    """Tails of 16 deaths had more than the 4 MB that a client takes."""
    program = "import sys; err = sys.stderr.buffer; err.write((b'\\xff' * 8191 + b'\\n') * 20)"
    program += "; err.write(b'the end\\n'); err.flush(); sys.exit(1)"
    backoff = {"initial": 0.01, "maximum": 0.01}
    often = {"backoff": backoff, "max_restarts": 20, "restart_period": 600}
    config = plugin_table("loud", "-c", program, output={"log_level": "error"}, **often)
    with serve_shared_mesh(folder, config) as (mesh, grpcurl):
        mesh.wait_for_log("giving up")
        text = grpcurl.call(ROOT, RESOLVE, service="plugin.loud")
        departures = json.loads(text)["departures"]
        assert len(departures) == 16
        assert [bool(each.get("stderrTail")) for each in departures] == [False] * 15 + [True]
        assert len(text) < 256 * 1024
        *_, before, last = departures[-1]["stderrTail"]
        assert "\ufffd" in before
        assert last == "the end"


# -- control -----------------------------------------------------------------------------------


def test_a_user_with_control_reloads_only_the_meshs_own_file(folder: Path) -> None:
    """Another file may run anything as the mesh's user."""
    config = f'[mesh.access.control]\nusers = ["{NOBODY}"]\n'
    marker = folder / "pwned"
    evil = folder / "evil.toml"
    evil.write_text(f'[[plugin]]\nname = "evil"\ncommand = ["touch", "{marker}"]\n')
    with serve_shared_mesh(folder, config) as (mesh, grpcurl):
        answers = {
            grpcurl.call(NOBODY, "Control/Reload", path=str(path)).replace(str(path), "PATH")
            for path in (evil, "/no/such/file", "/etc/shadow", "/root", "relative", "/dev/zero")
        }
        # Nor does it tell what files there are: all answers are the same, but for the pid.
        assert len({answer.split("(pid")[0] for answer in answers}) == 1
        assert all("Code: PermissionDenied" in answer for answer in answers)
        (folder / "mesh.toml").write_text(config + echo_plugin_table())
        for path in ("", str(folder / "mesh.toml")):
            found = grpcurl.call(NOBODY, "Control/Reload", path=path)
            assert "Code:" not in found
        assert [each["name"] for each in mesh.ps()] == ["echo"]
        assert not marker.exists()
        grpcurl.call(ROOT, "Control/Reload", path=str(evil))
        wait_until(marker.exists)
