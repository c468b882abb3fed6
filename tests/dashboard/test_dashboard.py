"""The dashboard of a running mesh, over HTTP."""

from __future__ import annotations

import logging
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import trio

from meshtrio.dashboard import actions, control_api, pace, stream, topics
from meshtrio.dashboard.routes import SECURITY_HEADERS
from meshtrio.dashboard.static_files import StaticFiles
from meshtrio.services.control import ControlServicer
from meshtrio.supervisor import events
from tests.support.certificates import Authority
from tests.support.dashboard_client import log_in, read_url
from tests.support.dashboards import dashboard_table
from tests.support.http_clients import http_connection
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import MINIMAL_COMMAND, plugin_table

P = plugin_table("p", *MINIMAL_COMMAND, ready="started")


async def test_a_viewer_sees_the_mesh(short_dir: Path) -> None:
    async with run_mesh(dashboard_table() + P, short_dir) as mesh:
        await mesh.wait_for_event(events.Ready)
        viewer = await log_in(mesh)
        (instance,) = (await viewer.get("instances"))["instances"]
        assert (instance["name"], instance["state"]) == ("p", "ready")
        assert (await viewer.get("tree"))["nodes"][0]["name"] == "p"
        assert (await viewer.get("events?names=p&last=1"))["events"][0]["kind"] == "ready"
        assert (await viewer.get("execution"))["number"] == 1
        assert "[mesh.dashboard]" in (await viewer.get("config"))["toml"]
        assert (await viewer.get("history"))["lives"][0]["plugin"] == "p"
        for name in ("statistics", "services", "log-levels"):
            assert await viewer.get(name)
        page = await viewer.request("GET", "/")
        assert b"<!doctype html>" in page.body
        for name, value in SECURITY_HEADERS:
            assert page.headers[name] == value


async def test_what_there_is_not_and_what_is_wrong(short_dir: Path) -> None:
    async with run_mesh(dashboard_table() + P, short_dir) as mesh:
        viewer = await log_in(mesh)
        for target, status, code in (
            ("/api/nope", 404, "NOT_FOUND"),
            ("/api/", 404, "NOT_FOUND"),
            ("/api/environment", 404, "NOT_FOUND"),
            ("/api/instances?names=nope", 404, "NOT_FOUND"),
            ("/api/instances?x=1", 400, "INVALID_ARGUMENT"),
            ("/api/events?last=x", 400, "INVALID_ARGUMENT"),
            ("/api/nodes", 409, "FAILED_PRECONDITION"),
            ("/api/stream?x=1", 400, "INVALID_ARGUMENT"),
        ):
            reply = await viewer.request("GET", target)
            assert (reply.status, reply.json()["code"]) == (status, code), target
            assert reply.headers["cache-control"] == "no-store"
        for method, target in (("POST", "/api/instances"), ("PUT", "/"), ("DELETE", "/assets/x")):
            assert (await viewer.request(method, target)).status == 405
        assert (await viewer.request("GET", "/api/actions/stop")).status == 405


@pytest.mark.parametrize(
    "target",
    [
        "/assets/../__init__.py",
        "/assets/../../config/mesh.py",
        "/assets//etc/passwd",
        "/assets/%2e%2e/__init__.py",
        "/assets/..%2f__init__.py",
        "/assets/./index.html",
        "/assets/vendor",
        "/assets/vendor/",
        "/assets/",
        "/assets",
        "/index.html",
        "//",
        "/assets/index.html\\..\\..",
        "/assets/vendor/README.md",
        "http://127.0.0.1/assets/index.html",
        "*",
    ],
)
async def test_only_files_of_the_page_are_served(short_dir: Path, target: str) -> None:
    async with run_mesh(dashboard_table() + P, short_dir) as mesh:
        viewer = await log_in(mesh)
        assert (await viewer.request("GET", target)).status == 404


