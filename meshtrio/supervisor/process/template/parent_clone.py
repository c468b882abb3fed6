"""A fork whose child is a sibling of this process, not its child. Standard library only.

clone(2) with CLONE_PARENT makes the child a child of this process's parent, which alone can wait
for it. No function of the C library passes that flag and returns twice, so it is called by its
number; `os.fork` does the rest by the functions of Python's C API that are called here.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys

_CLONE_PARENT = 0x00008000
_CLONE_CHILD_CLEARTID = 0x00200000
_CLONE_CHILD_SETTID = 0x01000000
_FLAGS = _CLONE_PARENT | _CLONE_CHILD_CLEARTID | _CLONE_CHILD_SETTID | signal.SIGCHLD
_PR_GET_TID_ADDRESS = 40
_SYSTEM_CALLS = {"x86_64": (56, 273, 274), "aarch64": (220, 99, 100), "riscv64": (220, 99, 100)}
"""Numbers of clone(2), set_robust_list(2) and get_robust_list(2), by machine; of those on which the
first argument of clone(2) is the flags."""


class ParentClone:
    """Forks children of this process's parent."""

    def __init__(self) -> None:
        """Find what is needed. Raises OSError if this system cannot do it."""
        numbers = _SYSTEM_CALLS.get(platform.machine())
        if numbers is None or sys.maxsize < 2**32:
            raise OSError(f"it is not known how to fork on {platform.machine()}")
        self._clone, self._set_robust_list, get_robust_list = numbers
        # With the GIL held, as os.fork does.
        self._libc = ctypes.PyDLL(None, use_errno=True)
        self._libc.syscall.restype = ctypes.c_long
        self._libc.syscall.argtypes = [ctypes.c_long, ctypes.c_ulong, *[ctypes.c_void_p] * 4]
        self._tid_address = self._find_tid_address()
        # The C library's list of robust mutexes, which fork(3) registers in the child, too.
        self._robust_list, self._robust_size = ctypes.c_void_p(), ctypes.c_size_t()
        found = ctypes.byref(self._robust_list), ctypes.byref(self._robust_size)
        self._libc.syscall(get_robust_list, 0, *found, None, None)

    def _find_tid_address(self) -> int:
        """Find where the C library keeps the thread id of the main thread.

        fork(3) has the kernel store the child's there (CLONE_CHILD_SETTID). Without that, functions
        such as pthread_kill(3) would use the template's id in the child. glibc registers the same
        address with the kernel, to be cleared when the thread ends; musl does not.
        """
        address = ctypes.c_void_p()
        if self._libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) or not address:
            raise OSError("the kernel lacks CONFIG_CHECKPOINT_RESTORE, or hides it")
        assert address.value is not None
        if ctypes.c_int.from_address(address.value).value != os.getpid():
            raise OSError("this C library is not glibc")
        return address.value

    def fork(self) -> int:
        """Fork; return 0 in the child, and its pid in this process. Raises OSError.

        This process must have one thread only: of others, the child would have copies of the locks
        that they hold, and handlers of pthread_atfork(3), which care for that, are not called.
        """
        api, address = ctypes.pythonapi, self._tid_address
        api.PyOS_BeforeFork()
        # The order of the last two arguments, of which one is unused, depends on the machine.
        pid: int = self._libc.syscall(self._clone, _FLAGS, None, None, address, address)
        if pid == 0:
            head, size = self._robust_list.value or 0, self._robust_size.value
            self._libc.syscall(self._set_robust_list, head, size, None, None, None)
            api.PyOS_AfterFork_Child()
            return 0
        error = ctypes.get_errno()
        api.PyOS_AfterFork_Parent()
        if pid < 0:
            raise OSError(error, os.strerror(error))
        return pid
