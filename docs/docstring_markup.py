"""Converts the docstrings of meshtrio to reST.

They have the sections of Google's style, and the inline markup of Markdown: `code`, *emphasis*,
[links](target), and blocks of code that are indented by four spaces. autodoc expects reST, and
napoleon, which reads the sections, takes the text before a colon for a type.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

SECTIONS = ("Args", "Returns", "Yields", "Raises", "Cancellation", "Source")
_UNTYPED_SECTIONS = ("Returns", "Yields", "Cancellation", "Source")
"""Sections that have only text."""
_VALUES = ("attribute", "property", "data")
"""Kinds of objects whose docstring napoleon splits at a colon."""

_ONE_LINE_SECTION = re.compile(r"( *)(Cancellation|Source): (\S.*)")
_SPAN = re.compile(r"`([^`]+)`")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*(?:\(\))?")
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_EMPHASIS = re.compile(r"(?<![\w*])\*[^\s*][^*\n]*\*(?![\w*])")
_MARKUP = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")


def to_rest(lines: list[str], kind: str) -> list[str]:
    """Convert the lines of a docstring."""
    converted: list[str] = []
    for is_code, chunk in _chunks(_expand_sections(lines)):
        if is_code:
            converted += [*_code_directive(chunk), ""]
        else:
            converted += _convert_inline("\n".join(chunk)).split("\n")
    return _guard_colons(converted, kind)


def _expand_sections(lines: list[str]) -> list[str]:
    """Make sections of paragraphs such as "Source: RFC 9113."."""
    expanded: list[str] = []
    margin = ""
    for line in lines:
        found = _ONE_LINE_SECTION.fullmatch(line)
        if found and not (expanded and expanded[-1].strip()):
            margin = "    "
            expanded += [f"{found[1]}{found[2]}:", f"{found[1]}    {found[3]}"]
        else:
            margin = margin if line.strip() else ""
            expanded.append(f"{margin}{line}")
    return expanded


def _chunks(lines: list[str]) -> Iterator[tuple[bool, list[str]]]:
    """Yield blocks of code, and what is between them."""
    text: list[str] = []
    rest = [*lines]
    while rest:
        line = rest.pop(0)
        if not _starts_code(line, text):
            text.append(line)
            continue
        yield False, text
        indent = _indent(line)
        code, text = [line], []
        while rest and (not rest[0].strip() or _indent(rest[0]) >= indent):
            code.append(rest.pop(0))
        yield True, code
    yield False, text


def _starts_code(line: str, text: list[str]) -> bool:
    """Decide whether a line, after a blank one, is indented by four more than the text above."""
    if not line.strip() or not text or text[-1].strip():
        return False
    above = next((each for each in reversed(text) if each.strip()), None)
    if above is None or above.strip().rstrip(":") in SECTIONS:
        return False
    return _indent(line) >= _indent(above) + 4


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _code_directive(code: list[str]) -> list[str]:
    indent = _indent(code[0])
    body = [line[indent:] for line in code]
    margin = " " * (indent - 4)
    directive = f"{margin}.. code-block:: {'python' if _is_python(body) else 'text'}"
    return [directive, "", *(f"{margin}   {line}" if line else "" for line in body)]


def _is_python(code: list[str]) -> bool:
    try:
        compile("\n".join(code), "docstring", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError:
        return False
    return True


def _convert_inline(text: str) -> str:
    converted, end = [], 0
    for span in _SPAN.finditer(text):
        converted += [_convert_text(text[end : span.start()]), _convert_code(span[1])]
        end = span.end()
    return "".join([*converted, _convert_text(text[end:])])


def _convert_code(code: str) -> str:
    """Make code a link if it may be a name that is documented."""
    return f":py:obj:`{code}`" if _NAME.fullmatch(code) else f"``{code}``"


def _convert_text(text: str) -> str:
    text = _LINK.sub(r"\1", text)
    converted, end = [], 0
    for emphasis in _EMPHASIS.finditer(text):
        converted += [_escape(text[end : emphasis.start()]), emphasis[0]]
        end = emphasis.end()
    return "".join([*converted, _escape(text[end:])])


def _escape(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", text)


def _guard_colons(lines: list[str], kind: str) -> list[str]:
    """Put a colon before text that has no type, so that napoleon does not look for one in it."""
    guarded = [*lines]
    if kind in _VALUES and guarded:
        guarded[0] = f": {guarded[0]}"
    for number, line in enumerate(lines[:-1]):
        if line.strip().endswith(":") and line.strip()[:-1] in _UNTYPED_SECTIONS:
            following = lines[number + 1]
            margin = " " * _indent(following)
            guarded[number + 1] = f"{margin}: {following.strip()}"
    return guarded
