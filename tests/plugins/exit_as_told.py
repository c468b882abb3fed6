"""Exits with the status, or in the way, that its first argument names."""

import os
import signal
import sys

how = sys.argv[1]
if how == "signal":
    os.kill(os.getpid(), signal.SIGUSR1)
elif how == "raise":
    raise ValueError("as told")
elif how == "interrupt":
    raise KeyboardInterrupt
elif how == "text":
    sys.exit("as told")
sys.exit(int(how))
