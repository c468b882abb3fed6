"""What the RPC benchmark prints."""

from __future__ import annotations

import statistics
import sys
from typing import Any

import attrs

from tests.benchmarks.cases import CASES
from tests.benchmarks.processes import Figure

Results = dict[str, dict[str, Figure]]
"""Figures by case and peer."""


def report(text: str) -> None:
    """Show what is being measured, on a terminal."""
    if sys.stderr.isatty():
        print(f"\x1b[2K{text}", end="\r", file=sys.stderr, flush=True)


def median_figure(figures: list[Figure]) -> Figure:
    """Each value's median over the rounds."""
    columns = zip(*map(attrs.astuple, figures), strict=True)
    return Figure(*(None if None in column else statistics.median(column) for column in columns))


def to_json(results: Results) -> dict[str, Any]:
    """Figures as `Figure` has them, without latencies that were not measured."""
    return {
        case: {
            name: attrs.asdict(figure, filter=lambda _, value: value is not None)
            for name, figure in by_peer.items()
        }
        for case, by_peer in results.items()
    }


def table(results: Results) -> str:
    """A Markdown table for each case: rate, µs an operation, ratio, CPU on each side."""
    lines = []
    for case, by_peer in results.items():
        is_timed = any(figure.latency_median is not None for figure in by_peer.values())
        header = ["peer", "per second", *(["median", "99 %"] if is_timed else ["µs each"])]
        header += ["meshtrio is", "CPU client", "CPU server"]
        lines += ["", f"### {case}", "", _row(header)]
        lines += [_row(["---", *["---:"] * (len(header) - 1)])]
        base = by_peer.get("meshtrio")
        lines += [_row([name, *_cells(figure, base)]) for name, figure in by_peer.items()]
        if left_out := CASES[case].left_out:
            reasons = ", ".join(f"{name} ({why})" for name, why in left_out.items())
            lines += ["", f"Left out: {reasons}."]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(figure: Figure, base: Figure | None) -> list[str]:
    cpu = [f"{figure.client_cpu:,.0f} µs", f"{figure.server_cpu:,.0f} µs"]
    if figure.latency_median is not None and figure.latency_p99 is not None:
        # At a fixed rate it is the latency in which peers differ.
        latencies = [f"{figure.latency_median:,.0f} µs", f"{figure.latency_p99:,.0f} µs"]
        median = base.latency_median if base else None
        ratio = f"{figure.latency_median / median:.2f} ×" if median else "-"
        return [f"{figure.rate:,.0f}", *latencies, ratio, *cpu]
    ratio = f"{base.rate / figure.rate:.2f} ×" if base else "-"
    return [f"{figure.rate:,.0f}", f"{1e6 / figure.rate:,.0f}", ratio, *cpu]
