"""What sockets that the mesh holds promise, many times over.

    python -m tests.held_sockets [--connects 10000] [--restarts 20] [--start exec|fork]

Makes connections, each for one call, while a plugin is restarted: by kill -9, and by replacement;
on a Unix socket, and on a TCP port. None may be refused, each call has to be answered, and
connections may end without a reply only with a process that was killed.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from meshtrio.config import StartMethod
from tests.held_sockets.connects import Restart, held_echo_plugin, measure_connects
from tests.support.ports import find_free_port


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--connects", type=int, default=10_000)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--start", type=StartMethod, default=StartMethod.EXEC)
    options = parser.parse_args()
    logging.getLogger("meshtrio").setLevel(logging.ERROR)  # Each kill is a warning.
    is_good = True
    for restart, is_tcp in itertools.product(Restart, (False, True)):
        listen = f"tcp://127.0.0.1:{find_free_port()}" if is_tcp else None
        plugin = held_echo_plugin(listen=listen, start=options.start)
        numbers = {"connects": options.connects, "restarts": options.restarts}
        with tempfile.TemporaryDirectory(prefix="mt-") as folder:
            measure = partial(measure_connects, Path(folder), restart, plugin, **numbers)
            counts = trio.run(measure)
        print(
            f"{restart.value}, {'TCP' if is_tcp else 'Unix'}: {counts.answered} answered, "
            f"{counts.refused} refused, {counts.cut} cut, by {len(counts.pids)} processes"
        )
        is_good &= counts.refused == 0 and (restart is Restart.KILL or counts.cut == 0)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
