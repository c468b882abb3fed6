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

Made by `python -m tests.interop.metrics_table`, from runs of the same calls by meshtrio and two
other implementations of gRFC A66. `tests/interop/test_metrics.py` makes the same runs, asserts that
everything is equal but for what is explained below, and that this page says so.

Each implementation called itself, on a Unix socket. meshtrio was also called by grpc-go and called
grpc-go: each side then counted what it counts with one of its own, and both sides of each call the
same bytes.
"""
INSTRUMENTS = """\
## Instruments

Names, kinds, units, labels and bounds are the same in meshtrio and grpc-go, and so are the names,
types, labels and bounds of the samples that OpenTelemetry's exporter makes of grpc-go's metrics for
Prometheus. grpcio-observability has no `grpc.client.call.duration`, and leaves the bounds to
OpenTelemetry's defaults (0, 5, 10, 25, …). All of them count each call when it has ended, have no
series for what never happened, and no labels but these.

Latency is 0, 0.00001, 0.00005, … 100 seconds; size is 0, 1024, 2048, … 4294967296 bytes, as gRFC
A66 lists them.
"""
CALLS = """\
## Calls

What each of them has added, first at the client, then at the server: attempts or calls that were
started; those that ended, by status, with the bytes of their messages sent and received; and the
status of the call. Sizes are those of messages as they are on the wire, compressed, without their
five bytes of framing. "=" is the same as meshtrio; grpcio-observability's is without the status of
the call, which it does not count. The label grpc.target was `unix:///path`, and
`dns:///127.0.0.1:1` where nobody listens; grpc.method the full name, or `other`.
"""
DIFFERENCES = "## Differences\n"
FOOTER = """\
What cannot be in a table of numbers:

- **Durations** are never the same. How many there are of each status is compared.
- **A deadline at the server.** What comes first ends the call there: its own timer, or the caller's
  RST_STREAM. Either status is right, and grpc-go and meshtrio tell both. Where the caller stays,
  meshtrio always says DEADLINE_EXCEEDED; grpc-go, which has two timers for it, still says either.
- **A call of grpc-go's that is answered before its request was sent** (that of the unknown method)
  has now and then an attempt that is OK, in a call that is UNIMPLEMENTED. meshtrio's attempt has
  the status of the answer.
- **grpc.target.** A channel by a service's name is `mesh:///plugin.echo`, which gRPC has no scheme
  for; one to an address has what grpc-go makes of it. grpcio-observability tells targets as they
  were given, where gRFC A66 has them canonical.
- **grpcio-observability's server** counts a call that its caller has ended at some later time, and
  with the status OK. The table does not have those calls.
- **Prometheus.** OpenTelemetry's exporter adds `target_info`, and `otel_scope_name`,
  `otel_scope_version` and `otel_scope_schema_url` to every series. meshtrio has no scopes to tell.
  In the text form bounds are `le="1024"` there, and `le="1024.0"` here, as prometheus_client writes
  them and OpenMetrics asks for, which Prometheus prefers; Prometheus 3 makes them one. A metric
  without series has its HELP and TYPE here. The texts of HELP are our own.
- **Retries (gRFC A96)** are told by meshtrio with `experimental`. Neither reference has them in
  these versions.
"""


# -- cells -------------------------------------------------------------------------------------


def cell(recording: Recording, case: str, side: str, *, calls: bool = True) -> str:
    """Return the series of a side for one call as text; with `calls`, the status as well."""
    if side not in recording.cases[case]:
        return "not asked"
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
