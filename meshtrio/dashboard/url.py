"""The token of the dashboard and its URL, and the files in the runtime dir that have them."""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlencode

from meshtrio.config import DashboardConfig
from meshtrio.runtime_dir.paths import dashboard_token_path, dashboard_url_path
from meshtrio.util.descriptors import read_regular_file
from meshtrio.util.errors import UsageError

_TOKEN = re.compile(rb"[A-Za-z0-9_-]{43}")
_TOKEN_SIZE = 32
"""Bytes of randomness of a token."""
_MAX_FILE_SIZE = 4096
_WILDCARD_HOSTS = ("0.0.0.0", "::")  # noqa: S104 - nothing is bound here


def load_token(runtime_dir: Path) -> str:
    """Return the token of the meshes in a runtime dir; the first one makes it.

    So a page that is open goes on when the mesh has been restarted or upgraded.

    Raises:
        UsageError: The token cannot be written.
    """
    path = dashboard_token_path(runtime_dir)
    with suppress(OSError):
        status = os.lstat(path)
        is_private = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
        token = read_regular_file(path, _MAX_FILE_SIZE)
        if is_private and _TOKEN.fullmatch(token):
            return token.decode("ascii")
    made = secrets.token_urlsafe(_TOKEN_SIZE)
    _write_private_file(path, made)
    return made


@contextmanager
def published_url(runtime_dir: Path, url: str) -> Iterator[None]:
    """Have the URL in a file for the block, for `meshtrio dashboard`. Raises UsageError."""
    path = dashboard_url_path(runtime_dir)
    _write_private_file(path, url)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)


def make_url(config: DashboardConfig, token: str) -> str:
    """Return the URL, with the token, by which a browser on this machine reaches the dashboard."""
    address = config.address
    assert address is not None
    host = address.host
    if config.hosts and (host in _WILDCARD_HOSTS or config.tls is not None):
        host = config.hosts[0]
    elif host in _WILDCARD_HOSTS:
        host = "localhost"
    shown = f"[{host}]" if ":" in host else host
    scheme = "http" if config.tls is None else "https"
    return f"{scheme}://{shown}:{address.port}/?{urlencode({'token': token})}"


def _write_private_file(path: Path, text: str) -> None:
    """Write a file that only this user may read, in place of what is there."""
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
            file.write(text)
    except OSError as exc:
        raise UsageError(f"[mesh.dashboard] {path}: cannot be written: {exc.strerror}") from None
