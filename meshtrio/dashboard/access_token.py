"""The token that admits viewers, and the sessions that browsers get for it.

The token is in a file of the runtime dir that only the mesh's own user can read. It is kept when
the mesh is restarted, so that an open page goes on with the next mesh.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from meshtrio.util.errors import UsageError

TOKEN_FILE = "dashboard-token"  # noqa: S105 - the name of a file
_TOKEN_BYTES = 32
_SESSION_BYTES = 6
_MAX_FILE_SIZE = 200


def load_or_create_token(runtime_dir: Path) -> str:
    """Return the token of a runtime dir, which is made if there is none that can be trusted.

    Raises:
        UsageError: The file cannot be written.
    """
    found = read_token(runtime_dir)
    return found or _create_token(runtime_dir / TOKEN_FILE)


def read_token(runtime_dir: Path) -> str:
    """Return the token of a runtime dir; "" if there is none, or others could have written it."""
    try:
        descriptor = os.open(
            runtime_dir / TOKEN_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        )
    except OSError:
        return ""
    try:
        status = os.fstat(descriptor)
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o077:
            return ""
        text = os.read(descriptor, _MAX_FILE_SIZE).decode("ascii", "replace").strip()
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    is_whole = len(text) >= _TOKEN_BYTES and text.replace("-", "").replace("_", "").isalnum()
    return text if is_whole and text.isascii() else ""


def _create_token(path: Path) -> str:
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    new = path.with_name(f"{path.name}.new")
    try:
        with suppress(FileNotFoundError):
            new.unlink()
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
        new.replace(path)
    except OSError as exc:
        raise UsageError(f"{path}: cannot be written: {exc.strerror}") from None
    return token


class Sessions:
    """Makes and checks the cookies of sessions.

    A cookie is an id, by which the log names a viewer, with its code under the token. No table of
    sessions is needed, and they outlast the mesh's process.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def accepts_token(self, token: str) -> bool:
        """Return whether it is the token."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self._token)

    def make_cookie(self) -> str:
        """Return the value of the cookie of a new session."""
        session = secrets.token_hex(_SESSION_BYTES)
        return f"{session}.{self._sign(session)}"

    def find_session(self, cookie: str) -> str | None:
        """Return the id of the session of a cookie, None if it is not one of this token."""
        session, _, code = cookie.partition(".")
        is_valid = hmac.compare_digest(
            code.encode("utf-8", "replace"), self._sign(session).encode()
        )
        return session if is_valid else None

    def _sign(self, session: str) -> str:
        data = b"session " + session.encode("utf-8", "replace")
        return hmac.new(self._token, data, hashlib.sha256).hexdigest()
