"""Who does something: a session, the address, and on this machine the user.

A process that connects by loopback is one of this machine, and the kernel lists the user of each
socket in /proc/net/tcp.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import trio

from meshtrio.util.users import find_user_name

_FAMILIES = {4: ("/proc/net/tcp", socket.AF_INET), 6: ("/proc/net/tcp6", socket.AF_INET6)}


async def describe_author(session: str, peer: tuple[str, int], local: tuple[str, int]) -> str:
    """Describe the viewer of a session, as the log names it."""
    text = f"viewer {session} at {peer[0]}"
    if not ip_address(peer[0].partition("%")[0]).is_loopback:
        return text
    user = None
    with suppress(OSError, RuntimeError, ValueError):
        user = await trio.to_thread.run_sync(_find_user, peer, local)
    return text if user is None else f"{text}, user {user}"


def _find_user(near: tuple[str, int], far: tuple[str, int]) -> str | None:
    """Return the name of the user of a socket, or the number if it has none."""
    uid = find_uid(near, far)
    return None if uid is None else find_user_name(uid) or str(uid)


def find_uid(near: tuple[str, int], far: tuple[str, int]) -> int | None:
    """Return the user of a TCP socket of this machine, by its two ends; None if there is none.

    Raises OSError and ValueError.
    """
    path, family = _FAMILIES[ip_address(near[0]).version]
    ends = [_format_end(*near, family), _format_end(*far, family)]
    for line in Path(path).read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == ends:
            return int(fields[7])
    return None


def _format_end(host: str, port: int, family: int) -> str:
    """Return an end as /proc/net/tcp has it: words of 32 bits in the machine's order."""
    packed = socket.inet_pton(family, host)
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
