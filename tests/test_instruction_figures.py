"""The check of the instructions benchmark: what makes it fail, and what does not."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from tests.benchmarks.instructions.__main__ import BEFORE, NOW, table
from tests.benchmarks.instructions.cases import CASES
from tests.benchmarks.instructions.figures import (
    FIGURES_FILE,
    Count,
    Figures,
    check_figures,
    find_versions,
)

RECORDED = Figures(
    {"python": "CPython 3.11.7", "trio": "0.32.0"},
    {"unary": Count(300_000, 350_000), "gateway": Count(300_000, 350_000, 500_000)},
)


@pytest.fixture
def figures_file(tmp_path: Path) -> Path:
    file = tmp_path / "figures.json"
    file.write_text(RECORDED.to_json())
    return file


def check(file: Path, versions: dict[str, str], **counts: Count) -> tuple[bool, str]:
    """Check figures against a file; return the result and what is reported."""
    reported: list[str] = []
    passed = check_figures(Figures(versions, counts), file, reported.append)
    return passed, "\n".join(reported)


def test_growth_of_more_than_a_tenth_fails(figures_file: Path) -> None:
    grown = Count(365_100, 350_000)  # 715,100: just above a tenth
    passed, text = check(figures_file, dict(RECORDED.versions), unary=grown)
    assert not passed
    assert "unary: 650,000 -> 715,100 (+10%)" in text
    assert "more than 10% above figures.json" in text


def test_growth_of_the_gateway_alone_fails(figures_file: Path) -> None:
    grown = Count(300_000, 350_000, 620_000)
    passed, text = check(figures_file, dict(RECORDED.versions), gateway=grown)
    assert not passed
    assert "gateway: 1,150,000 -> 1,270,000 (+10%)" in text


@pytest.mark.parametrize("client", [100_000, 300_000, 364_000])
def test_less_or_little_more_passes(figures_file: Path, client: int) -> None:
    passed, text = check(figures_file, dict(RECORDED.versions), unary=Count(client, 350_000))
    assert passed
    assert text == "no figure is more than 10% above figures.json"


@pytest.mark.parametrize(
    ("versions", "difference"),
    [
        (
            {"python": "CPython 3.14.0", "trio": "0.32.0"},
            "CPython 3.14.0 instead of CPython 3.11.7",
        ),
        ({"python": "CPython 3.11.7"}, "trio none instead of 0.32.0"),
        ({**RECORDED.versions, "attrs": "25.4.0"}, "attrs 25.4.0 instead of none"),
    ],
)
def test_other_versions_are_not_compared(
    figures_file: Path, versions: dict[str, str], difference: str
) -> None:
    passed, text = check(figures_file, versions, unary=Count(900_000, 900_000))
    assert passed
    assert text == f"not compared with figures.json: {text.partition(': ')[2]}"
    assert difference in text


def test_a_case_without_a_figure_fails(figures_file: Path) -> None:
    passed, text = check(figures_file, dict(RECORDED.versions), new=Count(1, 1))
    assert not passed
    assert "new: no figure is recorded" in text


def test_a_missing_file_fails(tmp_path: Path) -> None:
    passed, text = check(tmp_path / "figures.json", {})
    assert not passed
    assert "--write makes it" in text


def test_recorded_figures_are_of_all_cases_and_versions() -> None:
    recorded = Figures.from_json(FIGURES_FILE.read_text())
    assert list(recorded.counts) == list(CASES)
    assert recorded.versions.keys() == find_versions("3.19.0").keys()
    for name, count in recorded.counts.items():
        assert count.client > 0
        assert count.server > 0
        assert (count.gateway > 0) == name.startswith("gateway")


def test_figures_are_read_as_they_were_written() -> None:
    assert attrs.asdict(Figures.from_json(RECORDED.to_json())) == attrs.asdict(RECORDED)


def test_the_table_has_the_ratio_to_an_earlier_revision() -> None:
    results = {NOW: {"unary": Count(100, 200)}, BEFORE: {"unary": Count(300, 300)}}
    assert table(results).splitlines()[-1] == "| unary | 100 | 200 |  | 300 | 600 | 0.50 |"