async def test_files_are_compressed_and_revalidated(short_dir: Path) -> None:
    async with run_mesh(dashboard_table() + P, short_dir) as mesh:
        viewer = await log_in(mesh)
        plain = await viewer.request("GET", "/assets/index.html")
        assert plain.headers["cache-control"] == "private, no-cache"
        packed = await viewer.request("GET", "/assets/index.html", accept_encoding="br, gzip")
        assert packed.headers["content-encoding"] == "gzip"
        assert len(packed.body) < len(plain.body)
        again = await viewer.request(
            "GET", "/assets/index.html", if_none_match=plain.headers["etag"]
        )
        assert (again.status, again.body) == (304, b"")


async def test_a_link_outside_of_the_folder_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "dir.js").mkdir()
    (tmp_path / "static" / "a.js").write_text("a")
    files = StaticFiles(tmp_path / "static")
    assert await files.get("a.js", etag="", use_gzip=False)
    for name in ("dir.js", "../static/a.js", "b.js", ""):
        assert await files.get(name, etag="", use_gzip=False) is None


async def test_without_the_cookie_there_is_nothing(short_dir: Path) -> None:
    other_dir = short_dir / "other"
    other_dir.mkdir()
    async with (
        run_mesh(dashboard_table(control=True) + P, short_dir) as mesh,
        run_mesh(dashboard_table() + P, other_dir) as other,
    ):
        viewer, of_other = await log_in(mesh), await log_in(other)
        name = viewer.cookie.partition("=")[0]
        foreign = f"{name}={of_other.cookie.partition('=')[2]}"
        for cookie in ("", of_other.cookie, foreign, viewer.cookie[:-1]):
            for target in ("/", "/assets/app.js", "/api/instances", "/api/stream?events=1"):
                reply = await viewer.request("GET", target, cookie=cookie)
                assert reply.status == 401, target
                assert b'"p"' not in reply.body
                assert "set-cookie" not in reply.headers
            assert (await viewer.act("stop", b'{"name": "p"}', cookie=cookie)).status == 401
        for query in ("token=", "token=wrong", "token", f"token={'x' * 10_000}"):
            reply = await viewer.request("GET", f"/?{query}", cookie="")
            assert reply.status == 401
            assert "set-cookie" not in reply.headers
        assert mesh.find_events(events.Stopping) == []


async def test_links_of_other_sites_lead_to_the_page(short_dir: Path) -> None:
    """The browser keeps the cookie back the first time, since it is SameSite=Strict."""
    async with run_mesh(dashboard_table() + P, short_dir) as mesh:
        viewer = await log_in(mesh)
        first = await viewer.request("GET", "/", cookie="", sec_fetch_site="cross-site")
        assert first.status == 401
        assert b'http-equiv="refresh"' in first.body
        again = await viewer.request("GET", "/", cookie="", sec_fetch_site="same-origin")
        assert b"refresh" not in again.body


async def test_text_of_requests_is_escaped_in_pages(short_dir: Path) -> None:
    async with run_mesh(dashboard_table() + P, short_dir) as mesh:
        viewer = await log_in(mesh)
        reply = await viewer.request("GET", "/", host="<script>alert(1)</script>")
        assert reply.status == 403
        assert b"<script>" not in reply.body


