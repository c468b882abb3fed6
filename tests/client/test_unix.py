"""Whom a client is connected to by the path of a Unix socket."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from meshtrio.client.channel import open_channel
from meshtrio.client.subchannel_pool import StateCallback
from meshtrio.discovery.endpoint import Endpoint, ServiceState
from meshtrio.transport import dial
from meshtrio.transport.dial import WrongServerError
from tests import ROOT
from tests.support.logs import watch_log

US = frozenset({os.geteuid()})
OTHER = 12345
CLONE_NEWUSER = 0x10000000
CLONE_NEWNS = 0x00020000

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")


@contextmanager
def listening(path: Path, uid: int | None = None) -> Iterator[socket.socket]:
    """A server, of another user if one is given, which everybody may connect to."""
    path.parent.chmod(0o777)
    with socket.socket(socket.AF_UNIX) as listener:
        os.seteuid(os.getuid() if uid is None else uid)
        try:
            listener.bind(str(path))
            path.chmod(0o777)
            listener.listen()
        finally:
            os.seteuid(os.getuid())
        listener.setblocking(False)
        yield listener


def test_a_server_of_the_right_user_is_connected_to(short_dir: Path) -> None:
    with listening(short_dir / "s") as listener:
        with dial.connect_unix(str(short_dir / "s"), US) as sock:
            sock.send(b"x")
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(10) == b"x"


def test_it_keeps_no_descriptors(short_dir: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with listening(short_dir / "s"):
        (short_dir / "link").symlink_to("s")
        dial.connect_unix(str(short_dir / "s"), US).close()
        for path, owners in (("link", US), ("s", frozenset({OTHER})), ("gone", US), (".", US)):
            with pytest.raises((WrongServerError, FileNotFoundError)):
                dial.connect_unix(str(short_dir / path), owners)
    assert len(os.listdir("/proc/self/fd")) == before


@as_root
async def test_a_server_of_another_user_is_not_spoken_to(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = short_dir / "s"
    with listening(path, OTHER) as listener:
        with pytest.raises(WrongServerError, match=f"served by uid {OTHER}, not by uid 0 or uid 7"):
            dial.connect_unix(str(path), frozenset({7, 0}))
        endpoint = Endpoint("x", f"unix:{path}", server_uid=0)

        async def feed(update: StateCallback) -> None:
            update(ServiceState((endpoint,)))

        caplog.set_level("INFO")
        with watch_log("connection failed") as failed:
            async with open_channel("x", feed) as channel:
                with trio.fail_after(60):
                    await failed.wait()
                assert f"served by uid {OTHER}, not by uid 0" in channel.picker.unavailable_reason
        accepted = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = listener.accept()
                with sock:
                    assert sock.recv(10) == b""
                accepted += 1
        assert accepted >= 2


@pytest.mark.parametrize("kind", ["link", "dangling", "loop"])
def test_a_link_is_not_followed(kind: str, short_dir: Path) -> None:
    with listening(short_dir / "s"):
        target = {"link": "s", "dangling": "gone", "loop": "x"}[kind]
        (short_dir / "x").symlink_to(target)
        with pytest.raises(WrongServerError, match="symbolic link"):
            dial.connect_unix(str(short_dir / "x"), US)
        if kind == "link":
            # An address of a person's or a config's own is followed.
            dial.connect_unix(str(short_dir / "x")).close()


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, Path.mkdir])
def test_what_is_not_a_socket_is_not_opened(make: Callable[[Path], None], short_dir: Path) -> None:
    make(short_dir / "x")
    with pytest.raises(WrongServerError, match="not a socket"):
        dial.connect_unix(str(short_dir / "x"), US)


def test_where_nobody_listens_it_is_refused(short_dir: Path) -> None:
    with pytest.raises(FileNotFoundError):
        dial.connect_unix(str(short_dir / "x"), US)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(short_dir / "x"))
        with pytest.raises(ConnectionRefusedError):
            dial.connect_unix(str(short_dir / "x"), US)


def test_a_full_backlog_is_not_waited_for(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(short_dir / "s"))
        listener.listen(0)
        found: list[OSError] = []
        for _ in range(10):
            try:
                stack.enter_context(dial.connect_unix(str(short_dir / "s"), US))
            except BlockingIOError as exc:
                found.append(exc)
        assert found


# -- namespaces --------------------------------------------------------------------------------


def connected_in_namespace(
    flags: int, owner: int, path: Path, *folder: Path, uids: str = ""
) -> str:
    """Return the error of `unix.connect` in new namespaces, "" for none; see `connecting`."""
    command = [
        sys.executable,
        "-m",
        "tests.support.connect_in_namespace",
        str(flags),
        str(owner),
        str(path),
    ]
    with subprocess.Popen(
        [*command, *map(str, folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in namespaces\n"
        if uids:
            Path(f"/proc/{process.pid}/uid_map").write_text(uids)
        found, _ = process.communicate("go on\n", timeout=60)
    assert process.returncode == 0
    return found.strip()


@as_root
def test_a_client_in_a_user_namespace_goes_by_the_owner_of_the_file(short_dir: Path) -> None:
    """It cannot compare the uid that a mesh outside has told it with what the kernel says."""
    with listening(short_dir / "plugins", OTHER), listening(short_dir / "swapped", OTHER + 1):
        os.chown(short_dir / "swapped", OTHER, OTHER)

        uids = f"0 {OTHER} 2"
        inside = partial(connected_in_namespace, CLONE_NEWUSER, OTHER, uids=uids)
        assert inside(short_dir / "plugins") == ""
        assert inside(short_dir / "swapped").startswith("WrongServerError")
        dial.connect_unix(str(short_dir / "plugins"), frozenset({OTHER})).close()
        with pytest.raises(WrongServerError):
            dial.connect_unix(str(short_dir / "swapped"), frozenset({OTHER}))


@as_root
def test_without_proc_the_connection_is_verified_nevertheless(short_dir: Path) -> None:
    with listening(short_dir / "s", OTHER):
        inside = partial(connected_in_namespace, CLONE_NEWNS)
        assert inside(OTHER, short_dir / "s", short_dir) == ""
        assert inside(0, short_dir / "s", short_dir).startswith("WrongServerError")
