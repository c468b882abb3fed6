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


def methods() -> bytes:
    """More methods than there may be, with all that may be wrong with them."""
    names = ("\x1b[2J", "x" * 1000, "", *(f"a.B/M{number}" for number in range(200)))
    most = 2**64 - 1
    found = [
        load.MethodLoad(
            method=name,
            started=most if number % 2 else 1,
            in_flight=most if number % 3 == 0 else 2**40,
            ended={number: most if number % 5 == 0 else 1, 2**32 - 1: 1},
            latency=[2**32 - 1] * (number % 200),
        )
        for number, name in enumerate(names)
    ]
    return bytes(load.LoadReport(methods=found).SerializeToString())


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
    "methods": {LOAD: [methods()], TAP: [b""], LEVEL: [b""]},
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
