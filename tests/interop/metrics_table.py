"""Writes docs/reference/metrics-compared.md: `python -m tests.interop.metrics_table`.

It needs the Go program and the environment that `python -m tests.tools` makes. What is on the page
is what `test_metrics` asserts, and that test looks whether the page still says it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests import ROOT
from tests.interop.metrics.cases import CASES
from tests.interop.metrics.compare import EXPECTED_DIFFERENCES, comparable_series
from tests.interop.metrics.recordings import (
    CALL_DURATION,
    CLIENT,
    GRPC_GO,
    GRPCIO,
    MESHTRIO,
    SERVER,
    Recording,
    record_all,
)
from tests.interop.metrics.series import Series, SeriesValue
from tests.tools import GO_PROGRAMS, VIRTUAL_ENVIRONMENTS

PAGE = ROOT / "docs" / "reference" / "metrics-compared.md"
PAGE_HEADER = """\
# Metrics compared

What meshtrio's metrics of calls have in common with those of grpc-go and grpcio-observability, and
what differs. For users of dashboards and alerts that were made for other gRPC implementations, and
for all who want to know exactly what is counted. [Metrics](../how-to/metrics.md) says how to turn
them on.

`python -m tests.interop.metrics_table` makes this page from runs of the same calls by the three
implementations of gRFC A66. `tests/interop/test_metrics.py` repeats the runs, and checks that there
are no differences other than those below, and that this page is up to date.

Each implementation called itself, on a Unix socket. In addition, meshtrio and grpc-go called each
other: each side counted the same as with a peer of its own implementation, and both sides of each
call counted the same bytes.
"""
INSTRUMENTS = """\
## Instruments

Names, kinds, units, labels and bounds of buckets are the same in meshtrio and grpc-go. So are the
names, types, labels and bounds of the samples for Prometheus, which OpenTelemetry's exporter makes
for grpc-go. grpcio-observability has no `grpc.client.call.duration`, and uses OpenTelemetry's
default bounds (0, 5, 10, 25, …). All three count a call when it has ended, have no series of calls
that were never made, and have no labels other than these.

Bounds are those of gRFC A66: for latency 0, 0.00001, 0.00005, … 100 seconds, and for size 0, 1024,
2048, … 4294967296 bytes.
"""
CALLS = """\
## Calls

What each call added to the metrics, at the client and at the server:

- the number of attempts (client) or calls (server) that were started;
- the number of those that ended, by status, with the bytes of their messages sent and received;
- at the client, the status of the call.

Sizes are those of messages as they are sent: compressed, and without the five bytes of gRPC's
framing. "=" means the same as meshtrio; for grpcio-observability, apart from the status of the
call, which it does not count. The label grpc.target was `unix:///path`, and `dns:///127.0.0.1:1`
for calls without a server; grpc.method was the full name of the method, or `other`.
"""
DIFFERENCES = """\
## Differences

Values are numbers of calls or attempts, and for sizes also the sum of bytes. "…" is any text.
"""
FOOTER = """\
The tables do not show:

- **Durations.** They differ from run to run. The number of durations by status is compared.
- **The status of a deadline at the server.** A server's call ends with its own timer or with the
  caller's RST_STREAM, whichever comes first. Both statuses are right, and grpc-go and meshtrio
  report both. If the caller does not end the call, meshtrio always reports DEADLINE_EXCEEDED.
  grpc-go has two timers for the deadline, and reports either status even then.
- **Attempts that grpc-go's client reports as OK.** If the server answers before the request was
  sent, as for the unknown method, an attempt of grpc-go is sometimes OK although its call is
  UNIMPLEMENTED. In meshtrio, the attempt has the status of the answer.
- **grpc.target.** A channel to a service of a mesh has the target `mesh:///plugin.echo`, a scheme
  that gRPC does not have. A channel to an address has the same target as in grpc-go.
  grpcio-observability reports targets as they were given, although gRFC A66 requires the canonical
  form.
- **Calls that end by their caller, at grpcio-observability's server.** It counts them at some later
  time, with the status OK. They are not compared.
- **Further labels for Prometheus.** OpenTelemetry's exporter adds the metric `target_info`, and to
  each series the labels `otel_scope_name`, `otel_scope_version` and `otel_scope_schema_url`.
  meshtrio has no scopes.
- **Prometheus' text format.** OpenTelemetry's exporter writes bounds as `le="1024"`, and meshtrio
  as `le="1024.0"`, like prometheus_client, and as OpenMetrics requires. Prometheus 3 treats them
  alike. meshtrio writes HELP and TYPE of metrics without series, too. Its help texts are its own.
- **Retries (gRFC A96).** meshtrio measures them with `experimental`. The other two do not in these
  versions.