async def test_actions(short_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "meshtrio.dashboard")
    config = f'[mesh]\nruntime_dir = "{short_dir}/run"\n' + dashboard_table(control=True) + P
    async with run_mesh(config, short_dir) as mesh:
        await mesh.wait_for_event(events.Ready)
        viewer = await log_in(mesh)
        assert (await viewer.act("restart", b'{"name": "p"}')).json() == {}
        await mesh.wait_for_event(events.Ready, count=2)
        assert (await viewer.act("scale", b'{"name": "p", "instances": 2}')).status == 200
        assert len((await viewer.get("instances"))["instances"]) == 2
        drained = (await viewer.act("drain", b'{"name": "p"}')).json()["instances"]
        assert [each["plugin"] for each in drained] == ["p", "p"]
        assert (await viewer.act("start", b'{"name": "p"}')).status == 200
        levels = await viewer.act("set-log-level", b'{"name": "p", "level": "debug"}')
        assert levels.json()["plugins"][0]["level"] == "debug"
        assert (await viewer.act("reload", b"{}")).status == 200
        assert (await viewer.act("stop", b'{"name": "p"}')).status == 200
        for name, body, status, code in (
            ("stop", b'{"name": "nope"}', 404, "NOT_FOUND"),
            ("scale", b'{"name": "p", "instances": 0}', 409, "FAILED_PRECONDITION"),
            ("set-log-level", b'{"name": "p", "level": "loud"}', 400, "INVALID_ARGUMENT"),
            ("reload", b'{"path": "/etc/passwd"}', 400, "INVALID_ARGUMENT"),
            ("upgrade", b"{}", 404, "NOT_FOUND"),
            ("stop", b"[]", 400, "INVALID_ARGUMENT"),
            ("stop", b"x" * 17_000, 413, None),
        ):
            reply = await viewer.act(name, body)
            assert reply.status == status, (name, reply)
            assert code is None or reply.json()["code"] == code
    lines = [each.getMessage() for each in caplog.records]
    session = viewer.cookie.partition("=")[2].partition(".")[0]
    author = next(line for line in lines if line.endswith("signed in")).removesuffix(" signed in")
    assert author.startswith(f"viewer {session} at 127.0.0.1, user ")
    assert f"{author}: scale p 2" in lines
    assert f"{author}: scale p 2: done" in lines
    assert any(line.startswith(f"{author}: stop nope failed: NOT_FOUND") for line in lines)


async def test_without_control_viewers_only_look(short_dir: Path) -> None:
    async with run_mesh(dashboard_table() + P, short_dir) as mesh:
        await mesh.wait_for_event(events.Ready)
        viewer = await log_in(mesh)
        reply = await viewer.act("stop", b'{"name": "p"}')
        assert reply.status == 403
        assert "control" in reply.json()["text"]
        assert mesh.find_events(events.Stopping) == []


async def test_an_action_goes_on_when_its_viewer_leaves(short_dir: Path) -> None:
    async with run_mesh(dashboard_table(control=True) + P, short_dir) as mesh:
        await mesh.wait_for_event(events.Ready)
        viewer = await log_in(mesh)
        body = b'{"name": "p"}'
        async with http_connection(viewer.port) as client:
            head = f"POST /api/actions/restart HTTP/1.1\r\nhost: {viewer.origin[7:]}\r\n"
            head += f"cookie: {viewer.cookie}\r\norigin: {viewer.origin}\r\n"
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            await client.send(head.encode() + body)
        await mesh.wait_for_event(events.Ready, count=2)


async def test_there_is_a_maximum_of_actions(short_dir: Path) -> None:
    async with run_mesh(dashboard_table(control=True) + P, short_dir) as mesh:
        viewer = await log_in(mesh)
        with patch.object(actions, "_MAX_ACTIONS", 0):
            assert (await viewer.act("start", b'{"name": "p"}')).status == 429
        assert (await viewer.act("start", b'{"name": "p"}')).status == 200


async def test_a_stream_has_what_was_and_what_happens(short_dir: Path) -> None:
    async with run_mesh(dashboard_table(control=True) + P, short_dir) as mesh:
        await mesh.wait_for_event(events.Ready)
        viewer = await log_in(mesh)
        query = "statistics=1&calls=1&services=1&nodes=1&events=1&history=1&logs=*&tap=*"
        async with viewer.stream(query) as client:
            name, found = await client.read_event()
            assert name == "mesh"
            assert (found["control"], found["execution"], found["nodes"]) == (True, 1, False)
            assert 0 <= found["time"] - found["started"] < 100
            seen: dict[str, Any] = {}
            while not {"statistics", "calls", "services", "problem", "event"} <= seen.keys():
                name, seen[name] = await client.read_event()
            assert seen["statistics"]["instances"][0]["instance"]["name"] == "p"
            assert seen["problem"]["stream"] == "nodes"
            assert seen["event"]["kind"] == "ready"
            await mesh.mesh.restart("p")
            wanted = {"stopped", "ended"}
            while wanted:
                name, found = await client.read_event()
                if name == "event":
                    wanted.discard(found["kind"])
                elif name == "history" and "ended" in found["lives"][0]:
                    wanted.discard("ended")


