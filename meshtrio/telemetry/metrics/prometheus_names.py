"""Names in Prometheus: what families, their samples and their labels are called there. Pure.

Names and units become those that OpenTelemetry's exporter for Prometheus gives them (OpenTelemetry
specification, "Prometheus and OpenMetrics Compatibility"): "grpc.server.call.duration" in "s" is
grpc_server_call_duration_seconds.
"""

from __future__ import annotations

import re

from meshtrio.telemetry.metric_families import MetricFamily, MetricKind

_UNIT_SUFFIXES = {"s": "seconds", "By": "bytes", "1": "ratio"}
_INVALID_NAME_CHARS = re.compile(r"[^a-zA-Z0-9_:]")
_INVALID_LABEL_CHARS = re.compile(r"[^a-zA-Z0-9_]")
_SAMPLE_SUFFIXES = {
    MetricKind.COUNTER: ("_total", "_created"),
    MetricKind.GAUGE: (),
    MetricKind.HISTOGRAM: ("_bucket", "_count", "_sum", "_created"),
}


def prometheus_unit(family: MetricFamily) -> str:
    """Its unit as a suffix of its name, "" for one that has none in Prometheus."""
    return _UNIT_SUFFIXES.get(family.unit, "")


def prometheus_name(family: MetricFamily) -> str:
    name, unit = _sanitize(family.name, _INVALID_NAME_CHARS), prometheus_unit(family)
    return name if not unit or name.endswith(f"_{unit}") else f"{name}_{unit}"


def reserved_names(family: MetricFamily) -> tuple[str, ...]:
    """Its own name first, then those of its samples, as OpenMetrics reserves them."""
    name = prometheus_name(family)
    return (name, *(name + suffix for suffix in _SAMPLE_SUFFIXES[family.kind]))


def prometheus_label_name(name: str) -> str:
    return _sanitize(name, _INVALID_LABEL_CHARS)


def _sanitize(text: str, invalid_chars: re.Pattern[str]) -> str:
    """One that Prometheus takes, without the characters that it does not."""
    name = invalid_chars.sub("_", text)
    return name if name and not name[0].isdigit() else f"_{name}"