"""


# -- cells -------------------------------------------------------------------------------------


def cell(recording: Recording, case: str, side: str, *, calls: bool = True) -> str:
    """Return the series of a side for one call as text; with `calls`, the status as well."""
    if side not in recording.cases[case]:
        return "not compared"
    found = comparable_series(recording, case, side)
    about = "grpc.client.attempt" if side == CLIENT else "grpc.server.call"
    parts = [f"{_sum(found, f'{about}.started')} started"]
    sent = _by_status(found, f"{about}.sent_total_compressed_message_size")
    received = _by_status(found, f"{about}.rcvd_total_compressed_message_size")
    for status, value in sorted(_by_status(found, f"{about}.duration").items()):
        # Those of gzip are another in each version of zlib.
        sizes = "" if case == "gzip" else f" ({sent[status].total:g}, {received[status].total:g})"
        parts.append(f"{value.count} {status}{sizes}")
    if calls:
        parts += [f"call {status}" for status in _by_status(found, CALL_DURATION)]
    return "; ".join(parts)


def _sum(found: Series, metric: str) -> int:
    return sum(value.count for (name, _), value in found.items() if name == metric)


def _by_status(found: Series, metric: str) -> dict[str, SeriesValue]:
    """Of one method: no case calls two."""
    return {
        dict(labels)["grpc.status"]: value
        for (name, labels), value in found.items()
        if name == metric
    }


# -- tables ------------------------------------------------------------------------------------


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def prometheus_name(name: str, unit: str, kind: str) -> str:
    suffix = {"s": "_seconds", "By": "_bytes"}.get(unit, "")
    return f"{name.replace('.', '_')}{suffix}{'_total' if kind == 'counter' else ''}"


def instrument_rows(ours: Recording) -> Iterator[str]:
    for name, each in sorted(ours.instruments.items()):
        bounds = {"s": "latency", "By": "size"}.get(each.unit, "")
        labels = ", ".join(f"`{label}`" for label in sorted(each.labels))
        exposed = f"`{prometheus_name(name, each.unit, each.kind)}`"
        yield row(f"`{name}`", each.kind, f"`{each.unit}`", labels, bounds, exposed)


def call_rows(ours: Recording, *others: Recording) -> Iterator[str]:
    for case in CASES:
        for side in (CLIENT, SERVER):
            if side in ours.cases[case.name]:
                theirs = (_compared(ours, other, case.name, side) for other in others)
                mine = cell(ours, case.name, side)
                yield row(case.description if side == CLIENT else "", side, mine, *theirs)


def _compared(ours: Recording, other: Recording, case: str, side: str) -> str:
    mine, text = (cell(each, case, side, calls=other.client != GRPCIO) for each in (ours, other))
    return "=" if text == mine else text


def difference_rows() -> Iterator[str]:
    texts = {case.name: case.description for case in CASES} | {"*": "all"}
    for each in EXPECTED_DIFFERENCES:
        values = (value.replace("*", "…") for value in (each.ours, each.theirs))
        yield row(each.reference, texts[each.case], f"`{each.metric}`", *values, each.reason)


def render_page(ours: Recording, go: Recording, grpcio: Recording) -> str:
    instruments = instrument_rows(ours)
    calls = call_rows(ours, go, grpcio)
    parts = [
        PAGE_HEADER,
        table("compared with", "package", "version", rows=version_rows()),
        INSTRUMENTS,
        table("name", "kind", "unit", "labels", "bounds", "for Prometheus", rows=instruments),
        CALLS,
        table("call", "side", MESHTRIO, GRPC_GO, GRPCIO, rows=calls),
        DIFFERENCES,
        table("from", "call", "metric", MESHTRIO, "there", "why", rows=difference_rows()),
        FOOTER,
    ]
    return "\n".join(parts)


def table(*heads: str, rows: Iterator[str]) -> str:
    return "\n".join([row(*heads), row(*("---" for _ in heads)), *rows, ""])


def version_rows() -> Iterator[str]:
    """Return the pinned versions of the peers."""
    module = (GO_PROGRAMS["grpc-go-metrics"] / "go.mod").read_text()
    for name, version in re.findall(r"^\t(\S+) v(\S+)$", module, re.MULTILINE):
        yield row(GRPC_GO, f"`{name}`", version)
    for pinned in VIRTUAL_ENVIRONMENTS["grpcio-observability"]:
        name, _, version = pinned.partition("==")
        if version:
            yield row(GRPCIO, f"`{name}`", version)


def main() -> None:
    pairs = [(name, name) for name in (MESHTRIO, GRPC_GO, GRPCIO)]
    ours, go, grpcio = record_all(*pairs)
    PAGE.write_text(render_page(ours, go, grpcio))
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
