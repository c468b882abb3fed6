"""The client's side of the runtime dir: where the mesh socket is, and whether it is trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from meshtrio import contract
from meshtrio.errors import UntrustedMeshError
from meshtrio.runtime_dir.paths import default_runtime_dir, mesh_socket_path
from meshtrio.util.text import replace_surrogates


def find_mesh_socket() -> Path:
    """Return the path of the mesh socket: `MESH_SOCKET`, or that in the default runtime dir."""
    path = os.environ.get(contract.MESH_SOCKET)
    return Path(path) if path else mesh_socket_path(default_runtime_dir())


def trusted_uids(mesh_socket: Path | str | None) -> frozenset[int] | None:
    """Return the uids that a client accepts of the mesh's process; None for any.

    A mesh socket that is given, by argument or by MESH_SOCKET, is trusted. The default runtime dir
    has a predictable name, under which another user can make a directory first and serve in it. So
    it must be a directory of this process's user or of root, in which no other user can write, and
    the server must run as one of the two.

    Args:
        mesh_socket: The path that the caller gave; None if it gave none.

    Raises:
        UntrustedMeshError: The default runtime dir does not meet these conditions.
    """
    if mesh_socket or os.environ.get(contract.MESH_SOCKET):
        return None
    trusted = frozenset({os.geteuid(), 0})
    path = default_runtime_dir()
    if problem := _find_trust_problem(path, trusted):
        where = replace_surrogates(str(path))
        raise UntrustedMeshError(f"{where} {problem}; {_UNTRUSTED_HINT}")
    return trusted


_UNTRUSTED_HINT = (
    "by default only a directory of this user or of root is trusted, since other users could "
    "impersonate the mesh; to call this mesh, set MESH_SOCKET to its socket"
)


def _find_trust_problem(path: Path, uids: frozenset[int]) -> str:
    """Explain why others may control a directory; "" if they cannot, or it does not exist."""
    try:
        status = os.lstat(path)
    except OSError:
        return ""  # Connecting to a socket in it fails as well.
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if status.st_uid not in uids:
        return f"belongs to uid {status.st_uid}"
    if status.st_mode & 0o022:
        return f"may be written to by others (mode {status.st_mode & 0o7777:o})"
    return ""
