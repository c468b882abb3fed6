"""Names in Prometheus: what families, their samples and their labels are called there. Pure.

Names and units become those that OpenTelemetry's exporter for Prometheus gives them (OpenTelemetry
specification, "Prometheus and OpenMetrics Compatibility"): "grpc.server.call.duration" in "s" is
grpc_server_call_duration_seconds.
"""

from __future__ import annotations

import re

from meshtrio.telemetry.families import Family, Kind

_UNITS = {"s": "seconds", "By": "bytes", "1": "ratio"}
_NOT_IN_A_NAME = re.compile(r"[^a-zA-Z0-9_:]")
_NOT_IN_A_LABEL = re.compile(r"[^a-zA-Z0-9_]")
_SUFFIXES = {
    Kind.COUNTER: ("_total", "_created"),
    Kind.GAUGE: (),
    Kind.HISTOGRAM: ("_bucket", "_count", "_sum", "_created"),
}


def unit_of(family: Family) -> str:
    """Its unit as a suffix of its name, "" for one that has none in Prometheus."""
    return _UNITS.get(family.unit, "")


def name_of(family: Family) -> str:
    name, unit = _mended(family.name, _NOT_IN_A_NAME), unit_of(family)
    return name if not unit or name.endswith(f"_{unit}") else f"{name}_{unit}"


def names_taken_by(family: Family) -> tuple[str, ...]:
    """Its own name first, then those of its samples, as OpenMetrics reserves them."""
    name = name_of(family)
    return (name, *(name + suffix for suffix in _SUFFIXES[family.kind]))


def label_name(name: str) -> str:
    return _mended(name, _NOT_IN_A_LABEL)


def _mended(text: str, others: re.Pattern[str]) -> str:
    """One that Prometheus takes, without the characters that it does not."""
    name = others.sub("_", text)
    return name if name and not name[0].isdigit() else f"_{name}"
