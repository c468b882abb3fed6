"""A plugin that tells metrics no Prometheus could read: `python malformed_metrics.py KIND`.

All but `huge` also tells good ones, and `bystander` only these.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from math import inf, nan
from typing import Any

from raw_grpcio_server import serve

from meshtrio.messages import metrics

COUNTER = metrics.METRIC_KIND_COUNTER
GAUGE = metrics.METRIC_KIND_GAUGE
HISTOGRAM = metrics.METRIC_KIND_HISTOGRAM


def family(name: str, kind: Any, *points: Any, **fields: Any) -> Any:
    return metrics.MetricFamily(name=name, kind=kind, points=points, **fields)


def point(value: float, *labels: tuple[str, str], counts: tuple[int, ...] = ()) -> Any:
    made = [metrics.MetricLabel(name=name, value=text) for name, text in labels]
    return metrics.MetricPoint(value=value, labels=made, counts=counts)


def good() -> Iterator[Any]:
    yield family("good.count", COUNTER, point(7, ("of", "all")), text="Good.")
    yield family("good.level", GAUGE, point(nan, ("of", "a")), point(-inf, ("of", "b")))
    yield family("good.took", HISTOGRAM, point(3, counts=(1, 2)), unit="s", bounds=[1])


def names() -> Iterator[Any]:
    """Families with the mesh's own names, and with names that clash with one another."""
    yield family("mesh.uptime", GAUGE, point(1), unit="s")
    yield family("mesh.instance.state", GAUGE, point(1, ("state", "ready")))
    yield family("mesh.collection.failures", COUNTER, point(1))
    yield family("good.count.total", GAUGE, point(1))
    yield family("good.took.seconds.bucket", GAUGE, point(1, ("le", "5")))
    yield family("good.took_seconds_sum", COUNTER, point(1))
    yield family("x" * 300, GAUGE, point(1))
    yield family("", GAUGE, point(1))
    yield family("kindless", 17, point(1))


def kinds() -> Iterator[Any]:
    yield family("grpc.server.call.duration", GAUGE, point(1), unit="s")
    yield family("good_count", GAUGE, point(1))
    yield family("good.level", COUNTER, point(1))


def labels() -> Iterator[Any]:
    yield family(
        "labelled",
        GAUGE,
        point(1, ("a", "1"), ("a", "2")),
        point(1, ("a.b", "1"), ("a_b", "2")),
        point(1, ("__name__", "mesh_uptime_seconds")),
        point(1, ("plugin", "other"), ("exported_plugin", "third")),
        point(1, ("nul", "a\0b")),
        point(1, *((f"l{number}", "x") for number in range(100))),
        point(1, ("long", "x" * 5000)),
        point(1, ("fine", 'quoted "\\\n\r\x1b\u2028')),
    )
    yield family("bucketed", HISTOGRAM, point(1, ("le", "3"), counts=(1, 2)), bounds=[1])


def values() -> Iterator[Any]:
    yield family("count", COUNTER, point(nan), point(-1, ("a", "")), point(inf, ("b", "1")))
    for number, (bounds, counts, total) in enumerate(
        (
            ((2.0, 1.0), (1, 1, 1), 1.0),
            ((nan,), (1, 1), 1.0),
            ((inf,), (1, 1), 1.0),
            ((1.0,), (1,), 1.0),
            ((1.0,), (), 1.0),
            ((1.0,), (1, 1), nan),
            ((1.0,), (1, 1), -5.0),
            (tuple(map(float, range(300))), (1,) * 301, 5.0),
        )
    ):
        yield family(f"h{number}", HISTOGRAM, point(total, counts=counts), bounds=bounds)
    yield family("below", HISTOGRAM, point(-5.0, counts=(2**63, 2**63)), bounds=[-1.0])
    yield family("large", COUNTER, point(1.7e308, ("n", "1")), point(5e-324, ("n", "2")))


def duplicates() -> Iterator[Any]:
    yield family("twice", GAUGE, point(1), point(2))
    yield family("twice", GAUGE, point(3))
    yield family("twice", GAUGE, point(4, ("empty", "")))
    yield family("tw.ice", GAUGE, point(1))
    yield family("tw_ice", GAUGE, point(2))
    yield family("good_count", COUNTER, point(8, ("of", "all")))


def texts() -> Iterator[Any]:
    yield family("told", GAUGE, point(1), text="a\nb\r\0\\c\u2028 # TYPE x y\n" + "x" * 100_000)
    yield family('4 \n{x="1"} 5', GAUGE, point(1), text="\n", unit="\n# HELP")


def many() -> Iterator[Any]:
    """9,000 families, as a program with much to tell has."""
    for number in range(9000):
        yield family(f"one.of.many.{number}", GAUGE, point(number, ("a", "b")), text="One.")


KINDS: dict[str, Callable[[], Iterator[Any]]] = {
    each.__name__: each for each in (names, kinds, labels, values, duplicates, texts, many)
}
GARBAGE = {
    "huge": b"\x0a\x00" * 2_000_000,
    "points": b"\x0a\x80\x80\x80\x01\x0a\x01x\x10\x02" + b"\x32\x00" * (2**20 - 3) + b"\x10\x02",
    "broken": b"\x0a\x05abc",
    "fields": b"\x18\x01" * 2_000_000,
}


def answer(kind: str) -> bytes:
    if kind in GARBAGE:
        return GARBAGE[kind]
    bad = KINDS[kind]() if kind in KINDS else ()
    reply = metrics.CollectMetricsResponse(families=[*good(), *bad])
    return bytes(reply.SerializeToString())


if __name__ == "__main__":
    reply = answer(sys.argv[1])
    serve({"/meshtrio.v1.Metrics/Collect": lambda _: [reply]})
