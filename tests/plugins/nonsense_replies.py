"""A plugin that answers what the mesh asks of it with what makes no sense:
`python nonsense_replies.py KIND`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from math import inf, nan

from meshtrio.messages import health, load, logging, tap

LOAD, LEVEL, TAP = (
    "/meshtrio.v1.Load/Watch",
    "/meshtrio.v1.Logging/GetLevel",
    "/meshtrio.v1.Tap/Watch",
)
HEALTH = "/grpc.health.v1.Health/Check"
GARBAGE = b"\xff" * 1000
EMPTY_MESSAGES = b"\x0a\x00" * 2_000_000


def report(median: float, p99: float) -> bytes:
    found = load.LoadReport(started=2**64 - 1, failed=2**64 - 1, median=median, p99=p99)
    return bytes(found.SerializeToString())


def ended(**fields: object) -> bytes:
    found = tap.EndedCalls(calls=[tap.EndedCall(**fields)], missed=2**64 - 1)
    return bytes(found.SerializeToString())


ANSWERS: dict[str, dict[str, Iterable[bytes]]] = {
    "nan": {
        LOAD: [report(nan, inf)],
        TAP: [ended(method="m", time=nan, seconds=inf, status=-5, peer="\x1b[2J")],
        LEVEL: [b""],
    },
    "negative": {
        LOAD: [report(-1.0, -inf)],
        TAP: [ended(method="m", time=-inf, seconds=-1.0, status=2**31 - 1)],
        LEVEL: [logging.GetLevelResponse(level="\x1b[2J\n").SerializeToString()],
    },
    "garbage": {LOAD: [GARBAGE], TAP: [GARBAGE], LEVEL: [GARBAGE]},
    "not-utf8": {
        LOAD: [b"\x0a\x02\xff\xfe"],
        TAP: [b"\x0a\x04\x12\x02\xff\xfe"],
        LEVEL: [b"\x0a\x02\xff\xfe"],
    },
    "empty": {LOAD: [EMPTY_MESSAGES], TAP: [EMPTY_MESSAGES], LEVEL: [EMPTY_MESSAGES]},
    "long": {
        LOAD: [b"\x7a\x80\x80\xc0\x01" + b"x" * (3 * 2**20)],
        TAP: [b"\x7a\x80\x80\xc0\x01" + b"x" * (3 * 2**20)],
        LEVEL: [logging.GetLevelResponse(level="x" * 10_000).SerializeToString()],
    },
    "nothing": {LOAD: [], TAP: [], LEVEL: []},
    "twice": {LOAD: [b"", b""], TAP: [b"", b""], LEVEL: [b"", b""]},
}
HEALTHS = {
    "unknown": health.HealthCheckResponse(status=99).SerializeToString(),  # type: ignore[arg-type]
    "negative": b"\x08" + b"\xff" * 9 + b"\x01",
    "garbage": GARBAGE,
    "empty": EMPTY_MESSAGES,
}


def endlessly(answers: Iterable[bytes]) -> Iterator[bytes]:
    while True:
        yield from answers


def main(kind: str) -> None:
    from raw_grpcio_server import serve

    if kind.startswith("health-"):
        serve({HEALTH: lambda _: [HEALTHS[kind.removeprefix("health-")]]})
    elif kind == "flood":
        answers = ANSWERS["nan"]
        serve({path: lambda _, path=path: endlessly(answers[path]) for path in (LOAD, TAP)})
    else:
        serve({path: lambda _, said=said: said for path, said in ANSWERS[kind].items()})


if __name__ == "__main__":
    main(sys.argv[1])