async def test_statistics_are_collected_once_for_all_and_not_without_viewers(
    short_dir: Path,
) -> None:
    collected = 0
    collect = ControlServicer._collect_statistics

    async def count(servicer: ControlServicer) -> Any:
        nonlocal collected
        collected += 1
        return await collect(servicer)

    with (
        patch.object(ControlServicer, "_collect_statistics", count),
        patch.object(topics, "STATISTICS_INTERVAL", 0.2),
    ):
        async with run_mesh(dashboard_table() + P, short_dir) as mesh:
            await mesh.wait_for_event(events.Ready)
            viewer = await log_in(mesh)
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(viewer.stream("statistics=1"))
                    for _ in range(50)
                ]
                for _ in range(4):
                    for client in clients:
                        await client.read_event_of("statistics")
                # As many of each viewer as were collected, but for those that a slow one missed.
                assert 4 <= collected < 50
            async with viewer.stream("events=1") as client:
                await client.read_event_of("event")
            before = collected
            await trio.sleep(1)
            assert collected == before


async def test_a_reply_is_shared_by_all_who_ask_at_the_same_time(short_dir: Path) -> None:
    calls = 0
    get_tree = ControlServicer.GetTree

    async def count(servicer: ControlServicer, request: Any) -> Any:
        nonlocal calls
        calls += 1
        return await get_tree(servicer, request)

    with patch.object(ControlServicer, "GetTree", count):
        async with run_mesh(dashboard_table(control=True) + P, short_dir) as mesh:
            viewer = await log_in(mesh)
            with patch.object(control_api, "_CACHE_TTL", 60):
                async with trio.open_nursery() as nursery:
                    for _ in range(50):
                        nursery.start_soon(viewer.get, "tree")
                assert calls == 1
                # What an action has changed is seen at once.
                assert (await viewer.act("stop", b'{"name": "p"}')).status == 200
                tree = await viewer.get("tree")
                assert tree["nodes"][0]["instances"][0]["state"] == "stopped"
            assert calls == 2


async def test_a_reply_has_a_time_limit(short_dir: Path) -> None:
    async def hang(servicer: ControlServicer, request: Any) -> Any:
        await trio.sleep_forever()

    with (
        patch.object(ControlServicer, "GetTree", hang),
        patch.object(control_api, "_REPLY_TIMEOUT", 0.3),
        patch.object(control_api, "_MAX_CALLS", 1),
    ):
        async with run_mesh(dashboard_table() + P, short_dir) as mesh:
            viewer = await log_in(mesh)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(viewer.request, "GET", "/api/tree")
                reply = await viewer.request("GET", "/api/tree")
            assert (reply.status, reply.json()["code"]) == (504, "DEADLINE_EXCEEDED")
            assert (await viewer.request("GET", "/api/execution")).status == 200


async def test_there_is_a_maximum_of_viewers(short_dir: Path) -> None:
    async with run_mesh(dashboard_table() + P, short_dir) as mesh:
        viewer = await log_in(mesh)
        with patch.object(stream, "MAX_VIEWERS", 3):
            async with AsyncExitStack() as stack:
                for _ in range(3):
                    client = await stack.enter_async_context(viewer.stream("events=1"))
                    await client.read_event_of("mesh")
                reply = await viewer.request("GET", "/api/stream?events=1")
                assert (reply.status, reply.json()["code"]) == (503, "RESOURCE_EXHAUSTED")
            with trio.fail_after(60):
                while (await viewer.request("GET", "/api/execution")).status != 200:
                    pass


async def test_the_rate_of_a_viewer_is_limited(short_dir: Path) -> None:
    """A plugin writes as fast as it can; viewers get what they can show, and what they missed."""
    writer = plugin_table("w", "-c", "while True: print('x')", ready="started")
    with patch.multiple(pace, _MAX_RATE=50.0, _BURST=50.0):
        async with run_mesh(dashboard_table() + writer, short_dir) as mesh:
            await mesh.wait_for_event(events.Ready)
            viewer = await log_in(mesh)
            async with viewer.stream("logs=w") as client:
                began, missed = trio.current_time(), 0
                for _ in range(200):
                    missed += (await client.read_event_of("log"))["missed"]
                assert trio.current_time() - began > 2.5
                while not missed:
                    missed += (await client.read_event_of("log"))["missed"]


