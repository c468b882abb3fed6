"""A plugin whose descendant has left its group and session, and gets rid of what it has inherited.

How is told by the arguments: "environment" and "limits" are cleared, "namespace" is a PID namespace
of its own. With "dies" the plugin itself exits afterwards, with "lasts-the-second-time" just once.
Standard library only.
"""

import ctypes
import os
import pathlib
import resource
import sys
import time

ESCAPE_OPTIONS = sys.argv[1:]
_CLONE_NEWPID = 0x20000000


def shed_inherited_state():
    if "limits" in ESCAPE_OPTIONS:
        _, hard = resource.getrlimit(resource.RLIMIT_RSS)
        resource.setrlimit(resource.RLIMIT_RSS, (hard, hard))
    os.set_inheritable(ready, True)
    program = f"import os, time; os.write({ready}, b'x'); os.close({ready}); time.sleep(3600)"
    command = [sys.executable, "-I", "-S", "-c", program]
    os.execve(command[0], command, {} if "environment" in ESCAPE_OPTIONS else os.environ)


def escape():
    """Do what daemons do: a child that leads a session, whose child goes on."""
    os.setsid()
    if "namespace" in ESCAPE_OPTIONS:
        assert ctypes.CDLL(None).unshare(_CLONE_NEWPID) == 0
    pid = os.fork()
    if pid == 0:
        shed_inherited_state()
    os.write(told, b"%d" % pid)
    os._exit(0)


is_ready, ready = os.pipe()
pids, told = os.pipe()
if os.fork() == 0:
    escape()
os.wait()
os.close(ready)
os.read(is_ready, 1)
print("escaped", os.read(pids, 20).decode(), "for good", flush=True)
again = pathlib.Path(os.environ["PLUGIN_SOCKET"]).with_name("escaped-before")
if "dies" in ESCAPE_OPTIONS or ("lasts-the-second-time" in ESCAPE_OPTIONS and not again.exists()):
    again.touch()
    sys.exit(3)
time.sleep(3600)
