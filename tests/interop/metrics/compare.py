"""What differs between meshtrio and a reference, and which of it may, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch

import attrs
from prometheus_client.parser import text_string_to_metric_families as parsed

from tests.interop.metrics.cases import CASES
from tests.interop.metrics.recordings import CLIENT, GRPC_GO, GRPCIO, SERVER, Recording
from tests.interop.metrics.series import Series, SeriesKey, SeriesValue, replace_label_values

DEADLINE_OR_CANCELLED = "DEADLINE_EXCEEDED or CANCELLED"
FULL_TARGETS = {"unix:/socket": "unix:///socket", "127.0.0.1:1": "dns:///127.0.0.1:1"}
"""What grpcio says, and what is meant."""
NOTHING = "nothing"


@attrs.frozen
class Difference:
    """One series of one call that is not the same in both."""

    case: str
    side: str
    metric: str
    ours: str
    theirs: str


@attrs.frozen
class ExpectedDifference:
    """Differences that may be. All but the reason are patterns, as in file names."""

    reference: str
    case: str
    side: str
    metric: str
    ours: str
    theirs: str
    reason: str

    def matches(self, found: Difference) -> bool:
        return all(
            fnmatch(getattr(found, field.name), getattr(self, field.name))
            for field in attrs.fields(Difference)
        )


EXPECTED_DIFFERENCES = (
    ExpectedDifference(
        GRPC_GO,
        "gzip",
        "*",
        "*_message_size",
        "1, * bytes",
        "1, * bytes",
        "Go's gzip and Python's zlib compress the same message to different lengths. Both sides of "
        "a call count the same bytes.",
    ),
    ExpectedDifference(
        GRPC_GO,
        "unknown",
        SERVER,
        "grpc.server.call.*",
        "1*",
        NOTHING,
        "grpc-go counts the start of a call of an unknown method, and not its end. gRFC A66 makes "
        "no such exception, and grpcio counts both, as meshtrio does.",
    ),
    ExpectedDifference(
        GRPC_GO,
        "nobody_retried",
        CLIENT,
        "grpc.client.attempt.started",
        "1",
        "5",
        "grpc-go makes three attempts, and counts the start of those that follow a failure to "
        "connect twice; two of the five starts have no end.",
    ),
    ExpectedDifference(
        GRPC_GO,
        "nobody_retried",
        CLIENT,
        "grpc.client.attempt.*",
        "1*",
        "3*",
        "In meshtrio, a retry policy applies to attempts that had an endpoint: a call with "
        "wait_for_ready=False that finds none fails at once. In gRPC such an attempt may be "
        "retried.",
    ),
    ExpectedDifference(
        GRPCIO,
        "nobody_retried",
        CLIENT,
        "grpc.client.attempt.*",
        "1*",
        "3*",
        "As with grpc-go.",
    ),
    ExpectedDifference(
        GRPCIO,
        "*",
        CLIENT,
        "grpc.client.call.duration",
        "1",
        NOTHING,
        'grpcio-observability does not have this metric ("not required yet").',
    ),
    ExpectedDifference(
        GRPCIO,
        "gzip",
        "*",
        "*_message_size",
        "1, * bytes",
        "1, * bytes",
        "As with grpc-go, on machines where the zlibs of Python and grpcio compress differently.",
    ),
)
OPTIONAL_DIFFERENCES = frozenset({(GRPCIO, "gzip")})
"""Explained differences that depend on the machine."""


def expected_differences(reference: str) -> Iterator[ExpectedDifference]:
    return (each for each in EXPECTED_DIFFERENCES if each.reference == reference)


# -- series ------------------------------------------------------------------------------------


def comparable_series(recording: Recording, case: str, side: str) -> Series:
    """Return the series of a side for a call, without those that depend on which side was first.

    A server's own deadline and its caller's RST_STREAM come at the same time. grpc-go's client has
    an attempt be OK now and then where the server has answered, by whatever status, before the
    request was sent; the call itself has the status.
    """
    found = recording.cases[case][side]
    found = replace_label_values(found, "grpc.target", FULL_TARGETS)
    if side == SERVER and case.startswith("deadline"):
        found = replace_label_values(
            found,
            "grpc.status",
            dict.fromkeys(DEADLINE_OR_CANCELLED.split(" or "), DEADLINE_OR_CANCELLED),
        )
    if side == CLIENT and case == "unknown" and recording.client == GRPC_GO:
        found = replace_label_values(found, "grpc.status", {"OK": "UNIMPLEMENTED"})
    return found


def find_differences(
    ours: Recording, theirs: Recording, sides: Sequence[str] = (CLIENT, SERVER)
) -> list[Difference]:
    """All there are, in what both were asked for. Buckets are compared where they are the same."""
    found = []
    for case in CASES:
        for side in sides:
            if side in ours.cases[case.name] and side in theirs.cases[case.name]:
                one, other = (
                    comparable_series(ours, case.name, side),
                    comparable_series(theirs, case.name, side),
                )
                for key in sorted(one.keys() | other.keys()):
                    if not _same(key, ours, one, theirs, other):
                        values = _text(one, key), _text(other, key)
                        found.append(Difference(case.name, side, key[0], *values))
    return found


def _same(key: SeriesKey, ours: Recording, one: Series, theirs: Recording, other: Series) -> bool:
    a, b = one.get(key), other.get(key)
    if a is None or b is None:
        return False
    if ours.instruments[key[0]].bounds == theirs.instruments[key[0]].bounds:
        return a == b
    return (a.count, a.total) == (b.count, b.total)


def _text(found: Mapping[SeriesKey, SeriesValue], key: SeriesKey) -> str:
    return str(found[key]) if key in found else NOTHING


# -- Prometheus --------------------------------------------------------------------------------


@attrs.frozen
class Shape:
    """The properties that all samples of a name share in Prometheus' text."""

    kind: str
    labels: frozenset[str]
    bounds: frozenset[float]


def parse_shapes(text: str) -> dict[str, Shape]:
    """Return shapes by name, without target_info and otel_scope_* of OpenTelemetry's exporter."""
    kinds: dict[str, str] = {}
    labels: defaultdict[str, set[str]] = defaultdict(set)
    bounds: defaultdict[str, set[float]] = defaultdict(set)
    for metric in parsed(text):
        for sample in metric.samples:
            if sample.name != "target_info":
                kinds[sample.name] = metric.type
                labels[sample.name] |= {n for n in sample.labels if not n.startswith("otel_scope")}
                bounds[sample.name] |= {float(v) for n, v in sample.labels.items() if n == "le"}
    return {
        name: Shape(kind, frozenset(labels[name]), frozenset(bounds[name]))
        for name, kind in kinds.items()
    }
