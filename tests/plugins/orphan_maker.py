"""A plugin that leaves orphans which end soon; then it exits with status 7.

Of three kinds: in its own session, in that of a process between, and leading one of their own.
"""

import os
import sys
import time

COUNT = 10


def orphan(kind):
    """Fork a child that forks in turn and ends; returns the pid of its child."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        if kind == "between":
            os.setsid()
        pid = os.fork()
        if pid == 0:
            if kind == "leader":
                os.setsid()
            os.close(reading)
            os.close(writing)
            time.sleep(0.05)
            os._exit(3)
        os.write(writing, b"%d" % pid)
        os._exit(0)
    os.wait()
    os.close(writing)
    pid = int(os.read(reading, 20))
    os.close(reading)
    return pid


for kind in ("own", "between", "leader") * COUNT:
    orphan(kind)
print("orphans were made", flush=True)
# Until they have ended, so that they are not killed with this group.
time.sleep(0.3)
sys.exit(7)
