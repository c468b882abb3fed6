"""The client's side of the runtime dir: where the mesh socket is, and whether it can be trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from meshtrio import contract
from meshtrio.errors import UntrustedMeshError
from meshtrio.runtime_dir.directory import default_runtime_dir, mesh_socket_path
from meshtrio.util.text import replace_surrogates


def find_mesh_socket() -> Path:
    """Where a client looks for the mesh: `MESH_SOCKET`, else the default runtime dir."""
    given = os.environ.get("MESH_SOCKET")
    return Path(given) if given else mesh_socket_path(default_runtime_dir())


def trusted_uids(mesh_socket: Path | str | None) -> frozenset[int] | None:
    """The uids of which the mesh that a client calls has to have one, None for any.

    A mesh socket that was given, by an argument or by MESH_SOCKET, is trusted. The default runtime
    dir has a name under which another user can make a folder first, and serve in it. So it has to
    be a folder of the process's own user or of root, into which no other user can write, and the
    server has to run as one of the two.

    Args:
        given: the path that the caller named, None if it named none.

    Raises:
        UntrustedMeshError: the default runtime dir is not such a folder.
    """
    if mesh_socket or os.environ.get(contract.MESH_SOCKET):
        return None
    trusted = frozenset({os.geteuid(), 0})
    problem = _find_trust_problem(default_runtime_dir(), trusted)
    if problem:
        raise UntrustedMeshError(
            f"{replace_surrogates(str(default_runtime_dir()))} {problem}; {_UNTRUSTED_HINT}"
        )
    return trusted


_UNTRUSTED_HINT = (
    "a mesh is only looked for in a folder of one's own or of root, since others could take its "
    "place; if this mesh is to be called, say so with MESH_SOCKET"
)


def _find_trust_problem(path: Path, uids: frozenset[int]) -> str:
    """Why others may have made what is in a folder; "" if they cannot, or it is not there."""
    try:
        status = os.lstat(path)
    except OSError:
        return ""  # connecting to what is in it fails likewise
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if status.st_uid not in uids:
        return f"belongs to uid {status.st_uid}"
    if status.st_mode & 0o022:
        return f"may be written to by others (mode {status.st_mode & 0o7777:o})"
    return ""