async def test_streams_end_with_the_mesh(short_dir: Path) -> None:
    async with AsyncExitStack() as stack:
        async with run_mesh(dashboard_table() + P, short_dir) as mesh:
            await mesh.wait_for_event(events.Ready)
            viewer = await log_in(mesh)
            client = await stack.enter_async_context(viewer.stream("statistics=1&events=10"))
            idle = await stack.enter_async_context(http_connection(viewer.port))
            while (await client.read_event_of("event"))["kind"] != "ready":
                pass
            mesh.stop()
            # Viewers see how it stops.
            while (await client.read_event_of("event"))["kind"] != "stopped":
                pass
        await client.read_rest()
        assert await idle.read_rest() == b""
    assert not (short_dir / "run" / "dashboard.url").exists()


async def test_the_token_stays_and_only_its_user_may_read_it(short_dir: Path) -> None:
    config = dashboard_table() + P
    urls = []
    path = short_dir / "run" / "dashboard.token"
    for _ in range(2):
        async with run_mesh(config, short_dir) as mesh:
            urls.append(read_url(mesh))
            assert path.stat().st_mode & 0o777 == 0o600
            assert (short_dir / "run" / "dashboard.url").stat().st_mode & 0o777 == 0o600
    assert urls[0] == urls[1]
    for spoil in (lambda: path.chmod(0o644), lambda: path.write_text("short"), path.unlink):
        spoil()
        async with run_mesh(config, short_dir) as mesh:
            urls.append(read_url(mesh))
            assert path.stat().st_mode & 0o777 == 0o600
    assert len(set(urls)) == 4


async def test_a_link_in_place_of_the_token_is_replaced(short_dir: Path) -> None:
    async with run_mesh(dashboard_table() + P, short_dir):
        pass
    path, target = short_dir / "run" / "dashboard.token", short_dir / "target"
    path.unlink()
    target.write_text("x" * 43)
    path.symlink_to(target)
    async with run_mesh(dashboard_table() + P, short_dir) as mesh:
        assert "x" * 43 not in read_url(mesh)
    assert target.read_text() == "x" * 43


async def test_tls(short_dir: Path) -> None:
    authority = Authority(short_dir)
    files = authority.issue("server", "127.0.0.1")
    tls = {"certificate": str(files.certificate), "key": str(files.key)}
    context = ssl.create_default_context(cafile=files.ca)
    config = dashboard_table() + "[mesh.dashboard.tls]\n"
    config += "".join(f'{key} = "{value}"\n' for key, value in tls.items()) + P
    async with run_mesh(config, short_dir) as mesh:
        assert read_url(mesh).startswith("https://")
        viewer = await log_in(mesh, context)
        assert (await viewer.get("instances"))["instances"]
        async with viewer.stream("events=1") as client:
            await client.read_event_of("mesh")
        # Clients without TLS get nothing, and harm nothing.
        for data in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01\xff\xff", b""):
            async with http_connection(viewer.port) as plain:
                await plain.send(data)
                if data:
                    await plain.read_rest()
        assert await viewer.get("execution")


async def test_a_bug_ends_a_request_and_not_the_mesh(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> Any:
        raise ExceptionGroup("a bug", [KeyError("x")])

    async with run_mesh(dashboard_table() + P, short_dir) as mesh:
        viewer = await log_in(mesh)
        with patch.object(control_api.ControlApi, "_call", fail):
            assert (await viewer.request("GET", "/api/tree")).status == 500
        with patch.object(stream, "_send_message", fail):
            async with viewer.stream("events=1") as client:
                await client.read_event_of("mesh")
                await client.read_rest()
        with patch.object(topics, "make_calls", side_effect=KeyError("another bug")):
            async with viewer.stream("statistics=1") as client:
                assert (await client.read_event_of("problem"))["code"] == "INTERNAL"
        assert await viewer.get("tree")
    assert "a bug" in caplog.text
    assert "another bug" in caplog.text
