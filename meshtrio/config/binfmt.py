"""Formats of programs that the kernel was told to execute beyond its own.

Source: Documentation/admin-guide/binfmt-misc.rst of the kernel.
"""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path("/proc/sys/fs/binfmt_misc")
_NO_FORMATS = frozenset({"register", "status"})


def is_registered(path: str, head: bytes, folder: Path = _FOLDER) -> bool:
    """Whether the kernel executes a file that begins with `head` by an interpreter it was given."""
    try:
        names = set(os.listdir(folder)) - _NO_FORMATS
        texts = [(folder / name).read_bytes() for name in names]
    except OSError:
        return False
    return any(_matches(text, path, head) for text in texts)


def _matches(text: bytes, path: str, head: bytes) -> bool:
    """`text`: what the kernel shows of a registered format."""
    state, *lines = text.decode("ascii", "replace").splitlines() or [""]
    if state != "enabled":
        return False
    found = dict(line.partition(" ")[::2] for line in lines)
    if "extension" in found:
        return path.endswith(found["extension"])
    try:
        magic = bytes.fromhex(found["magic"])
        mask = bytes.fromhex(found["mask"]) if "mask" in found else b"\xff" * len(magic)
        offset = int(found.get("offset", "0"))
    except (KeyError, ValueError):
        return True  # the benefit of the doubt
    part = head[offset : offset + len(magic)]
    masked = [(a & m, b & m) for a, b, m in zip(part, magic, mask, strict=False)]
    return len(part) == len(magic) and all(a == b for a, b in masked)
