"""Tells what it runs under as one line of JSON, and is never ready."""

import json
import os
import resource
import time

umask = os.umask(0)
print(
    json.dumps(
        {
            "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
            "address_space": resource.getrlimit(resource.RLIMIT_AS),
            "cpu": resource.getrlimit(resource.RLIMIT_CPU),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "nice": os.nice(0),
            "umask": umask,
            "ids": [os.getuid(), os.getgid(), os.getgroups()],
            "env": sorted(os.environ),
            "cwd": os.getcwd(),
            "leads": os.getpgrp() == os.getpid(),
        }
    ),
    flush=True,
)
time.sleep(3600)
