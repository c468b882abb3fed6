"""Writes what a program can see of its own process as JSON, and is never ready.

The file is beside its socket, with `.json` appended. Then it prints a line.
"""

import gc
import json
import os
import re
import resource
import signal
import sys
import threading
import time
from pathlib import Path


def read_status(*names: str) -> dict[str, str]:
    lines = (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: value.strip() for name, _, value in lines if name in names}


def list_descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}").partition(":")[0]
        except FileNotFoundError:  # that of the listing
            continue
    return found


def read_words(name: str) -> list[str]:
    return Path(f"/proc/self/{name}").read_text().rstrip("\0").split("\0")


def can_signal_main_thread() -> list[bool]:
    """Whether another thread can, which the C library does by the thread id that it has kept."""
    results = []

    def send() -> None:
        try:
            signal.pthread_kill(threading.main_thread().ident or 0, 0)
            results.append(True)
        except OSError:
            results.append(False)

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    return results


limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
main = sys.modules["__main__"]
umask = os.umask(0)
os.umask(umask)
text = json.dumps(
    {
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "path": sys.path,
        "flags": list(sys.flags),
        "main": {k: repr(v) for k, v in sorted(vars(main).items()) if k.startswith("__")},
        "main is main": vars(main) is globals(),
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "environ in /proc": dict(each.split("=", 1) for each in read_words("environ")),
        "command in /proc": read_words("cmdline"),
        "umask": umask,
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in limits},
        "nice": os.nice(0),
        "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
        "parent": os.getppid(),
        "leads its group": os.getpgrp() == os.getpid(),
        "leads its session": os.getsid(0) == os.getpid(),
        "signals": read_status("SigIgn", "SigCgt", "SigBlk", "SigPnd", "ShdPnd"),
        "handlers": {n: str(signal.getsignal(n)) for n in sorted(signal.valid_signals())},
        "descriptors": list_descriptors(),
        "threads": threading.active_count(),
        "native id": threading.get_native_id() == os.getpid(),
        "streams": [
            [each.fileno(), each.encoding, each.errors, each.line_buffering, each.isatty()]
            for each in (sys.stdin, sys.stdout, sys.stderr)
        ],
        "stdin": sys.stdin.read(),
        "collector": [gc.isenabled(), gc.get_threshold()],
        "trace": [repr(sys.gettrace()), repr(sys.excepthook is sys.__excepthook__)],
        "recursion": sys.getrecursionlimit(),
        "main thread": can_signal_main_thread(),
    }
)
Path(os.environ["PLUGIN_SOCKET"] + ".json").write_text(re.sub(" at 0x[0-9a-f]+", "", text))
print("written", flush=True)
time.sleep(3600)
