"""Tables for people."""

from __future__ import annotations

import pytest

from meshtrio.cli.text_table import format_table, print_table


def test_columns_are_as_wide_as_their_longest_cell_and_numbers_are_right_aligned() -> None:
    rows = [("a", 1, "ready"), ("longer", 22, "failed")]
    assert format_table(("NAME", "PID", "STATE"), rows, coloured=False) == [
        "NAME    PID  STATE",
        "a         1  ready",
        "longer   22  failed",
    ]
    assert format_table(("NAME", "PID"), [], coloured=False) == ["NAME  PID"]


def test_wide_characters_take_two_cells_and_tabs_are_expanded() -> None:
    rows = [("漢字", "x"), ("a\tb", "y"), ("e\u0301", "z")]
    assert format_table(("NAME", "NOTE"), rows, coloured=False) == [
        "NAME       NOTE",
        "漢字       x",
        "a       b  y",
        "e\u0301          z",
    ]


def test_what_controls_a_terminal_is_escaped() -> None:
    _, line = format_table(("NAME",), [("\x1b[31m\n",)], coloured=True)
    assert line == r"\x1b[31m\n"


def test_titles_and_states_are_coloured_outside_of_their_padding() -> None:
    rows = [("ready", "ready"), ("failed", ""), ("odd", "")]
    assert format_table(("STATE", "REASON"), rows, coloured=True) == [
        "\x1b[1mSTATE\x1b[0m   \x1b[1mREASON\x1b[0m",
        "\x1b[32mready\x1b[0m   ready",
        "\x1b[1;31mfailed\x1b[0m",
        "odd",
    ]


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_that_have_them(
    variables: dict[str, str],
    coloured: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    print_table(["NAME"], [])
    assert capsys.readouterr().out == ("\x1b[1mNAME\x1b[0m\n" if coloured else "NAME\n")
