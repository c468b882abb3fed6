"""Sets what /proc/PID/cmdline and environ show of this process. Standard library only.

After a fork they would show what the template was executed with. That is more than a matter of
looks: processes of a mesh are recognized by their environment, and what a plugin starts inherits
this memory. The kernel lets any process choose the addresses (prctl(2), PR_SET_MM_MAP), as
`systemd` does to set its title.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Sequence

_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_MAP = struct.Struct("=11QQIi")
"""struct prctl_mm_map of linux/prctl.h."""
_UNCHANGED_FIELDS = (26, 27, 45, 46, 47)
"""Fields of /proc/PID/stat: the ends of code and data, and the start of the heap."""
_STACK_FIELD = 28
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sbrk.restype = ctypes.c_void_p


def _read_unchanged_addresses() -> tuple[list[int], int]:
    """Read the addresses that stay as they are, and that of the stack, which fork(2) copies."""
    with open("/proc/self/stat", "rb") as file:
        # The name in parentheses may contain anything; the state, field 3, follows it.
        fields = file.read().rpartition(b")")[2].split()
    return [int(fields[number - 3]) for number in _UNCHANGED_FIELDS], int(fields[_STACK_FIELD - 3])


_UNCHANGED_ADDRESSES, _STACK = _read_unchanged_addresses()
_shown: list[mmap.mmap] = []
"""Memory that the kernel reads from."""


def show_command_and_environment(command: Sequence[bytes], environment: Sequence[bytes]) -> None:
    """Show a command and an environment in /proc. Raises OSError if the kernel refuses."""
    arguments = b"".join(word + b"\0" for word in command)
    variables = b"".join(entry + b"\0" for entry in environment)
    memory = mmap.mmap(-1, len(arguments) + len(variables), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(arguments + variables)
    _shown.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    middle, end = start + len(arguments), start + len(arguments) + len(variables)
    addresses = [*_UNCHANGED_ADDRESSES, _libc.sbrk(0), _STACK, start, middle, middle, end]
    new_map = _MAP.pack(*addresses, 0, 0, -1)
    if _libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, new_map, ctypes.c_ulong(_MAP.size), 0):
        error = ctypes.get_errno()
        raise OSError(error, f"PR_SET_MM_MAP: {os.strerror(error)}")
