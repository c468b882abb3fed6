"""Docstrings are converted to what autodoc and napoleon take for the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from inspect import cleandoc

import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def convert() -> Callable[..., str]:
    path = ROOT / "docs" / "docstring_markup.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def convert(text: str, kind: str = "function") -> str:
        lines: list[str] = module.to_rest(cleandoc(text).split("\n"), kind)
        return "\n".join(lines)

    return convert


CASES = {
    "a name may be a link": ("Like `Mesh.stop`.", "Like :py:obj:`Mesh.stop`."),
    "other code is literal": ("As `a = [1]`, `x:y`.", "As ``a = [1]``, ``x:y``."),
    "code may span lines": ("In `async\nwith` it.", "In ``async\nwith`` it."),
    "text is escaped": ("a*b, c|d, end_ and a_b", r"a\*b, c\|d, end\_ and a_b"),
    "emphasis stays": ("It is *one* word.", "It is *one* word."),
    "links become text": ("See [logs](../logs.md).", "See logs."),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_inline_markup(text: str, expected: str, convert: Callable[..., str]) -> None:
    assert convert(text) == expected


def test_indented_code_is_highlighted_as_what_it_is(convert: Callable[..., str]) -> None:
    text = """
        Summary:

            async with m.connect(x) as channel: ...

        And:

            Error
              Other   some text `here`

        End.
        """
    expected = """
        Summary:

        .. code-block:: python

           async with m.connect(x) as channel: ...


        And:

        .. code-block:: text

           Error
             Other   some text `here`


        End.
        """
    assert convert(text) == cleandoc(expected)


def test_text_with_a_colon_has_no_type(convert: Callable[..., str]) -> None:
    text = """
        Do it.

        Args:
            name: The name: a text.

        Returns:
            One of two: this, that.

        Cancellation: ends the call: at once,
        if it can.

        Source: RFC 9113.
        """
    expected = """
        Do it.

        Args:
            name: The name: a text.

        Returns:
            : One of two: this, that.

        Cancellation:
            : ends the call: at once,
            if it can.

        Source:
            : RFC 9113.
        """
    assert convert(text) == cleandoc(expected)
    assert convert('The name: "x".', "attribute") == ': The name: "x".'
