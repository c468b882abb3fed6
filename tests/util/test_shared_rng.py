"""The random generator that everything in a process shares."""

from __future__ import annotations

import os

from meshtrio.util.shared_rng import RNG


def test_a_forked_process_draws_other_numbers() -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, repr(RNG.random()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with open(reader, "rb") as file:
        assert float(file.read()) != RNG.random()
