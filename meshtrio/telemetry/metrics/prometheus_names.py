"""Prometheus names of families, samples and labels. Pure.

They are those of OpenTelemetry's Prometheus exporter (OpenTelemetry specification, "Prometheus and
OpenMetrics Compatibility"): "grpc.server.call.duration" in "s" becomes
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


def unit_suffix(family: MetricFamily) -> str:
    """Return the suffix of a family's unit; "" for units without one in Prometheus."""
    return _UNIT_SUFFIXES.get(family.unit, "")


def metric_name(family: MetricFamily) -> str:
    """Return the name of a family, with its unit as a suffix."""
    name, unit = _sanitize(family.name, _INVALID_NAME_CHARS), unit_suffix(family)
    return name if not unit or name.endswith(f"_{unit}") else f"{name}_{unit}"


def reserved_names(family: MetricFamily) -> tuple[str, ...]:
    """Return the family's name, and the sample names that OpenMetrics reserves for it."""
    name = metric_name(family)
    return (name, *(name + suffix for suffix in _SAMPLE_SUFFIXES[family.kind]))


def label_name(name: str) -> str:
    """Return the name of a label."""
    return _sanitize(name, _INVALID_LABEL_CHARS)


def _sanitize(text: str, invalid_chars: re.Pattern[str]) -> str:
    """Replace the characters that Prometheus does not allow by underscores."""
    name = invalid_chars.sub("_", text)
    return name if name and not name[0].isdigit() else f"_{name}"
